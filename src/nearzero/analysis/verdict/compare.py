"""One comparison: the costs of distance and of one family of intensity, and the finding by the rules."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.analysis.displacement import SIDES
from nearzero.analysis.verdict.rules import DIRECTIONS, LOSS, Finding, Measure, Rules, check_measure
from nearzero.errors import InputError
from nearzero.perturbations.families import Conduct, make_family
from nearzero.perturbations.noise import NOISES
from nearzero.statistics.differences import paired_differences
from nearzero.statistics.paired import (
    MOST_RUNS,
    effect_size,
    equivalence_test,
    minimum_effect_test,
    paired_t_test,
    sign_flip_test,
)
from nearzero.support.words import number_of

__all__ = ["Comparison", "compare", "costs", "decided"]

Floats = npt.NDArray[np.float64]
LEAST_DEVIATION = 0.25  # of the margin: the least standard deviation of D over runs that is believed
ROUNDING = 1e-9  # points or nats: two differences of costs count as equal up to this


@dataclass(frozen=True)
class Comparison:
    """Distance against one family of intensity, for one network at one displacement.

    Costs are what the measure of the rules loses against the unperturbed network, in percentage points, or by how
    much the cross-entropy rises, in nats; means over runs.

    Attributes:
        network, intensity, target: the network, the family of intensity and the displacement.
        n: the number of runs in which both reach the displacement.
        distance_cost, intensity_cost: the costs, means over these runs.
        difference: D, the mean over runs of the cost of distance minus that of intensity.
        low, high: the bounds of the 1 - 2 alpha interval of D (90 %); None if all differences are equal, or
            if n < 2.
        effect: Hedges' g_z; None in the same cases.
        no_effect: True if the upper 1 - alpha bounds of both costs' absolute values are below the margin.
        p: the p value of the rules' test; None if not tested.
        p_adjusted: p adjusted by Holm's method over all comparisons of the model, which decides.
        p_alone: the same over the comparisons of this network (of this layer of a model) alone.
        p_joint: the same over all comparisons of the table.
        p_sign_flip: the p value of the exact sign-flip test of D = 0; None for more than 20 runs.
        finding: the finding by the rules.
        words: the reason why a number is missing, if one is, and the runs that are degenerate.
    """

    network: str
    intensity: str
    target: float
    n: int
    distance_cost: float = float("nan")
    intensity_cost: float = float("nan")
    difference: float = float("nan")
    low: float | None = None
    high: float | None = None
    effect: float | None = None
    no_effect: bool = False
    p: float | None = None
    p_adjusted: float | None = None
    p_alone: float | None = None
    p_joint: float | None = None
    p_sign_flip: float | None = None
    finding: Finding = "not reached"
    words: str = ""


def costs(responses: xr.Dataset, measure: Measure = "accuracy") -> xr.DataArray:
    """Return the cost of each family, averaged over sides.

    It is unperturbed minus perturbed in points; for a cross-entropy, perturbed minus unperturbed in nats.

    The cost is NaN unless all sides of the family reach the displacement.

    Args:
        responses: the result of `nearzero.analysis.matched`; it may have further dimensions.
        measure: the variable whose loss is the cost, see `Rules`.

    Raises:
        InputError: an unknown measure, or responses without it.
    """
    check_measure(measure)
    if measure not in responses:
        labels = (
            "; without labels there is agreement alone: choose it as the measure"
            if "accuracy" in measure
            else f"; measure it with metrics=['accuracy', 'agreement', {LOSS!r}]"
            if measure.endswith(LOSS)
            else ""
        )
        raise InputError(f"these responses have no {measure}{labels}")
    if measure.endswith(LOSS):
        cost = responses[measure] - responses[f"unperturbed_{LOSS}"]
    else:
        whole = responses.unperturbed_accuracy if "accuracy" in measure else 1.0
        cost = 100.0 * (whole - responses[measure])
    sides = xr.DataArray([_has_sides(str(name)) for name in responses.family.values], dims=("family", "side"))
    used = cost.where(sides)
    return used.mean("side").where(used.notnull().sum("side") == sides.sum("side"))


def _has_sides(family: str) -> list[bool]:
    """Return which of `SIDES` a family has."""
    sides = ("above",) if family in NOISES else tuple(make_family(family, Conduct()).sides)
    return [side in sides for side in SIDES]


def compare(blank: Comparison, distance: Floats, intensity: Floats, rules: Rules) -> Comparison:
    """Return a comparison without its adjusted p values and final finding, which need the other comparisons.

    Args:
        blank: the network, the family of intensity and the displacement; and words on degenerate runs.
        distance, intensity: the costs of each run, (R,).
        rules: the rules.
    """
    present = np.isfinite(distance) & np.isfinite(intensity)
    first, second = distance[present], intensity[present]
    n = len(first)
    if not n:
        roles = {"distance": distance, blank.intensity: intensity}
        lost = [name for name, values in roles.items() if not np.isfinite(values).any()]
        missing = f"{' and '.join(lost) or 'no run'} doesn't reach it"
        return replace(blank, words=_joined(missing, blank.words))
    tost = equivalence_test(first, second, margin=rules.margin, alpha=rules.alpha, tolerance=ROUNDING)
    judged = n >= rules.minimum_runs
    few = f"{number_of(n, 'run')}, fewer than {rules.minimum_runs}"
    words = tost.reason if judged or (n > 1 and tost.reason) else few
    finding: Finding = "inconclusive" if judged else "description only"
    if n > 1 and tost.reason and rules.test == "minimum-effect":
        finding = "degenerate"
    return replace(
        blank,
        n=n,
        distance_cost=float(first.mean()),
        intensity_cost=float(second.mean()),
        difference=tost.mean_difference,
        low=tost.low,
        high=tost.high,
        effect=effect_size(first, second, tolerance=ROUNDING),
        no_effect=all(_within(cost, rules) for cost in (first, second)),
        p=_p_value(first, second, rules) if judged else None,
        p_sign_flip=sign_flip_test(first, second, tolerance=ROUNDING) if n <= MOST_RUNS else None,
        finding=finding,
        words=_joined(words, blank.words),
    )


def _within(cost: Floats, rules: Rules) -> bool:
    """Return True if the upper 1 - alpha bound of the absolute value of a mean cost is below the margin."""
    test = equivalence_test(cost, margin=rules.margin, alpha=rules.alpha, tolerance=ROUNDING)
    inside = abs(test.mean_difference) < rules.margin if test.equivalent is None else test.equivalent
    return bool(inside)


def _p_value(distance: Floats, intensity: Floats, rules: Rules) -> float | None:
    """Return the p value of the rules' test; None if all differences are equal."""
    if rules.test == "minimum-effect":
        least = LEAST_DEVIATION * rules.margin
        return minimum_effect_test(
            distance, intensity, margin=rules.margin, tolerance=ROUNDING, least_deviation=least
        )
    p = paired_t_test(distance, intensity, tolerance=ROUNDING).p
    if p is not None:
        return p
    if paired_differences(distance, intensity, tolerance=ROUNDING).all_zero:
        return 1.0
    return sign_flip_test(distance, intensity, tolerance=ROUNDING) if len(distance) <= MOST_RUNS else None


def _joined(*words: str) -> str:
    return "; ".join(filter(None, words))


def decided(comparison: Comparison, rules: Rules) -> Comparison:
    """Return a comparison, which has its adjusted p values, with its finding by the rules."""
    if comparison.p is None or comparison.p_adjusted is None:
        return comparison
    difference = comparison.difference
    low = difference if comparison.low is None else comparison.low
    high = difference if comparison.high is None else comparison.high
    equivalent = -rules.margin < low and high < rules.margin
    more: Finding = DIRECTIONS[0] if difference > 0 else DIRECTIONS[1]
    significant = comparison.p_adjusted < rules.alpha
    cases: list[tuple[bool, Finding]]
    if rules.test == "difference":  # the earlier rules
        matters = max(comparison.distance_cost, comparison.intensity_cost) >= rules.margin
        beyond = abs(difference) > rules.margin
        cases = [
            (matters and equivalent, "equivalent"),
            (significant and beyond, more),
            (not matters, "no effect"),
        ]
    else:
        cases = [(comparison.no_effect, "no effect"), (equivalent, "equivalent"), (significant, more)]
    finding: Finding = next((name for holds, name in cases if holds), "inconclusive")
    return replace(comparison, finding=finding)
