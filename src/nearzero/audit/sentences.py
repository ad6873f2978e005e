"""The paper's main statements in other words than its own, and what is left of each: by rules that stand beside them.

A rule is a list of conditions. A sentence survives if all of them hold, in part if some do, and doesn't if none does;
where a rule says that something is needed, it doesn't survive without that. With fewer than six runs the conditions are
described and nothing is decided, as in a verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nearzero.audit.evidence import Evidence, Runs, side_costs
from nearzero.audit.values import ALPHA, UNDECIDED, Finding, LevelRow, Sentence
from nearzero.statistics.paired import MINIMUM_RUNS, equivalence_test
from nearzero.statistics.summaries import summarise

__all__ = ["sentences"]

SMALL, LARGER = 0.05, 0.1
MATCHED = 0.1  # the displacement at which the sides of a pure shift are looked at
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
class _Condition:
    """Something that holds, or doesn't, or can't be told (None); the numbers behind it, and how they came about."""

    how: str
    text: str
    holds: bool | None


@dataclass(frozen=True)
class _Statement:
    name: str
    text: str
    rule: str


SMALL_OFFSETS = _Statement(
    "small offsets",
    "Small moves of the boundary already cost much accuracy.",
    "At offsets of -5, 5, -10 and 10 % the cost exceeds the margin, its 95 % interval included: as run, and with the "
    "mean logit shift taken out. All eight: survives.",
)
SCALING = _Statement(
    "scaling",
    "Scaling the intensities costs next to nothing, down to a tenth.",
    "At scales of 10, 25, 50 and 1000 % the accuracy is the identity's within the margin (TOST). Needed: a sweep "
    "that isn't flat by construction, since one that is says nothing about what units measure.",
)
CLIPPING = _Statement(
    "clipping",
    "Clipping the intensities costs little until the threshold is low.",
    "At clips of 75 and 50 % the accuracy is the identity's within the margin (TOST), and at 10 % the cost exceeds it: "
    "clipped before the activation, and after it. All six: survives.",
)
BOTH_WAYS = _Statement(
    "both directions",
    "Moving the boundary hurts in either direction.",
    "At offsets of -10 and 10 % the cost exceeds the margin, its 95 % interval included: as run, with the mean logit "
    "shift taken out, and, where it's measured, by a pure shift at a displacement of 10 %, on either side.",
)
LARGE_P = _Statement(
    "large p",
    "Where p > 0.05 the perturbation has no effect.",
    "Each row with p > 0.05 against the identity has the identity's accuracy within the margin (TOST).",
)
CONCLUSION = _Statement(
    "conclusion",
    "So units measure distance, and not intensity.",
    "The verdict at matched displacement: distance costs more (survives), in one comparison and intensity in another "
    "(in part), intensity does, or they are equivalent, or nothing costs anything (doesn't survive).",
)


def sentences(evidence: Evidence, rows: Sequence[LevelRow]) -> tuple[Sentence, ...]:
    """All sentences, each for one network after the other."""
    found = []
    for statement, decide in (
        (SMALL_OFFSETS, _small_offsets),
        (SCALING, _scaling),
        (CLIPPING, _clipping),
        (BOTH_WAYS, _both_ways),
        (LARGE_P, _large_p),
        (CONCLUSION, _conclusion),
    ):
        for network in evidence.networks:
            own = [row for row in rows if row.network == network]
            finding, conditions, numbers = decide(evidence, network, own)
            held = sum(bool(each.holds) for each in conditions)
            found.append(
                Sentence(
                    statement.name,
                    statement.text,
                    statement.rule,
                    network,
                    finding,
                    held,
                    len(conditions),
                    numbers,
                )
            )
    return tuple(found)


Decided = tuple[Finding, list[_Condition], str]


def _decided(conditions: list[_Condition], n: int, *, needed: bool = True, words: str = "") -> Decided:
    """What conditions say together."""
    groups = {each.how: [same.text for same in conditions if same.how == each.how] for each in conditions}
    numbers = "; ".join(
        [*(f"{how}: {', '.join(texts)}" for how, texts in groups.items()), *([words] if words else [])]
    )
    told = [each.holds for each in conditions if each.holds is not None]
    finding: Finding = "survives in part"
    if n < MINIMUM_RUNS:
        finding = "description only"
    elif not told:
        finding = "not decided"
    elif not needed or not any(told):
        finding = "doesn't survive"
    elif all(told) and len(told) == len(conditions):
        finding = "survives"
    return finding, conditions, numbers


def _costs(how: str, what: str, values: Runs, margin: float) -> _Condition:
    """That something costs more than the margin, its interval included."""
    found = summarise(values)
    interval = f" ({found.low:.2f} to {found.high:.2f})" if found.n >= 2 else ""
    return _Condition(how, f"{what} {found.mean:.2f}{interval}", found.low > margin if found.n >= 2 else None)


def _equal(how: str, what: str, values: Runs, margin: float) -> _Condition:
    """That something costs the same as nothing, within the margin."""
    found = equivalence_test(values, margin=margin, tolerance=1e-9)
    if found.low is None or found.high is None:
        same = abs(found.mean_difference) < margin if found.n >= 2 else None
        return _Condition(how, f"{what} {_plain(found.mean_difference)}", same)
    ends = f"{_plain(found.low)} to {_plain(found.high)}"
    return _Condition(how, f"{what} {_plain(found.mean_difference)} ({ends})", found.equivalent)


def _plain(value: float) -> str:
    text = f"{value:.2f}"
    return text.lstrip("-") if float(text) == 0 else text


def _runs(rows: Sequence[LevelRow], family: str) -> int:
    return max((row.n for row in rows if row.family == family), default=0)


def _not_swept(family: str) -> Decided:
    return UNDECIDED, [], f"{family} wasn't swept"


def _offset_costs(evidence: Evidence, network: str, levels: Sequence[float]) -> Iterator[_Condition]:
    """As run, and with the mean logit shift taken out."""
    for name, how in (("accuracy", "as run"), ("centred_accuracy", "without the mean logit shift")):
        for level in levels:
            number = evidence.row("offset", level)
            assert number is not None
            values = evidence.cost(network, number, name)
            yield _costs(how, f"{100 * level:g} %", values, evidence.margin)


def _small_offsets(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Decided:
    if not evidence.has("offset"):
        return _not_swept("offset")
    conditions = list(_offset_costs(evidence, network, (-SMALL, SMALL, -LARGER, LARGER)))
    moved = [
        f"{100 * row.level:g} % displaces by {row.displacement:.0f} %"
        for row in rows
        if row.family == "offset"
        and row.level in (-SMALL, SMALL, -LARGER, LARGER)
        and row.displacement is not None
    ]
    return _decided(conditions, _runs(rows, "offset"), words=", ".join(moved))


def _scaling(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Decided:
    if not evidence.has("scale"):
        return _not_swept("scale")
    conditions = []
    for level in (0.1, 0.25, 0.5, 10.0):
        number = evidence.row("scale", level)
        assert number is not None
        conditions.append(
            _equal("costs", f"{100 * level:g} %", evidence.cost(network, number), evidence.margin)
        )
    flat = evidence.flat(network)
    words = ["but the sweep is flat by construction" if flat else "the sweep isn't flat by construction"]
    verdict = evidence.verdict
    for target in (0.1, 0.5):
        if (
            verdict is not None
            and "gains" in verdict.costs.family.values
            and target in verdict.costs.target.values
        ):
            cost = summarise(verdict.costs.sel(network=network, family="gains", target=target).values)
            if cost.n:
                words.append(f"independent gains with displacement {100 * target:g} % cost {cost.mean:.2f}")
    return _decided(conditions, _runs(rows, "scale"), needed=not flat, words="; ".join(words))


def _clipping(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Decided:
    if not evidence.has("clip"):
        return _not_swept("clip")
    conditions = []
    for name, how in (("clip_pre_accuracy", "before"), ("clip_post_accuracy", "after")):
        for level in (0.75, 0.5, 0.1):
            number = evidence.row("clip", level)
            assert number is not None
            check = _costs if level == 0.1 else _equal
            values = evidence.cost(network, number, name)
            conditions.append(check(f"{how} the activation", f"{100 * level:g} %", values, evidence.margin))
    moved = [
        f"{100 * row.level:g} % displaces by {row.displacement:.0f} %"
        for row in rows
        if row.family == "clip" and row.level in (0.1, 0.5) and row.displacement is not None
    ]
    return _decided(conditions, _runs(rows, "clip"), words=", ".join(moved))


def _both_ways(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Decided:
    if not evidence.has("offset"):
        return _not_swept("offset")
    conditions = list(_offset_costs(evidence, network, (-LARGER, LARGER)))
    words = "pure shifts aren't measured"
    for side in ("below", "above"):
        values = side_costs(evidence, network, "shift", side, MATCHED)
        if values is not None and np.isfinite(values).any():
            how = f"pure shift, displacement {100 * MATCHED:g} %"
            conditions.append(_costs(how, f"{side} zero", values, evidence.margin))
            words = ""
    return _decided(conditions, _runs(rows, "offset"), words=words)


def _large_p(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Decided:
    n = max(row.n for row in rows)
    large = [row for row in rows if row.p_identity is not None and row.p_identity > ALPHA]
    conditions = [
        _Condition("p", f"{row.family} {100 * row.level:g} % {row.p_identity:.3f}", row.within)
        for row in large
    ]
    if not large:
        return (UNDECIDED if n >= MINIMUM_RUNS else "description only"), [], "no row has p > 0.05"
    equal = sum(bool(each.holds) for each in conditions)
    return _decided(conditions, n, words=f"{equal} of {len(large)} within the margin")


def _conclusion(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Decided:
    if evidence.verdict is None:
        return UNDECIDED, [], "not measured at matched displacement yet; `nearzero verdict` does it"
    short = evidence.verdict.of(network).partition(" (")[0]
    parts = [
        f"{each.intensity} {100 * each.target:g} %: {each.difference:+.2f}, {each.finding}"
        for each in evidence.verdict.comparisons
        if each.network == network and each.n
    ]
    own = [each for each in evidence.verdict.comparisons if each.network == network]
    held = [_Condition("", "", each.finding == "distance costs more") for each in own]
    numbers = f"{short}; cost of distance minus intensity, points: " + "; ".join(parts)
    return CONCLUSIONS[short], held, numbers
