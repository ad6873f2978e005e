"""The verdict by rules fixed before the data: does distance or intensity cost more at equal displacement?

A verdict takes responses of several runs, as `nearzero.analysis.matched` measures them, and applies the rules
to them. By default, distance is a pure boundary shift, averaged over both sides; intensity is independent
gains, and a cap on activations. The paper's own offset, clip and scale are reported in addition and don't
decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.analysis.displacement import SIDES, TARGETS
from nearzero.errors import InputError, did_you_mean
from nearzero.evaluators.base import EARLIER_HALVES
from nearzero.perturbations.activations import ACTIVATIONS
from nearzero.perturbations.families import FAMILIES, Conduct, make_family
from nearzero.perturbations.noise import NOISES
from nearzero.statistics.multiplicity import holm
from nearzero.statistics.paired import (
    MINIMUM_RUNS,
    MOST_RUNS,
    effect_size,
    equivalence_test,
    paired_t_test,
    sign_flip_test,
)

__all__ = ["Comparison", "Finding", "Rules", "Verdict", "costs", "gathered", "judge", "verdict"]

# Findings of one comparison. The finding on a network is the first of these that any of its comparisons has.
Finding = Literal[
    "distance costs more",
    "intensity costs more",
    "inconclusive",
    "equivalent",
    "no effect to compare",
    "description only",
    "not reached",
]
Floats = npt.NDArray[np.float64]
Measure = Literal["accuracy", "centred_accuracy", "agreement", "centred_agreement"]
ROUNDING = 1e-9  # points: two differences of accuracies count as equal up to this


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules of a verdict.

    Attributes:
        distance: names of families. The cost of distance is the mean over these families and their sides.
        intensity: names of families. Each of them, averaged over its sides, is compared with distance
            separately.
        targets: the displacements at which they are compared.
        measure: the variable whose loss is the cost: "accuracy", "centred_accuracy", "agreement" or
            "centred_agreement". Without labels, use "agreement".
        margin: the smallest difference that matters, in percentage points.
        alpha: the family-wise error rate over all comparisons of the table (Holm), and the level of each
            one-sided test of equivalence.
        minimum_runs: the number of runs below which a comparison is described but not judged; at least six.

    Raises:
        InputError: an unknown family or measure, a family that is both distance and intensity, or a number
            out of range.

    Example:
        >>> import nearzero as nz
        >>> rules = nz.Rules(intensity=("gains",), margin=2.0)
        >>> rules.distance, rules.intensity, rules.margin
        (('shift',), ('gains',), 2.0)
        >>> rules.changed  # compared with the default rules
        {'intensity': ('gains',), 'margin': 2.0}
        >>> nz.Rules(measure="acuracy")
        Traceback (most recent call last):
        nearzero.errors.InputError: unknown measure 'acuracy': did you mean 'accuracy'? ...
    """

    distance: tuple[str, ...] = ("shift",)
    intensity: tuple[str, ...] = ("gains", "cap")
    targets: tuple[float, ...] = TARGETS
    measure: Measure = "accuracy"
    margin: float = 1.0
    alpha: float = 0.05
    minimum_runs: int = MINIMUM_RUNS

    def __post_init__(self) -> None:
        families = (*FAMILIES, *NOISES)
        for role in ("distance", "intensity"):
            names = getattr(self, role)
            if isinstance(names, str) or not names:
                raise InputError(f"{role} must name families, as a tuple, at least one; got {names!r}")
            for name in names:
                if name not in families:
                    hint = did_you_mean(name, families)
                    raise InputError(
                        f"{role} must name families; {name!r} isn't one: {hint}known are "
                        f"{', '.join(families)}"
                    )
        _check_measure(self.measure)
        requirements = {
            "targets": (
                bool(self.targets) and all(np.isfinite(target) and target > 0 for target in self.targets),
                "be positive displacements, 0.1 for 10 %",
            ),
            "margin": (0 < self.margin < 100, "be a positive number of percentage points"),
            "alpha": (0 < self.alpha < 0.5, "lie between 0 and 0.5"),
            "minimum_runs": (
                self.minimum_runs >= MINIMUM_RUNS,
                f"be at least {MINIMUM_RUNS}, since with fewer no sign-flip test can reach 0.05",
            ),
        }
        for name, (holds, requirement) in requirements.items():
            if not holds:
                value = getattr(self, name)
                raise InputError(
                    f"{name} must {requirement}; got {list(value) if np.iterable(value) else value}"
                )
        if set(self.distance) & set(self.intensity):
            raise InputError(
                "a family is either distance or intensity; got the same one in "
                f"{list(self.distance)} and {list(self.intensity)}"
            )

    @property
    def changed(self) -> dict[str, Any]:
        """Return the rules that differ from the default ones, by name."""
        default = Rules()
        return {name: value for name, value in vars(self).items() if value != getattr(default, name)}

    @property
    def notices(self) -> tuple[str, ...]:
        """Return the notices that a reader of the verdict needs; none for the default rules."""
        changed = ", ".join(self.changed)
        return (f"these rules aren't the default ones: {changed} changed",) if changed else ()


@dataclass(frozen=True)
class Comparison:
    """Distance against one family of intensity, for one network at one displacement.

    Costs are the loss of accuracy against the unperturbed network, in percentage points, means over runs.

    Attributes:
        network, intensity, target: the network, the family of intensity and the displacement.
        n: the number of runs in which both reach the displacement.
        distance_cost, intensity_cost: the costs, means over these runs.
        difference: D, the mean over runs of the cost of distance minus that of intensity.
        low, high: the bounds of the 1 - 2 alpha interval of D (90 %); None if all differences are equal, or
            if n < 2.
        effect: Hedges' g_z; None in the same cases.
        p: the p value of the paired t-test, or of the sign-flip test if all differences are equal. None if
            not tested.
        p_adjusted: the p value adjusted by Holm's method over all comparisons that were tested.
        p_sign_flip: the p value of the exact sign-flip test; None for more than 20 runs.
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
    p: float | None = None
    p_adjusted: float | None = None
    p_sign_flip: float | None = None
    finding: Finding = "not reached"
    words: str = ""


@dataclass(frozen=True, eq=False)
class Verdict:
    """The verdict on one or more networks.

    Attributes:
        rules: the rules that were applied.
        comparisons: all comparisons, network by network.
        left_out: by network, the reasons why families of intensity were left out: their curve is flat by
            construction.
        costs: the cost of every family at every displacement, in points, on (network, run, family, target).
        halves: the rule by which the examples were cut in halves; "" if it isn't known.

    Example:
        >>> import nearzero as nz
        >>> network = nz.TwoLayer([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.5], "abs")
        >>> x, y = [[1.0], [1.5], [-2.0], [-2.5], [0.25], [0.75], [-3.0], [-1.0]], [1] * 8
        >>> run = nz.matched(network, x, y, design=nz.Design(targets=(0.1,)))
        >>> found = nz.verdict([run], nz.Rules(targets=(0.1,)))
        >>> found.networks, [comparison.intensity for comparison in found.comparisons]
        (('abs',), ['gains', 'cap'])
        >>> found.of("abs")  # a single run isn't judged
        'description only (description only 2; of 2)'
    """

    rules: Rules
    comparisons: tuple[Comparison, ...]
    left_out: dict[str, tuple[str, ...]]
    costs: xr.DataArray
    halves: str = ""

    @property
    def networks(self) -> tuple[str, ...]:
        """Return the names of the networks."""
        return tuple(dict.fromkeys(comparison.network for comparison in self.comparisons))

    def of(self, network: str) -> str:
        """Return the verdict on one network, in a line.

        A single finding in one direction is enough for that direction, since Holm's adjustment controls the
        error rate of all comparisons together at alpha. Findings in both directions are "mixed".

        Raises:
            InputError: a network that the verdict doesn't include.
        """
        own = [comparison for comparison in self.comparisons if comparison.network == network]
        if not own:
            hint = did_you_mean(network, self.networks)
            names = ", ".join(self.networks) or "no network"
            raise InputError(f"there is no verdict on network {network!r}: {hint}the verdict is on {names}")
        counts = Counter(comparison.finding for comparison in own)
        detail = ", ".join(f"{name} {count}" for name, count in counts.items())
        return f"{_overall(counts)} ({detail}; of {len(own)})"

    def text(self) -> str:
        """Return the verdict on all networks, and the rules, in lines."""
        rules = self.rules
        lines = [f"{network}: {self.of(network)}" for network in self.networks]
        tests = sum(comparison.p is not None for comparison in self.comparisons)
        lines.append(
            f"Rules: distance = {', '.join(rules.distance)}, both sides averaged; "
            f"intensity = {', '.join(rules.intensity)}; margin {rules.margin:g} points of "
            f"{rules.measure.replace('_', ' ')}; alpha {rules.alpha:g}, Holm over {tests} tests."
        )
        lines += [f"{notice.capitalize()}." for notice in rules.notices]
        for network, reasons in self.left_out.items():
            lines += [f"{network}: {reason}" for reason in reasons]
        if self.halves == EARLIER_HALVES:
            lines.append(
                f"The halves of the examples were cut {EARLIER_HALVES}; measured anew, they would differ."
            )
        return "\n".join(lines)


def _overall(counts: Mapping[Finding, int]) -> str:
    """Return the overall finding on one network, from the counts of its findings."""
    present = [name for name in get_args(Finding) if name in counts]
    both = {"distance costs more", "intensity costs more"} <= set(present)
    return "mixed" if both else str(present[0])


def costs(responses: xr.Dataset, measure: Measure = "accuracy") -> xr.DataArray:
    """Return the cost of each family, in points: unperturbed minus perturbed, averaged over sides.

    The cost is NaN unless all sides of the family reach the displacement.

    Args:
        responses: the result of `nearzero.analysis.matched`; it may have further dimensions.
        measure: the variable whose loss is the cost, see `Rules`.

    Raises:
        InputError: an unknown measure, or responses without it.
    """
    _check_measure(measure)
    if measure not in responses:
        labels = "; without labels there is agreement alone" if "accuracy" in measure else ""
        raise InputError(f"these responses have no {measure}{labels}")
    whole = responses.unperturbed_accuracy if "accuracy" in measure else 1.0
    cost = 100.0 * (whole - responses[measure])
    sides = xr.DataArray([_has_sides(str(name)) for name in responses.family.values], dims=("family", "side"))
    used = cost.where(sides)
    return used.mean("side").where(used.notnull().sum("side") == sides.sum("side"))


def _check_measure(measure: str) -> None:
    known = get_args(Measure)
    if measure not in known:
        hint = did_you_mean(measure, known)
        raise InputError(f"unknown measure {measure!r}: {hint}known are {', '.join(known)}")


def _has_sides(family: str) -> list[bool]:
    """Return which of `SIDES` a family has."""
    sides = ("above",) if family in NOISES else tuple(make_family(family, Conduct()).sides)
    return [side in sides for side in SIDES]


def judge(responses: xr.Dataset, rules: Rules | None = None) -> Verdict:
    """Return the verdict on the networks of several runs.

    Args:
        responses: the results of `nearzero.analysis.matched`, on (network, run, family, side, target). The
            names of the networks are those of their activations, unless there is a coordinate `activation`.
        rules: `Rules()` if None.

    Raises:
        InputError: responses in which a family or a displacement of the rules is missing.
    """
    rules = rules or Rules()
    all_costs = costs(responses, rules.measure)
    for name, wanted in (("family", (*rules.distance, *rules.intensity)), ("target", rules.targets)):
        missing = [value for value in wanted if value not in responses[name].values]
        if missing:
            raise InputError(
                f"the rules ask for {name} {missing[0]}, which wasn't measured; there is "
                f"{', '.join(map(str, responses[name].values))}"
            )
    left_out: dict[str, tuple[str, ...]] = {}
    compared = []
    for network in responses.network.values:
        own = all_costs.sel(network=network)
        distance = own.sel(family=list(rules.distance)).mean("family", skipna=False)
        kept, reasons = _deciders(_activation_of(responses, str(network)), rules)
        if reasons:
            left_out[str(network)] = reasons
        words = _degenerate(responses.sel(network=network))
        for target in rules.targets:
            for name in kept:
                pair = distance.sel(target=target).values, own.sel(family=name, target=target).values
                blank = Comparison(str(network), name, target, n=0, words=words)
                compared.append(_compare(blank, *pair, rules))
    adjusted = holm([comparison.p for comparison in compared]).tolist()
    decided = tuple(_decided(comparison, p, rules) for comparison, p in zip(compared, adjusted, strict=True))
    return Verdict(rules, decided, left_out, all_costs, str(responses.attrs.get("halves", "")))


def _activation_of(responses: xr.Dataset, network: str) -> str:
    """Return the activation of a network.

    It is the name of the network unless there is a coordinate `activation`, which networks with one
    activation need.
    """
    if "activation" not in responses.coords:
        return network
    return str(responses.activation.sel(network=network).item())


def _degenerate(responses: xr.Dataset) -> str:
    """Return how many runs of a network are degenerate, and in which way; "" if none is known to be."""
    if "reason" not in responses:  # measured before there was one
        return ""
    runs = responses.reason.values.ravel().tolist()
    counts = Counter(reason for reason in runs if reason and isinstance(reason, str))
    return "; ".join(f"{count} of {len(runs)} runs: {reason}" for reason, count in counts.items())


def _deciders(activation: str, rules: Rules) -> tuple[list[str], tuple[str, ...]]:
    """Return the families of intensity that may decide on a network, and the reasons why others may not."""
    registered = ACTIVATIONS.get(activation)
    homogeneous = registered is None or registered.homogeneous
    flat = [name for name in rules.intensity if name == "scale" and homogeneous]
    reason = "scale is left out: it's flat by construction, argmax(W2 a + b2 / s) for every s > 0"
    return [name for name in rules.intensity if name not in flat], (reason,) if flat else ()


def _compare(blank: Comparison, distance: Floats, intensity: Floats, rules: Rules) -> Comparison:
    """Return a comparison without its adjusted p value and final finding, which need the other comparisons.

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
    test = paired_t_test(first, second, tolerance=ROUNDING)
    flips = sign_flip_test(first, second, tolerance=ROUNDING) if n <= MOST_RUNS else None
    judged = n >= rules.minimum_runs
    words = test.reason if judged else f"{n} runs, fewer than {rules.minimum_runs}"
    p = test.p if test.p is not None else 1.0 if not np.abs(first - second).max() > ROUNDING else flips
    return replace(
        blank,
        n=n,
        distance_cost=float(first.mean()),
        intensity_cost=float(second.mean()),
        difference=tost.mean_difference,
        low=tost.low,
        high=tost.high,
        effect=effect_size(first, second, tolerance=ROUNDING),
        p=p if judged else None,
        p_sign_flip=flips,
        finding="inconclusive" if judged else "description only",
        words=_joined(words, blank.words),
    )


def _joined(*words: str) -> str:
    return "; ".join(filter(None, words))


def _decided(comparison: Comparison, p_adjusted: float, rules: Rules) -> Comparison:
    """Return a comparison with its adjusted p value and its finding by the rules."""
    if comparison.p is None:
        return comparison
    difference = comparison.difference
    low = difference if comparison.low is None else comparison.low
    high = difference if comparison.high is None else comparison.high
    matters = max(comparison.distance_cost, comparison.intensity_cost) >= rules.margin
    finding: Finding = "inconclusive"
    if matters and -rules.margin < low and high < rules.margin:
        finding = "equivalent"
    elif p_adjusted < rules.alpha and abs(difference) > rules.margin:
        finding = "distance costs more" if difference > 0 else "intensity costs more"
    elif not matters:
        finding = "no effect to compare"
    return replace(comparison, p_adjusted=p_adjusted, finding=finding)


def gathered(parts: Sequence[Sequence[xr.Dataset | None]], networks: Sequence[str]) -> xr.Dataset:
    """Return the responses of single networks as one float64 Dataset on (network, run, ...).

    Args:
        parts: for each network, the responses of each run. None stands for a run without responses, for
            example one that diverged; its values are NaN, and its words "". At least one run isn't None.
        networks: the names of the networks.
    """

    def number(values: xr.DataArray) -> xr.DataArray:
        return values if values.dtype.kind in "UO" else values.astype(np.float64)  # words stay words

    numbers = [[None if run is None else run.map(number) for run in runs] for runs in parts]
    first = next(run for runs in numbers for run in runs if run is not None)
    lost = first.map(lambda values: xr.full_like(values, "" if values.dtype.kind in "UO" else np.nan))
    rows = [
        xr.concat([lost if run is None else run for run in runs], "run", combine_attrs="drop_conflicts")
        for runs in numbers
    ]
    return xr.concat(rows, "network", combine_attrs="drop_conflicts").assign_coords(network=list(networks))


class Measured(Protocol):
    """A source of responses at matched displacement, on (network, run, ...) or (layer, ...)."""

    @property
    def matched(self) -> xr.Dataset: ...


@runtime_checkable
class Judged(Protocol):
    """A source that reaches a verdict itself, by its own rules if none are given: a study, a grid."""

    def verdict(self, rules: Rules | None = None) -> Verdict: ...


def verdict(
    source: Judged | Measured | xr.Dataset | Sequence[Measured | xr.Dataset], rules: Rules | None = None
) -> Verdict:
    """Return the verdict of the rules on whether distance or intensity costs more at equal displacement.

    Args:
        source: a study or a grid; or a sequence with one probe or one result of `nz.matched` for each run of a
            model, in order.
        rules: those of the study or the grid if None; for other sources, `Rules()`.

    Raises:
        InputError: a source without responses at matched displacement, runs that don't fit together, or
            responses in which a family or a displacement of the rules is missing.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> from nearzero.mechanisms.planted import distance_network, prototype_task
        >>> task = prototype_task(np.random.default_rng(0), examples=200)
        >>> networks = [distance_network(task, np.random.default_rng(run)) for run in range(6)]
        >>> design = nz.Design(families=("shift", "gains", "cap"), targets=(0.5,), draws=1)
        >>> runs = [nz.matched(network, task.x, task.y, design=design) for network in networks]
        >>> nz.verdict(runs, nz.Rules(targets=(0.5,))).of("abs")  # they measure distances
        'distance costs more (distance costs more 2; of 2)'
    """
    if isinstance(source, Judged):
        return source.verdict(rules)
    sources = source if isinstance(source, (list, tuple)) else [source]
    if not sources:
        raise InputError("a verdict needs at least one run; got none")
    runs = [_responses(run) for run in sources]
    first = runs[0]
    if len(runs) == 1 and {"network", "run"} <= set(first.dims):
        return judge(first, rules)
    for run in runs:
        for name in ("network", "family", "side", "target"):
            if not np.array_equal(run[name].values, first[name].values):
                raise InputError(
                    f"the runs don't fit together: {name} is {list(run[name].values)} in one and "
                    f"{list(first[name].values)} in another"
                )
    return judge(
        xr.concat(runs, "run", combine_attrs="drop_conflicts").transpose("network", "run", ...), rules
    )


def _responses(source: Any) -> xr.Dataset:
    """Return the responses of one run on a dimension `network`; the layers of a probe become networks."""
    responses = source if isinstance(source, xr.Dataset) else getattr(source, "matched", None)
    if not isinstance(responses, xr.Dataset) or not {"family", "side", "target"} <= set(responses.dims):
        raise InputError(
            "a verdict needs responses at matched displacement, as nz.matched gives them; got "
            f"{type(source).__name__}"
        )
    if "layer" in responses.dims:
        return responses.rename(layer="network")
    if "network" in responses.dims:
        return responses
    return responses.expand_dims(network=[str(responses.attrs.get("activation", "network"))])
