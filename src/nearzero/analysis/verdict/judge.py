"""The verdict on all networks of a table: comparisons, checks, and what intensity costs relative to distance."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.analysis.verdict.compare import Comparison, compare, costs, decided
from nearzero.analysis.verdict.rules import DIRECTIONS, Finding, Rules
from nearzero.errors import InputError, did_you_mean
from nearzero.evaluators.base import EARLIER_HALVES
from nearzero.perturbations.activations import ACTIVATIONS
from nearzero.perturbations.noise import NOISES
from nearzero.statistics.multiplicity import holm
from nearzero.statistics.ratios import Ratio, ratio_of_means
from nearzero.support.display import Displayed
from nearzero.support.words import number_of

__all__ = ["CheckResult", "RelativeCost", "Verdict", "against_noise", "judge"]

Floats = npt.NDArray[np.float64]
FACTS = ("reason", "backend", "activation", "model", "layer", "layers")  # what is known of a network
Outcome = Literal["holds", "turns", "undecided", "not measured"]


@dataclass(frozen=True)
class CheckResult:
    """One check of the direction that was found on a network.

    Attributes:
        network, check: the network, and the check, one of `CHECKS`.
        outcome: "holds" if the check finds the same direction, by the same test; "turns" if any comparison of
            the check finds the opposite direction; "undecided" in all other cases; "not measured".
        finding: the finding of the check on the network; "" if it wasn't measured.
    """

    network: str
    check: str
    outcome: Outcome
    finding: str = ""


@dataclass(frozen=True)
class RelativeCost:
    """The cost of a family of intensity relative to that of distance, at one displacement.

    Attributes:
        network, intensity, target: the network, the family and the displacement.
        ratio: mean cost of intensity / mean cost of distance, with its 95 % interval (Fieller); undefined
            where the interval of the cost of distance contains 0.
    """

    network: str
    intensity: str
    target: float
    ratio: Ratio


@dataclass(frozen=True, eq=False)
class Verdict(Displayed):
    """The verdict on one or more networks.

    Attributes:
        rules: the rules that were applied.
        comparisons: all comparisons, network by network.
        left_out: by network, the reasons why families of intensity were left out: their curve is flat by
            construction.
        costs: the cost of every family at every displacement, in points or nats, on (network, run, family, target).
        halves: the rule by which the examples were cut in halves; "" if it isn't known.
        checks: by check, its comparisons, in the order of `comparisons`; without those that weren't measured.
        models: by network, the model that it belongs to. The layers of one model are its networks; Holm's
            adjustment goes over all comparisons of a model.
        activations: by network, the name of its activation; that of the network if it isn't known.

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
    checks: Mapping[str, tuple[Comparison, ...]] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    activations: Mapping[str, str] = field(default_factory=dict)

    @property
    def networks(self) -> tuple[str, ...]:
        """Return the names of the networks."""
        return tuple(dict.fromkeys(comparison.network for comparison in self.comparisons))

    @property
    def shown_networks(self) -> tuple[str, ...]:
        """Return the networks that figures show: those with comparisons, or all if there is no comparison.

        There is none if all families of one role are left out, as scale is where it's flat by construction.
        """
        return self.networks or tuple(str(name) for name in self.costs.network.values)

    def finding(self, network: str) -> str:
        """Return the finding on one network: one of `Finding`, or "mixed".

        A single comparison in one direction is enough for that direction, since Holm's adjustment controls the
        error rate of all comparisons of a model together at alpha. Comparisons in both directions are "mixed".

        Raises:
            InputError: a network that the verdict doesn't include.
        """
        return _overall(self._counts(network))

    def found_by(self, check: str, network: str) -> str:
        """Return the finding of a check on one network, as `finding`; "" if the check wasn't measured."""
        counts = Counter(row.finding for row in self.checks.get(check, ()) if row.network == network)
        return _overall(counts) if counts else ""

    def checked(self, network: str) -> tuple[CheckResult, ...]:
        """Return the outcome of each check of the rules on one network; none if no direction was found.

        Raises:
            InputError: a network that the verdict doesn't include.
        """
        finding = self.finding(network)
        return tuple(self._check_results(network, finding)) if finding in DIRECTIONS else ()

    def robustness(self, network: str) -> str:
        """Return a phrase on the checks of the direction found on a network; "" if no direction was found.

        "robust" if all checks hold; "changes with X" for each check that turns; "undecided by X" for the others.

        Raises:
            InputError: a network that the verdict doesn't include.
        """
        results = self.checked(network)
        if not results:
            return ""
        if all(result.outcome == "holds" for result in results):
            return "robust"
        phrases = {"turns": "changes with", "undecided": "undecided by", "not measured": "not measured:"}
        named = {
            outcome: ", ".join(
                self.rules.check_names[result.check] for result in results if result.outcome == outcome
            )
            for outcome in phrases
        }
        return "; ".join(f"{phrases[outcome]} {names}" for outcome, names in named.items() if names)

    def of(self, network: str) -> str:
        """Return the verdict on one network, in a line: the finding, the count of each, and the checks.

        Raises:
            InputError: a network that the verdict doesn't include.
        """
        counts = self._counts(network)
        detail = ", ".join(f"{name} {count}" for name, count in counts.items())
        line = f"{_overall(counts)} ({detail}; of {counts.total()})"
        return "; ".join(filter(None, (line, self.robustness(network))))

    @cached_property
    def relative_costs(self) -> tuple[RelativeCost, ...]:
        """Return what each family of intensity costs relative to distance, for each comparison."""
        distance = self.costs.sel(family=list(self.rules.distance)).mean("family", skipna=False)
        rows = []
        for row in self.comparisons:
            place = {"network": row.network, "target": row.target}
            intensity = self.costs.sel(place | {"family": row.intensity})
            ratio = ratio_of_means(intensity.values, distance.sel(place).values)
            rows.append(RelativeCost(row.network, row.intensity, row.target, ratio))
        return tuple(rows)

    @property
    def caveats(self) -> tuple[str, ...]:
        """Return what a reader must know before a conclusion is drawn from these findings."""
        lines = [*self.rules.notices]
        for network, reasons in self.left_out.items():
            lines += [f"{network}: {reason}" for reason in reasons]
        if any(row.finding == "equivalent" for row in self.comparisons):
            lines.append("equivalence is tested in each row by itself and not adjusted over the rows")
        if self.halves == EARLIER_HALVES:
            lines.append(
                f"the halves of the examples were cut {EARLIER_HALVES}; measured anew, they would differ"
            )
        lines.append(
            "a direction says which change costs more at equal displacement of the activations; a constant that is "
            "added to a unit's output weights for all classes changes no prediction, so the sign of a readout "
            "doesn't tell distance from intensity"
        )
        return tuple(lines)

    def text(self) -> str:
        """Return the verdict on all networks, the rules and the caveats, in lines."""
        return "\n".join([*(f"{network}: {self.of(network)}" for network in self.networks), *self.conditions])

    @property
    def conditions(self) -> tuple[str, ...]:
        """Return the rules and the caveats, as sentences."""
        rules = self.rules
        tests = sum(comparison.p is not None for comparison in self.comparisons)
        models = len({self.models.get(network, network) for network in self.networks})
        over = (
            f"Holm over {number_of(tests, 'test')}" if models == 1 else f"Holm within each of {models} models"
        )
        return (
            f"Rules: distance = {', '.join(rules.distance)}, sides averaged; intensity = "
            f"{', '.join(rules.intensity)}; {rules.test} test, margin "
            f"{rules.margin_in_words}; alpha {rules.alpha:g}, {over}.",
            *(f"{caveat[:1].upper()}{caveat[1:]}." for caveat in self.caveats),
        )

    def _counts(self, network: str) -> Counter[Finding]:
        own = [comparison.finding for comparison in self.comparisons if comparison.network == network]
        if not own:
            hint = did_you_mean(network, self.networks)
            names = ", ".join(self.networks) or "no network"
            raise InputError(f"there is no verdict on network {network!r}: {hint}the verdict is on {names}")
        return Counter(own)

    def _check_results(self, network: str, finding: str) -> Iterator[CheckResult]:
        opposite = next(direction for direction in DIRECTIONS if direction != finding)
        for check in self.rules.checks:
            found = self.found_by(check, network)
            turned = found in (opposite, "mixed")
            outcome: Outcome = "holds" if found == finding else "turns" if turned else "undecided"
            yield CheckResult(network, check, outcome if found else "not measured", found)


def _overall(counts: Mapping[Finding, int]) -> str:
    """Return the overall finding on one network, from the counts of its findings."""
    present = [name for name in get_args(Finding) if name in counts]
    return "mixed" if set(DIRECTIONS) <= set(present) else str(present[0])


def judge(responses: xr.Dataset, rules: Rules | None = None) -> Verdict:
    """Return the verdict on the networks of several runs.

    Args:
        responses: the results of `nearzero.analysis.matched`, on (network, run, family, side, target). The
            names of the networks are those of their activations, unless there is a coordinate `activation`. Each
            network is a model, unless a coordinate `model` says which networks are layers of one model.
        rules: `Rules()` if None.

    Raises:
        InputError: responses in which a family or a displacement of the rules is missing.
    """
    rules = rules or Rules()
    for name, wanted in (("family", (*rules.distance, *rules.intensity)), ("target", rules.targets)):
        missing = [value for value in wanted if value not in responses[name].values]
        if missing:
            raise InputError(
                f"the rules ask for {name} {missing[0]}, which wasn't measured; there is "
                f"{', '.join(map(str, responses[name].values))}"
            )
    networks = [str(name) for name in responses.network.values]
    groups = responses.model.values.tolist() if "model" in responses.coords else networks
    models = {network: str(model) for network, model in zip(networks, groups, strict=True)}
    # without the other arrays, of which a part would be taken for each network
    facts = responses.drop_vars([name for name in responses.data_vars if name not in FACTS])
    words = {network: _degenerate(facts.sel(network=network)) for network in networks}
    activations = {network: _activation_of(facts, network) for network in networks}
    kept = {
        network: _deciders(activations[network], _is_linear_after(facts, network), rules)
        for network in networks
    }
    deciders = {network: names for network, (names, _) in kept.items()}
    all_costs = costs(responses, rules.measure)
    return Verdict(
        rules,
        _comparisons(all_costs, rules, deciders, words, models),
        {network: reasons for network, (_, reasons) in kept.items() if reasons},
        all_costs,
        str(responses.attrs.get("halves", "")),
        {
            check: _comparisons(own, rules, deciders, words, models)
            for check in rules.checks
            if (own := _check_costs(responses, rules, check)) is not None
        },
        models,
        activations,
    )


def against_noise(responses: xr.Dataset, rules: Rules) -> Verdict | None:
    """Return the comparisons of distance with noise of the same size in the place of intensity, without checks.

    Noise says how much any change of this size costs. It costs about as much as a signed shift in networks with
    planted distance and in networks with planted templates, so it doesn't tell these mechanisms apart.

    Args:
        responses: as for `judge`.
        rules: those of the verdict.

    Returns:
        None if no noise was measured that isn't one of the families that decide.
    """
    deciding = (*rules.distance, *rules.intensity)
    noises = tuple(name for name in NOISES if name in responses.family.values and name not in deciding)
    return judge(responses, replace(rules, intensity=noises, checks=())) if noises else None


def _check_costs(responses: xr.Dataset, rules: Rules, check: str) -> xr.DataArray | None:
    """Return the costs of a check, as `costs` returns them; None if the check wasn't measured."""
    measure = rules.measure
    if check == "centred_accuracy":
        centred = f"centred_{measure.removeprefix('centred_')}"
        return costs(responses, centred) if centred in responses else None  # type: ignore[arg-type]
    name = f"checked_{measure}"
    if name not in responses or check not in responses.check.values:
        return None
    if not responses.checked.sel(family=[*rules.distance, *rules.intensity]).values.all():
        return None
    own = responses.sel(check=check)
    variables: dict[str, xr.DataArray] = {measure: own[name]}
    if not measure.endswith("agreement"):
        variables[f"unperturbed_{measure}"] = own[f"unperturbed_checked_{measure}"]
    return costs(xr.Dataset(variables), measure)


def _comparisons(
    all_costs: xr.DataArray,
    rules: Rules,
    deciders: Mapping[str, Sequence[str]],
    words: Mapping[str, str],
    models: Mapping[str, str],
) -> tuple[Comparison, ...]:
    """Return all comparisons of a table, with adjusted p values and findings.

    Args:
        all_costs: the costs, as `costs` returns them.
        rules: the rules.
        deciders: by network, the families of intensity that may decide.
        words: by network, words on degenerate runs.
        models: by network, the model.
    """
    own = all_costs.sel(target=list(rules.targets)).transpose("network", "target", "run", "family")
    distance = own.sel(family=list(rules.distance)).mean("family", skipna=False).values
    intensity = {name: own.sel(family=name).values for name in rules.intensity}
    places = {str(network): place for place, network in enumerate(own.network.values)}
    compared = []
    for network, names in deciders.items():
        place = places[network]
        for row, target in enumerate(rules.targets):
            for name in names:
                blank = Comparison(network, name, target, n=0, words=words[network])
                compared.append(compare(blank, distance[place, row], intensity[name][place, row], rules))
    p_values = [row.p for row in compared]
    adjusted = _adjusted_within(p_values, [models[row.network] for row in compared])
    alone = _adjusted_within(p_values, [row.network for row in compared])
    joint = _adjusted_within(p_values, [""] * len(compared))
    rows = zip(compared, adjusted, alone, joint, strict=True)
    return tuple(
        decided(replace(row, p_adjusted=within, p_alone=own, p_joint=whole), rules)
        for row, within, own, whole in rows
    )


def _adjusted_within(p_values: Sequence[float | None], groups: Sequence[str]) -> list[float | None]:
    """Return p values adjusted by Holm's method within each group; None where there is none."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        places[group].append(place)
    adjusted: list[float | None] = [None] * len(groups)
    for own in places.values():
        for place, p in zip(own, holm([p_values[place] for place in own]).tolist(), strict=True):
            adjusted[place] = None if p_values[place] is None else p
    return adjusted


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


def _is_linear_after(responses: xr.Dataset, network: str) -> bool:
    """Return whether nothing but a linear map W2 a + b2 follows the activations of a network, as far as is known.

    That is so for networks with one hidden layer, and for the last hidden layer of deeper ones that a grid trains. What
    follows a layer of any other model isn't known.
    """
    own = responses.sel(network=network)
    if "backend" in own or "backend" in own.attrs:
        found = own.backend.values.ravel().tolist() if "backend" in own else [own.attrs["backend"]]
        return {*found} - {""} == {"two-layer"}
    if "layers" in own.coords:  # of a user's own networks
        return False
    if "layer" not in own.coords:
        return True
    whole = (
        responses.layer.values
        if "model" not in own.coords
        else responses.layer.values[responses.model == own.model]
    )
    return int(own.layer) == int(max(whole))


def _deciders(activation: str, linear_after: bool, rules: Rules) -> tuple[list[str], tuple[str, ...]]:
    """Return the families of intensity that may decide on a network, and the reasons why others may not.

    Args:
        activation: of the network.
        linear_after: whether only W2 a + b2 follows.
        rules: the rules.
    """
    registered = ACTIVATIONS.get(activation)
    is_flat = linear_after and registered is not None and registered.homogeneous
    flat = [name for name in rules.intensity if name == "scale" and is_flat]
    reason = "scale is left out: it's flat by construction, argmax(W2 a + b2 / s) for every s > 0"
    return [name for name in rules.intensity if name not in flat], (reason,) if flat else ()
