"""The verdict: does distance or intensity cost more accuracy at equal displacement? By rules that come before the data.

It takes responses of several runs, as `nearzero.analysis.matched` measures them, and decides nothing but what its
rules say. Distance is a pure boundary shift, both sides averaged; intensity is independent gains, and a cap on
activations. The paper's own offset, clip and scale are reported beside them and never decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.analysis.displacement import TARGETS
from nearzero.errors import InputError
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

__all__ = ["Comparison", "Finding", "Measured", "Rules", "Verdict", "costs", "gathered", "judge", "verdict"]

# Of one comparison. The first of these that a network's comparisons have is what is said of the network.
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
ROUNDING = 1e-9  # points: differences of accuracies no further apart are the same number


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a verdict is reached.

    Attributes:
        distance, intensity: names of families. The cost of distance is the mean over its families and their sides;
            each family of intensity is compared with it on its own, its sides averaged.
        targets: the displacements at which they are compared.
        measure: whose loss is the cost. Without labels, "agreement".
        margin: the difference that matters, in percentage points.
        alpha: family-wise, over all comparisons of the table (Holm); and of each one-sided test of equivalence.
        minimum_runs: fewer are described and not judged; at least six.

    Raises:
        InputError: rules that can't be.
    """

    distance: tuple[str, ...] = ("shift",)
    intensity: tuple[str, ...] = ("gains", "cap")
    targets: tuple[float, ...] = TARGETS
    measure: Measure = "accuracy"
    margin: float = 1.0
    alpha: float = 0.05
    minimum_runs: int = MINIMUM_RUNS

    def __post_init__(self) -> None:
        known = (*FAMILIES, *NOISES)
        name_families = f"name families, of {', '.join(known)}"
        must = {
            "distance": (bool(self.distance) and set(self.distance) <= set(known), name_families),
            "intensity": (bool(self.intensity) and set(self.intensity) <= set(known), name_families),
            "targets": (
                bool(self.targets) and all(np.isfinite(each) and each > 0 for each in self.targets),
                "be positive displacements, 0.1 for 10 %",
            ),
            "margin": (0 < self.margin < 100, "be a positive number of percentage points"),
            "alpha": (0 < self.alpha < 0.5, "lie between 0 and 0.5"),
            "minimum_runs": (
                self.minimum_runs >= MINIMUM_RUNS,
                f"be at least {MINIMUM_RUNS}, since with fewer no sign-flip test can reach 0.05",
            ),
        }
        for name, (holds, words) in must.items():
            if not holds:
                value = getattr(self, name)
                raise InputError(f"{name} must {words}; got {list(value) if np.iterable(value) else value}")
        if set(self.distance) & set(self.intensity):
            raise InputError(
                f"a family is either distance or intensity; {list(self.distance)} and {list(self.intensity)} meet"
            )

    @property
    def changed(self) -> dict[str, Any]:
        """The rules that aren't the default ones."""
        default = Rules()
        return {name: value for name, value in vars(self).items() if value != getattr(default, name)}

    @property
    def notices(self) -> tuple[str, ...]:
        """What a reader must know of rules that aren't the default ones; nothing of those that are."""
        changed = ", ".join(self.changed)
        return (f"these rules aren't the default ones: {changed} changed",) if changed else ()


@dataclass(frozen=True)
class Comparison:
    """Distance against one family of intensity, for one network at one displacement.

    Costs are percentage points of accuracy, means over runs: what the unperturbed network has more.

    Attributes:
        network, intensity, target: what is compared.
        n: runs in which both reach the displacement.
        distance_cost, intensity_cost: means over these.
        difference: D, the mean over runs of distance minus intensity.
        low, high: of its 1 - 2 alpha interval (90 %); None where all differences are equal, or n < 2.
        effect: Hedges' g_z; None likewise.
        p: of the paired t-test; of the sign-flip test where all differences are equal. None if not tested.
        p_adjusted: by Holm, over all comparisons that were tested.
        p_sign_flip: of the exact sign-flip test; None for more than 20 runs.
        finding: what the rules say.
        words: what stands in the way of a number.
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
    """What the rules say of some networks.

    Attributes:
        rules: by which it was reached.
        comparisons: all of them, network by network.
        left_out: by network, families of intensity that are flat by construction, and why.
        costs: of every family at every displacement, points, on (network, run, family, target); for reading.
        halves: by which rule the examples were halved; "" if that isn't known.
    """

    rules: Rules
    comparisons: tuple[Comparison, ...]
    left_out: dict[str, tuple[str, ...]]
    costs: xr.DataArray
    halves: str = ""

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks judged."""
        return tuple(dict.fromkeys(each.network for each in self.comparisons))

    def of(self, network: str) -> str:
        """The verdict on one network, in a line.

        One finding in one direction is enough for that direction, since Holm's adjustment holds all of them
        together to alpha; findings in both directions are "mixed".
        """
        own = [each for each in self.comparisons if each.network == network]
        if not own:
            raise InputError(f"the verdict is on {', '.join(self.networks) or 'no network'}; got {network!r}")
        found = Counter(each.finding for each in own)
        detail = ", ".join(f"{name} {count}" for name, count in found.items())
        return f"{_overall(found)} ({detail}; of {len(own)})"

    def text(self) -> str:
        """All of it, in lines."""
        rules = self.rules
        lines = [f"{network}: {self.of(network)}" for network in self.networks]
        tests = sum(each.p is not None for each in self.comparisons)
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


def _overall(found: Mapping[Finding, int]) -> str:
    """The findings of one network in a word or two."""
    present = [name for name in get_args(Finding) if name in found]
    both = {"distance costs more", "intensity costs more"} <= set(present)
    return "mixed" if both else str(present[0])


def costs(responses: xr.Dataset, measure: Measure = "accuracy") -> xr.DataArray:
    """What each family costs, points: unperturbed minus perturbed, the sides averaged; NaN unless all sides reach.

    Args:
        responses: of `nearzero.analysis.matched`, with whatever further dimensions.
        measure: which of its variables.

    Raises:
        InputError: responses without that measure.
    """
    if measure not in responses:
        labels = "; without labels there is agreement alone" if "accuracy" in measure else ""
        raise InputError(f"these responses have no {measure}{labels}")
    whole = responses.unperturbed_accuracy if "accuracy" in measure else 1.0
    cost = 100.0 * (whole - responses[measure])
    sides = xr.DataArray(
        [list(_sides(str(name))) for name in responses.family.values], dims=("family", "side")
    )
    used = cost.where(sides)
    return used.mean("side").where(used.notnull().sum("side") == sides.sum("side"))


def _sides(family: str) -> Iterator[bool]:
    sides = ("above",) if family in NOISES else tuple(make_family(family, Conduct()).sides)
    return (side in sides for side in ("below", "above"))


def judge(responses: xr.Dataset, rules: Rules | None = None) -> Verdict:
    """The verdict on the networks of several runs.

    Args:
        responses: as `nearzero.analysis.matched` gives them, on (network, run, family, side, target); networks are
        called by
            their activations, or have them as a coordinate `activation`.
        rules: the default ones if None.

    Raises:
        InputError: responses in which a family or a displacement of the rules is missing.
    """
    rules = rules or Rules()
    all_costs = costs(responses, rules.measure)
    for name, wanted in (("family", (*rules.distance, *rules.intensity)), ("target", rules.targets)):
        missing = [each for each in wanted if each not in responses[name].values]
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
        kept, flat = _deciders(_activation_of(responses, str(network)), rules)
        if flat:
            left_out[str(network)] = flat
        for target in rules.targets:
            for name in kept:
                pair = distance.sel(target=target).values, own.sel(family=name, target=target).values
                compared.append(_compare(Comparison(str(network), name, target, n=0), *pair, rules))
    adjusted = holm([each.p for each in compared])
    decided = tuple(_decided(each, float(p), rules) for each, p in zip(compared, adjusted, strict=True))
    return Verdict(rules, decided, left_out, all_costs, str(responses.attrs.get("halves", "")))


def _activation_of(responses: xr.Dataset, network: str) -> str:
    """What follows the pre-activations: where several networks have the same, they are told apart by their names."""
    if "activation" not in responses.coords:
        return network
    return str(responses.activation.sel(network=network).item())


def _deciders(activation: str, rules: Rules) -> tuple[list[str], tuple[str, ...]]:
    """The families of intensity that may decide on a network, and why others may not."""
    known = ACTIVATIONS.get(activation)
    flat = [name for name in rules.intensity if name == "scale" and (known is None or known.homogeneous)]
    why = "scale is left out: it's flat by construction, argmax(W2 a + b2 / s) for every s > 0"
    return [name for name in rules.intensity if name not in flat], (why,) if flat else ()


def _compare(blank: Comparison, distance: Floats, intensity: Floats, rules: Rules) -> Comparison:
    """Everything but what needs the other comparisons; costs over runs, (R,)."""
    present = np.isfinite(distance) & np.isfinite(intensity)
    first, second = distance[present], intensity[present]
    n = len(first)
    if not n:
        both = {"distance": distance, blank.intensity: intensity}
        lost = [name for name, costs in both.items() if not np.isfinite(costs).any()]
        return replace(blank, words=f"{' and '.join(lost) or 'no run'} doesn't reach it")
    tost = equivalence_test(first, second, margin=rules.margin, alpha=rules.alpha, tolerance=ROUNDING)
    test = paired_t_test(first, second, tolerance=ROUNDING)
    flips = sign_flip_test(first, second, tolerance=ROUNDING) if n <= MOST_RUNS else None
    judged = n >= rules.minimum_runs
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
        words=test.reason if judged else f"{n} runs, fewer than {rules.minimum_runs}",
    )


def _decided(each: Comparison, p_adjusted: float, rules: Rules) -> Comparison:
    """With what the rules say, once all p values are known."""
    if each.p is None:
        return each
    low = each.difference if each.low is None else each.low
    high = each.difference if each.high is None else each.high
    some_cost = max(each.distance_cost, each.intensity_cost) >= rules.margin
    finding: Finding = "inconclusive"
    if some_cost and -rules.margin < low and high < rules.margin:
        finding = "equivalent"
    elif p_adjusted < rules.alpha and abs(each.difference) > rules.margin:
        finding = "distance costs more" if each.difference > 0 else "intensity costs more"
    elif not some_cost:
        finding = "no effect to compare"
    return replace(each, p_adjusted=p_adjusted, finding=finding)


def gathered(parts: Sequence[Sequence[xr.Dataset | None]], networks: Sequence[str]) -> xr.Dataset:
    """Responses of single networks, run by run for each network, as one float64 Dataset on (network, run, ...).

    A run that is None, since it diverged say, is NaN throughout; at least one isn't.
    """
    numbers = [
        [None if each is None else each.map(lambda values: values.astype(np.float64)) for each in runs]
        for runs in parts
    ]
    lost = xr.full_like(next(each for runs in numbers for each in runs if each is not None), np.nan)
    rows = [
        xr.concat([lost if each is None else each for each in runs], "run", combine_attrs="drop_conflicts")
        for runs in numbers
    ]
    return xr.concat(rows, "network", combine_attrs="drop_conflicts").assign_coords(network=list(networks))


class Measured(Protocol):
    """What holds responses at matched displacement: a study on (network, run, ...), a probe on (layer, ...)."""

    @property
    def matched(self) -> xr.Dataset: ...  # noqa: D102 (documented above)


def verdict(
    source: Measured | xr.Dataset | Sequence[Measured | xr.Dataset], rules: Rules | None = None
) -> Verdict:
    """Whether distance or intensity costs more, by rules.

    Args:
        source: a study; or one probe, or one result of `nz.matched`, for each run of one model, in order.
        rules: the default ones if None, or a study's own.

    Raises:
        InputError: a source without responses at matched displacement, runs that don't fit together, or responses in
            which a family or a displacement of the rules is missing.
    """
    own = getattr(source, "verdict", None)
    if callable(own):
        return cast("Verdict", own(rules))
    if not isinstance(source, (list, tuple)):
        source = [source]  # type: ignore[list-item]
    if not source:
        raise InputError("a verdict needs at least one run; got none")
    runs = [_responses(each) for each in source]
    if len(runs) == 1 and {"network", "run"} <= set(runs[0].dims):
        return judge(runs[0], rules)
    first = runs[0]
    for each in runs:
        for name in ("network", "family", "side", "target"):
            if not np.array_equal(each[name].values, first[name].values):
                raise InputError(
                    f"the runs don't fit together: {name} is {list(each[name].values)} in one and "
                    f"{list(first[name].values)} in another"
                )
    return judge(
        xr.concat(runs, "run", combine_attrs="drop_conflicts").transpose("network", "run", ...), rules
    )


def _responses(source: Any) -> xr.Dataset:
    """What one run has, with networks as a dimension: a probe's layers are that."""
    found = source if isinstance(source, xr.Dataset) else getattr(source, "matched", None)
    if not isinstance(found, xr.Dataset) or not {"family", "side", "target"} <= set(found.dims):
        raise InputError(
            f"a verdict is on responses at matched displacement, as nz.matched gives them; got {type(source).__name__}"
        )
    if "layer" in found.dims:
        return found.rename(layer="network")
    if "network" in found.dims:
        return found
    return found.expand_dims(network=[str(found.attrs.get("activation", "network"))])
