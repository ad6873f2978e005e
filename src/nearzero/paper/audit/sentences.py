"""The paper's main statements in other words than its own, and what is left of each: by rules that stand beside them.

A rule is a list of conditions. A sentence survives if all of them hold, in part if some do, and doesn't if none does;
where a rule says that something is needed, it doesn't survive without that. With fewer than six runs the conditions are
described and nothing is decided, as in a verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

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
    "no effect to compare": "doesn't survive",
    "inconclusive": "not decided",
    "not reached": "not decided",
    "description only": "description only",
}


@dataclass(frozen=True)
class _Premise:
    """Something that holds, or doesn't, or can't be told (None); the numbers behind it, and how they came about."""

    how: str
    text: str
    holds: bool | None


Decided = tuple[Finding, list[_Premise], str]


def sentences(evidence: Evidence) -> tuple[Sentence, ...]:
    """Return all sentences, each for one network after the other."""
    found = []
    for family, name, text, rule, decide in _STATEMENTS:
        for own in evidence.each:
            decided: Decided = "not decided", [], f"{family} wasn't swept"
            if family is None or evidence.has(family):
                decided = decide(own)
            finding, conditions, numbers = decided
            held = sum(bool(each.holds) for each in conditions)
            found.append(Sentence(name, text, rule, own.network, finding, held, len(conditions), numbers))
    return tuple(found)


def _decided(
    own: NetworkEvidence, conditions: list[_Premise], *, needed: bool = True, words: str = ""
) -> Decided:
    """Return what conditions say together; words are added to their numbers."""
    groups = {each.how: [same.text for same in conditions if same.how == each.how] for each in conditions}
    numbers = [f"{how}: {', '.join(texts)}" for how, texts in groups.items()]
    told = [each.holds for each in conditions if each.holds is not None]
    finding: Finding = "survives in part"
    if own.n < MINIMUM_RUNS:
        finding = "description only"
    elif not told:
        finding = "not decided"
    elif not needed or not any(told):
        finding = "doesn't survive"
    elif all(told) and len(told) == len(conditions):
        finding = "survives"
    return finding, conditions, "; ".join([*numbers, words] if words else numbers)


def _costs(how: str, what: str, values: Runs, margin: float) -> _Premise:
    """That something costs more than the margin, its interval included."""
    found = summarise(values)
    interval = f" ({found.low:.2f} to {found.high:.2f})" if found.n >= 2 else ""
    return _Premise(how, f"{what} {found.mean:.2f}{interval}", found.low > margin if found.n >= 2 else None)


def _equal(how: str, what: str, values: Runs, margin: float) -> _Premise:
    """That something costs the same as nothing, within the margin."""
    found = equivalence_test(values, margin=margin, tolerance=1e-9)
    text = f"{what} {_plain(found.mean_difference)}"
    if found.low is not None and found.high is not None:
        text += f" ({_plain(found.low)} to {_plain(found.high)})"
    return _Premise(how, text, within_margin(found))


def _plain(value: float) -> str:
    text = f"{value:.2f}"
    return text.lstrip("-") if float(text) == 0 else text


def _offset_costs(own: NetworkEvidence, levels: Sequence[float]) -> Iterator[_Premise]:
    """As run, and with the mean logit shift taken out."""
    for name, how in (("accuracy", "as run"), ("centred_accuracy", "without the mean logit shift")):
        for level in levels:
            values = own.cost(own.study.row("offset", level), name)
            yield _costs(how, f"{100 * level:g} %", values, own.study.margin)


def _moved(own: NetworkEvidence, family: str, levels: Sequence[float]) -> str:
    """Return how far some levels displace the activations."""
    return ", ".join(
        f"{100 * row.level:g} % displaces by {row.displacement:.0f} %"
        for row in own.levels
        if row.family == family and row.level in levels and row.displacement is not None
    )


def _small_offsets(own: NetworkEvidence) -> Decided:
    levels = SMALL + LARGER
    return _decided(own, list(_offset_costs(own, levels)), words=_moved(own, "offset", levels))


def _scaling(own: NetworkEvidence) -> Decided:
    margin, verdict = own.study.margin, own.study.verdict
    conditions = [
        _equal("costs", f"{100 * level:g} %", own.cost(own.study.row("scale", level)), margin)
        for level in (0.1, 0.25, 0.5, 10.0)
    ]
    words = ["but the sweep is flat by construction" if own.flat else "the sweep isn't flat by construction"]
    for target in (0.1, 0.5):
        if verdict is not None and has_target(verdict.costs, "gains", target):
            cost = summarise(verdict.costs.sel(network=own.network, family="gains", target=target).values)
            if cost.n:
                words.append(f"independent gains with displacement {100 * target:g} % cost {cost.mean:.2f}")
    return _decided(own, conditions, needed=not own.flat, words="; ".join(words))


def _clipping(own: NetworkEvidence) -> Decided:
    conditions = []
    for name, how in (("clip_pre_accuracy", "before"), ("clip_post_accuracy", "after")):
        for level, check in ((0.75, _equal), (0.5, _equal), (0.1, _costs)):
            values = own.cost(own.study.row("clip", level), name)
            conditions.append(check(f"{how} the activation", f"{100 * level:g} %", values, own.study.margin))
    return _decided(own, conditions, words=_moved(own, "clip", (0.1, 0.5)))


def _both_ways(own: NetworkEvidence) -> Decided:
    conditions, matched = list(_offset_costs(own, LARGER)), own.study.matched
    words = "pure shifts aren't measured"
    if matched is not None and "accuracy" in matched and has_target(matched, "shift", MATCHED):
        shift = matched.sel(network=own.network, family="shift", target=MATCHED)
        for side in ("below", "above"):
            values = 100.0 * (shift.unperturbed_accuracy - shift.accuracy.sel(side=side)).values
            if np.isfinite(values).any():
                how = f"pure shift, displacement {100 * MATCHED:g} %"
                conditions.append(_costs(how, f"{side} zero", values, own.study.margin))
                words = ""
    return _decided(own, conditions, words=words)


def _large_p(own: NetworkEvidence) -> Decided:
    conditions = [
        _Premise("p", f"{row.family} {100 * row.level:g} % {row.p_identity:.3f}", row.within)
        for row in own.levels
        if row.p_identity is not None and row.p_identity > ALPHA
    ]
    equal = sum(bool(each.holds) for each in conditions)
    words = f"{equal} of {len(conditions)} within the margin" if conditions else "no row has p > 0.05"
    return _decided(own, conditions, words=words)


def _conclusion(own: NetworkEvidence) -> Decided:
    verdict = own.study.verdict
    if verdict is None:
        return "not decided", [], "not measured at matched displacement yet; `nearzero verdict` does it"
    short = verdict.of(own.network).partition(" (")[0]
    compared = [each for each in verdict.comparisons if each.network == own.network]
    parts = [
        f"{each.intensity} {100 * each.target:g} %: {each.difference:+.2f}, {each.finding}"
        for each in compared
        if each.n
    ]
    held = [_Premise("", "", each.finding == "distance costs more") for each in compared]
    numbers = f"{short}; cost of distance minus intensity, points: " + "; ".join(parts)
    return CONCLUSIONS[short], held, numbers


# What has to be swept; name, text and rule of a statement; what decides on one network.
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
        _both_ways,
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
        "The verdict at matched displacement: distance costs more (survives), in one comparison and intensity in "
        "another (in part), intensity does, or they are equivalent, or nothing costs anything (doesn't survive).",
        _conclusion,
    ),
)
