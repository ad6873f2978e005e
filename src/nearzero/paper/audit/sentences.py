"""The paper's main statements, paraphrased, each decided by a rule.

A rule is a list of conditions. A sentence survives if all of them hold, survives in part if some do, and
doesn't survive if none does. If a rule requires something, the sentence doesn't survive without it. The last
sentence follows the verdict, its checks, and what intensity costs relative to distance in networks with a planted
mechanism. With fewer than six runs the conditions are described and nothing is decided, as in a verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nearzero.analysis.verdict import against_noise
from nearzero.mechanisms.reference import PlacedCost, placed_at_largest
from nearzero.paper.audit.evidence import Evidence, NetworkEvidence, Runs, has_target, within_margin
from nearzero.paper.audit.values import ALPHA, MATCHED, Finding, Sentence
from nearzero.statistics.paired import MINIMUM_RUNS, equivalence_test
from nearzero.statistics.summaries import summarise

__all__ = ["sentences"]

SMALL, LARGER = (-0.05, 0.05), (-0.1, 0.1)  # offsets
CONCLUSIONS: dict[str, Finding] = {
    "distance costs more": "survives",
    "mixed": "survives in part",
    "intensity costs more": "doesn't survive",
    "equivalent": "doesn't survive",
    "no effect": "not decided",
    "inconclusive": "not decided",
    "degenerate": "not decided",
    "not reached": "not decided",
    "description only": "description only",
}


@dataclass(frozen=True)
class _RuleCondition:
    """A condition of a rule.

    Attributes:
        group: conditions of a group are printed together.
        text: the numbers behind the condition.
        holds: None if that can't be decided.
    """

    group: str
    text: str
    holds: bool | None


Decision = tuple[Finding, list[_RuleCondition], str]  # the finding, the conditions, and the numbers as text


def sentences(evidence: Evidence) -> tuple[Sentence, ...]:
    """Return all sentences, each for one network after the other."""
    decided = []
    for family, name, text, rule, decide in _STATEMENTS:
        for own in evidence.by_network:
            decision: Decision = "not decided", [], f"{family} wasn't swept"
            if family is None or evidence.has(family):
                decision = decide(own)
            finding, conditions, numbers = decision
            held = sum(bool(condition.holds) for condition in conditions)
            decided.append(Sentence(name, text, rule, own.network, finding, held, len(conditions), numbers))
    return tuple(decided)


def _decision(
    own: NetworkEvidence, conditions: list[_RuleCondition], *, needed: bool = True, remark: str = ""
) -> Decision:
    """Return the decision that follows from conditions.

    Args:
        own: the evidence on the network.
        conditions: of the rule.
        needed: whether the rule's requirement is met.
        remark: added to the numbers.
    """
    groups: dict[str, list[str]] = {}
    for condition in conditions:
        groups.setdefault(condition.group, []).append(condition.text)
    numbers = [f"{group}: {', '.join(texts)}" for group, texts in groups.items()]
    known = [condition.holds for condition in conditions if condition.holds is not None]
    finding: Finding = "survives in part"
    if own.n < MINIMUM_RUNS:
        finding = "description only"
    elif not known:
        finding = "not decided"
    elif not needed or not any(known):
        finding = "doesn't survive"
    elif all(known) and len(known) == len(conditions):
        finding = "survives"
    return finding, conditions, "; ".join([*numbers, remark] if remark else numbers)


def _costs_more(group: str, what: str, costs: Runs, margin: float) -> _RuleCondition:
    """Return the condition that the mean cost and its 95 % interval lie above the margin."""
    cost = summarise(costs)
    interval = f" ({cost.low:.2f} to {cost.high:.2f})" if cost.n >= 2 else ""
    return _RuleCondition(
        group, f"{what} {cost.mean:.2f}{interval}", cost.low > margin if cost.n >= 2 else None
    )


def _costs_nothing(group: str, what: str, costs: Runs, margin: float) -> _RuleCondition:
    """Return the condition that the mean cost is 0 within the margin, by two one-sided tests."""
    test = equivalence_test(costs, margin=margin, tolerance=1e-9)
    text = f"{what} {_plain(test.mean_difference)}"
    if test.low is not None and test.high is not None:
        text += f" ({_plain(test.low)} to {_plain(test.high)})"
    return _RuleCondition(group, text, within_margin(test))


def _plain(value: float) -> str:
    """Format a number without the sign of a zero."""
    text = f"{value:.2f}"
    return text.lstrip("-") if float(text) == 0 else text


def _offset_costs(own: NetworkEvidence, levels: Sequence[float]) -> Iterator[_RuleCondition]:
    """Yield the conditions that offsets cost more than the margin: as run, and without the mean logit shift."""
    for name, group in (("accuracy", "as run"), ("centred_accuracy", "without the mean logit shift")):
        for level in levels:
            costs = own.cost(own.study.row("offset", level), name)
            yield _costs_more(group, f"{100 * level:g} %", costs, own.study.margin)


def _displacements(own: NetworkEvidence, family: str, levels: Sequence[float]) -> str:
    """Return, as text, how far some levels displace the activations."""
    return ", ".join(
        f"{100 * row.level:g} % displaces by {row.displacement:.0f} %"
        for row in own.levels
        if row.family == family and row.level in levels and row.displacement is not None
    )


def _small_offsets(own: NetworkEvidence) -> Decision:
    levels = SMALL + LARGER
    return _decision(own, list(_offset_costs(own, levels)), remark=_displacements(own, "offset", levels))


def _scaling(own: NetworkEvidence) -> Decision:
    margin, verdict = own.study.margin, own.study.verdict
    conditions = [
        _costs_nothing("costs", f"{100 * level:g} %", own.cost(own.study.row("scale", level)), margin)
        for level in (0.1, 0.25, 0.5, 10.0)
    ]
    remarks = [
        "but the sweep is flat by construction" if own.flat else "the sweep isn't flat by construction"
    ]
    for target in (0.1, 0.5):
        if verdict is not None and has_target(verdict.costs, "gains", target):
            cost = summarise(verdict.costs.sel(network=own.network, family="gains", target=target).values)
            if cost.n:
                remarks.append(f"independent gains with displacement {100 * target:g} % cost {cost.mean:.2f}")
    return _decision(own, conditions, needed=not own.flat, remark="; ".join(remarks))


def _clipping(own: NetworkEvidence) -> Decision:
    conditions = []
    for name, place in (("clip_pre_accuracy", "before"), ("clip_post_accuracy", "after")):
        for level, condition in ((0.75, _costs_nothing), (0.5, _costs_nothing), (0.1, _costs_more)):
            costs = own.cost(own.study.row("clip", level), name)
            group = f"{place} the activation"
            conditions.append(condition(group, f"{100 * level:g} %", costs, own.study.margin))
    return _decision(own, conditions, remark=_displacements(own, "clip", (0.1, 0.5)))


def _both_directions(own: NetworkEvidence) -> Decision:
    conditions, matched = list(_offset_costs(own, LARGER)), own.study.matched
    remark = "pure shifts aren't measured"
    if matched is not None and "accuracy" in matched and has_target(matched, "shift", MATCHED):
        shift = matched.sel(network=own.network, family="shift", target=MATCHED)
        for side in ("below", "above"):
            costs = 100.0 * (shift.unperturbed_accuracy - shift.accuracy.sel(side=side)).values
            if np.isfinite(costs).any():
                group = f"pure shift, displacement {100 * MATCHED:g} %"
                conditions.append(_costs_more(group, f"{side} zero", costs, own.study.margin))
                remark = ""
    return _decision(own, conditions, remark=remark)


def _large_p(own: NetworkEvidence) -> Decision:
    rows = [row for row in own.levels if row.p_identity is not None and row.p_identity > ALPHA]
    conditions = [
        _RuleCondition("p", f"{row.family} {100 * row.level:g} % {row.p_identity:.3f}", row.within)
        for row in rows
    ]
    equal = sum(bool(condition.holds) for condition in conditions)
    remark = f"{equal} of {len(conditions)} within the margin" if conditions else "no row has p > 0.05"
    if own.flat and {row.family for row in rows} == {"scale"}:
        remark += "; all are rows of scale, which is flat by construction"
    return _decision(own, conditions, remark=remark)


def _conclusion(own: NetworkEvidence) -> Decision:
    verdict = own.study.verdict
    if verdict is None:
        return "not decided", [], "not measured at matched displacement yet; `nearzero verdict` does it"
    short, checks = verdict.finding(own.network), verdict.robustness(own.network)
    comparisons = [row for row in verdict.comparisons if row.network == own.network]
    differences = [
        f"{row.intensity} {100 * row.target:g} %: {row.difference:+.2f}, {row.finding}"
        for row in comparisons
        if row.n
    ]
    placed = placed_at_largest(verdict, own.network)
    likely = [each.place == "as with planted distance" for each in placed]
    held = [*(row.finding == "distance costs more" for row in comparisons), *likely]
    numbers = {
        "": "; ".join(filter(None, (short, checks))),
        "cost of distance minus intensity, points: ": "; ".join(differences),
        f"cost relative to distance, displacement {_percent(placed)}: ": "; ".join(
            each.text for each in placed
        ),
        "cost of distance minus noise, points: ": _against_noise(own),
    }
    finding = CONCLUSIONS[short] if checks in ("", "robust") else "not decided"
    if finding == "survives" and not (likely and all(likely)):
        finding = "survives in part"
    texts = "; ".join(f"{words}{text}" for words, text in numbers.items() if text)
    return finding, [_RuleCondition("", "", holds) for holds in held], texts


def _percent(placed: Sequence[PlacedCost]) -> str:
    """Return the displacement of relative costs in percent; they have one."""
    return f"{100 * placed[0].cost.target:g} %" if placed else ""


def _against_noise(own: NetworkEvidence) -> str:
    """Return what distance costs more than noise of the same size; "" if noise wasn't measured."""
    matched, verdict = own.study.matched, own.study.verdict
    found = None if matched is None or verdict is None else against_noise(matched, verdict.rules)
    rows = [row for row in (found.comparisons if found else ()) if row.network == own.network and row.n]
    texts = [
        f"{row.intensity} {100 * row.target:g} %: {row.difference:+.2f} ({row.low:.2f} to {row.high:.2f})"
        for row in rows
        if row.target == rows[-1].target and row.low is not None and row.high is not None
    ]
    return "; ".join(texts)


# Of each statement: the family that must have been swept, name, text, rule, and the function that decides.
_STATEMENTS = (
    (
        "offset",
        "small offsets",
        "Small moves of the boundary already cost much accuracy.",
        "At offsets of -5, 5, -10 and 10 % the cost exceeds the margin, its 95 % interval included: as run, and "
        "with the mean logit shift taken out. All eight: survives.",
        _small_offsets,
    ),
    (
        "scale",
        "scaling",
        "Scaling the intensities costs next to nothing, down to a tenth.",
        "At scales of 10, 25, 50 and 1000 % the accuracy is the identity's within the margin (TOST). Needed: a sweep "
        "that isn't flat by construction, since one that is says nothing about what units measure.",
        _scaling,
    ),
    (
        "clip",
        "clipping",
        "Clipping the intensities costs little until the threshold is low.",
        "At clips of 75 and 50 % the accuracy is the identity's within the margin (TOST), and at 10 % the cost exceeds "
        "it: clipped before the activation, and after it. All six: survives.",
        _clipping,
    ),
    (
        "offset",
        "both directions",
        "Moving the boundary hurts in either direction.",
        "At offsets of -10 and 10 % the cost exceeds the margin, its 95 % interval included: as run, with the mean "
        "logit shift taken out, and, where it's measured, by a pure shift at a displacement of 10 %, on either side.",
        _both_directions,
    ),
    (
        None,
        "large p",
        "Where p > 0.05 the perturbation has no effect.",
        "Each row with p > 0.05 against the identity has the identity's accuracy within the margin (TOST).",
        _large_p,
    ),
    (
        None,
        "conclusion",
        "So units measure distance, and not intensity.",
        "By the verdict at matched displacement, distance costs more and all checks hold; and relative to distance, "
        "at the largest displacement, each family of intensity costs as little as in networks with planted distance "
        "(95 % interval): survives. The first alone, or distance in one comparison and intensity in another: in part. "
        "Intensity costs more, or both cost the same: doesn't survive. Otherwise it isn't decided.",
        _conclusion,
    ),
)
