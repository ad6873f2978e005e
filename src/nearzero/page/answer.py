"""The first screen of a study's page: the question, an answer for each network, and the numbers that carry it.

Without a verdict there is no answer to the question; then the sentences say what the responses show, and which
command makes a verdict.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np

from nearzero.analysis.verdict import CHECKS, Comparison, Finding, Verdict
from nearzero.analysis.verdict.rules import DIRECTIONS
from nearzero.mechanisms.reference import MECHANISMS, placed_at_largest
from nearzero.page.terms import roles
from nearzero.paper.audit.values import Audit, points, sentence_case
from nearzero.report.figures.scales import reading_of
from nearzero.report.render.html import to_html
from nearzero.report.render.markup import Markup, tag
from nearzero.report.results import (
    StudyResults,
    curve,
    display_name,
    families,
    final_values,
    networks,
    unperturbed,
)
from nearzero.report.table import Cell, Column, Number, Span, Table
from nearzero.statistics.summaries import mean, summarise
from nearzero.support.words import number_of

__all__ = [
    "QUESTION",
    "answers",
    "mechanism_words",
    "numbers_table",
    "planted_table",
    "power_words",
    "robustness",
    "ways_table",
    "within",
]

QUESTION = "Do these hidden units measure distance or intensity?"
ANSWERS = {
    "distance costs more": "Distance costs more",
    "intensity costs more": "Intensity costs more",
    "mixed": "Both, depending on the size of the change and the kind of intensity",
    "equivalent": "Neither costs more than the other: both cost the same, within the margin",
    "no effect": "Not to be told: neither change costs anything at the sizes that were measured",
    "inconclusive": "Not decided by these runs",
    "description only": "Not judged: a verdict needs {minimum} runs; the numbers describe these alone",
    "degenerate": "Not judged: all runs give the same difference",
    "not reached": "Not judged: the changes don't reach the sizes at which they were to be compared",
}
# Findings as the heads of narrow columns; the caption says what they stand for.
SHORT = {
    "distance costs more": "distance",
    "intensity costs more": "intensity",
    "equivalent": "same",
    "no effect": "none",
    "inconclusive": "open",
}
# What it means that all families of intensity have the same place among planted networks, by place.
LIKENESS = {
    "as with planted distance": "As far as costs can tell: intensity costs as little, relative to distance, as in "
    "networks that measure distances by construction.",
    "between planted distance and templates": "In part: relative to distance, intensity costs more than in networks "
    "that measure distances by construction, and less than in networks that match templates.",
    "as with planted templates": "No: relative to distance, intensity costs as much as in networks that match "
    "templates by construction.",
    "not told": "Not told: the relative costs fit neither networks that measure distances by construction nor networks "
    "that match templates, or both.",
}
UNLIKE = (
    "Not told: one family of intensity costs as much as in one kind of planted networks, and another doesn't."
)
CONCLUSION = "conclusion"  # the audit's name for the sentence that this page asks about


def answers(
    study: StudyResults,
    verdict: Verdict | None,
    margin: float,
    command: str,
    audit: Audit | None = None,
    pictures: Mapping[str, Markup] | None = None,
    beside: Verdict | None = None,
    power: Table | None = None,
) -> Markup:
    """Return an answer for each network.

    Args:
        study: the results.
        verdict: the verdict, if it was made.
        margin: the smallest difference that matters, in points of accuracy.
        command: the command that makes a verdict.
        audit: the audit, if it was made.
        pictures: by network, the picture that shows a verdict.
        beside: the comparisons of distance with noise, if noise was measured.
        power: how often the rules are right on planted studies, if that was kept.
    """
    if verdict is None:
        cards = [
            tag(
                "div", tag("h3", display_name(name)), tag("p", _described(study, name, margin)), class_="card"
            )
            for name in networks(study)
        ]
        none = tag(
            "p",
            tag("strong", "No verdict was made for this study, so the question isn't answered. "),
            "Levels of different families aren't changes of equal size and can't be compared with each other. "
            "A verdict compares them at equal displacement: ",
            tag("code", command),
        )
        return tag("div", none, tag("div", cards, class_="cards"))
    return tag(
        "div",
        [_card(verdict, name, audit, (pictures or {}).get(name), beside, power) for name in verdict.networks],
        class_="cards",
    )


def _card(
    verdict: Verdict,
    network: str,
    audit: Audit | None,
    picture: Markup | None,
    beside: Verdict | None,
    power: Table | None,
) -> Markup:
    finding = verdict.finding(network)
    own = _of(verdict.comparisons, network)
    concluded = [] if audit is None else [each for each in audit.sentences if each.name == CONCLUSION]
    mechanism, planted = mechanism_words(verdict, network, beside), planted_table(verdict, network)
    return tag(
        "div",
        tag("h3", display_name(network)),
        tag("p", headline(verdict, network), class_="finding"),
        tag("p", tag("strong", "Is it distance? "), mechanism, class_="mechanism") if mechanism else None,
        to_html(planted) if planted else None,
        [
            tag(
                "p",
                tag("strong", "The audit of the paper\u2019s conclusion: "),
                f"\u201c{each.text}\u201d ",
                tag("strong", f"{sentence_case(each.finding)}."),
                _why_undecided(verdict, network) if each.finding == "not decided" else "",
            )
            for each in concluded
            if each.network == network
        ],
        tag("p", tag("strong", "By how much: "), _by_how_much(own, verdict)),
        tag("p", tag("strong", "How sure: "), _how_sure(own, verdict), power_words(power, network)),
        picture,
        tag("p", tag("strong", "What would change it: "), robustness(verdict, network)),
        to_html(ways_table(verdict, network)) if verdict.checks else None,
        tag("p", tag("strong", "The choice of families: "), families_words(verdict, network)),
        class_="card",
        data_finding=finding,
    )


def _why_undecided(verdict: Verdict, network: str) -> str:
    """Return why a conclusion isn't decided, if the checks of the direction are the reason."""
    checks = verdict.robustness(network)
    return (
        f" A direction counts only if all checks hold; this one {checks}."
        if checks not in ("", "robust")
        else ""
    )


def _of(rows: Iterable[Comparison], network: str) -> list[Comparison]:
    return [row for row in rows if row.network == network]


def headline(verdict: Verdict, network: str) -> str:
    """Return the finding on a network in a sentence, with how often it was found, by the rules and by the checks."""
    finding, own = verdict.finding(network), _of(verdict.comparisons, network)
    words = ANSWERS.get(finding, finding).format(minimum=verdict.rules.minimum_runs)
    if finding not in DIRECTIONS:
        return f"{words}."
    count = sum(row.finding == finding for row in own)
    results = verdict.checked(network)
    turned = [CHECKS[result.check] for result in results if result.outcome == "turns"]
    open_ones = [CHECKS[result.check] for result in results if result.outcome not in ("turns", "holds")]
    found = f"{words} at equal displacement, in {count} of {len(own)} comparisons on training images"
    if turned:
        return f"It depends on how it is measured. {found}; but {_listed(turned)} also {_find(turned)} the opposite."
    if open_ones or not results:
        unsettled = f"; not confirmed by {_listed(open_ones)}" if open_ones else "; no check was made"
        return f"{found}{unsettled}."
    counts = [
        sum(row.finding == finding for row in _of(verdict.checks[result.check], network))
        for result in results
    ]
    often = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{min(counts)}"
    return f"{found}; other ways of measuring find it in {often} of {len(own)}, and never the opposite."


def _find(names: Sequence[str]) -> str:
    return "finds" if len(names) == 1 else "find"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _measured(row: Comparison) -> bool:
    return bool(row.n) and math.isfinite(row.difference)


def _by_how_much(own: list[Comparison], verdict: Verdict) -> str:
    """Return a sentence with the least and the greatest difference among the comparisons that were measured."""
    rows = sorted(filter(_measured, own), key=lambda row: row.difference)
    if not rows:
        return "no difference was measured."
    measure = verdict.rules.measure.replace("_", " ")
    words = [_row_words(row) for row in dict.fromkeys((rows[-1], rows[0]))]
    return (
        f"D, the cost of distance minus the cost of intensity, in points of {measure} on training images: "
        f"{', down to '.join(words)}."
    )


def _number(value: float) -> float:
    """Return a value rounded as it is printed, without the sign of a zero."""
    return round(value, 2) + 0.0


def _points(row: Comparison) -> str:
    """Return D with its interval; a zero has no sign."""
    value, interval = _number(row.difference), ""
    if row.low is not None and row.high is not None:
        interval = f" [{_number(row.low):.2f} to {_number(row.high):.2f}]"
    return f"{value:+.2f}{interval}" if value else f"0.00{interval}"


def _span(row: Comparison) -> Span | None:
    """Return the interval of D as a cell."""
    return None if row.low is None or row.high is None else Span(row.low, row.high)


def _row_words(row: Comparison) -> str:
    return f"{_points(row)} ({row.intensity}, displacement {100 * row.target:g} %)"


def _how_sure(own: list[Comparison], verdict: Verdict) -> str:
    rules, counts = verdict.rules, Counter(row.finding for row in own)
    found = ", ".join(f"{name} in {count}" for name, count in counts.most_common())
    runs = sorted({row.n for row in own})
    over = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    return (
        f"of {len(own)} comparisons over {over} runs: {found}. Margin {points(rules.margin)}, {rules.test} test, "
        f"family-wise error rate {rules.alpha:g}; the intervals of D here are {_confidence(verdict)}."
    )


def power_words(power: Table | None, network: str) -> str:
    """Return how often the rules are right on planted studies with a network's activation and the most runs.

    Args:
        power: the table of `nearzero power`, if it was kept.
        network: the network; the name of its activation.
    """
    names = [column.name for column in power.columns] if power else []
    rows = [dict(zip(names, map(str, row), strict=True)) for row in (power.rows if power else ())]
    own = [row for row in rows if row.get("activation") == display_name(network)]
    most = max((int(row["runs"]) for row in own), default=0)
    said = [_power_row(row) for row in own if int(row["runs"]) == most]
    if not said:
        return ""
    strengths = _listed(sorted({row["strength"] for row in own}))
    return (
        f" In planted studies of {most} runs (strength {strengths}) these rules find {'; '.join(said)}; with 95 % "
        "intervals."
    )


def _power_row(row: Mapping[str, str]) -> str:
    if row["mechanism"] == "null":
        return f"a direction where nothing differs in {row['wrong direction']}"
    if row["mechanism"] == "mixed":
        return f"in networks that do half of each: {row['findings']} of {row['studies']} (they can't tell these apart)"
    return f"planted {row['mechanism']} in {row['right']} and the opposite in {row['wrong direction']}"


def _confidence(verdict: Verdict) -> str:
    return f"{100 * (1 - 2 * verdict.rules.alpha):g} %"


def robustness(verdict: Verdict, network: str) -> str:
    """Return the rule by which a direction is called robust, and what each check says."""
    finding, results = verdict.finding(network), verdict.checked(network)
    if not results:
        return (
            "no direction was found, so there is none to check; more runs or other sizes might find one."
            if finding not in DIRECTIONS
            else "no check was asked for."
        )
    rule = (
        f"the verdict is repeated in {len(results)} other ways. A way holds if it finds \u201c{finding}\u201d in at "
        "least one comparison and the opposite in none; it need not find it as often or as large."
    )
    outcomes: dict[str, list[str]] = {}
    for result in results:
        outcomes.setdefault(result.outcome, []).append(CHECKS[result.check])
    phrases = {
        "turns": "the opposite is found too by",
        "undecided": "undecided:",
        "not measured": "not measured:",
        "holds": "it holds by",
    }
    found = (
        f"{words} {', '.join(outcomes[outcome])}" for outcome, words in phrases.items() if outcome in outcomes
    )
    said = "; ".join(found)
    return f"{rule} {sentence_case(said)}."


def ways_table(verdict: Verdict, network: str) -> Table:
    """Return in how many comparisons each way of measuring finds what, and the D that is most against the finding."""
    sources = {"the rules": verdict.comparisons}
    sources |= {CHECKS[check]: rows for check, rows in verdict.checks.items()}
    ways = {name: _of(rows, network) for name, rows in sources.items()}
    met = {row.finding for rows in ways.values() for row in rows}
    findings = [name for name in get_args(Finding) if name in met or name in DIRECTIONS]
    against = _against(verdict.finding(network))
    rows: list[tuple[Cell, ...]] = []
    for name, own in ways.items():
        counts = Counter(row.finding for row in own)
        extremes = [_extreme(own, choose) for choose in against]
        rows.append((name, *extremes, *(counts[finding] for finding in findings)))
    return Table(
        name=f"ways-{network}",
        title="In how many comparisons each way of measuring finds what",
        caption=(
            "Distance, intensity: it costs more; same: equivalent; none: no effect; open: inconclusive. All on "
            f"training images, held-out data on test images. D in points, with its {_confidence(verdict)} interval."
        ),
        columns=(
            Column("way", "way", kind="text"),
            *(
                Column(choose.__name__, "least D" if choose is min else "greatest D", kind="text")
                for choose in against
            ),
            *(
                Column(finding.replace(" ", "_"), SHORT.get(finding, finding), kind="count")
                for finding in findings
            ),
        ),
        rows=tuple(rows),
        group="way",
    )


def _against(finding: str) -> tuple[Callable[..., Any], ...]:
    """Return what finds the D that speaks most against a finding; for no direction, both extremes."""
    return (min,) if finding == DIRECTIONS[0] else (max,) if finding == DIRECTIONS[1] else (min, max)


def _extreme(own: Sequence[Comparison], choose: Callable[..., Comparison]) -> str | None:
    measured = [*filter(_measured, own)]
    if not measured:
        return None
    row = choose(measured, key=lambda each: each.difference)
    return f"{_points(row)}, {row.intensity} {100 * row.target:g} %"


def families_words(verdict: Verdict, network: str) -> str:
    """Return what the families that decide cost at the largest displacement that all reach, and which others differ."""
    decides = roles(verdict.rules)
    for target in sorted(map(float, verdict.costs.target.values), reverse=True):
        means = _mean_costs(verdict, network, target)
        if set(decides) <= set(means):
            break
    else:
        return "at no displacement do all families that decide have a cost."
    costs = ", ".join(f"{name} {_number(means[name]):.2f} (as {role})" for name, role in decides.items())
    other = _other_answers(means, verdict)
    return (
        f"those that decide cost, at displacement {100 * target:g} % and in points, {costs}. "
        + (f"The choice matters: {'; '.join(other)}. " if other else "No other family reverses this order. ")
        + "The study's spec says which decide."
    )


def mechanism_words(verdict: Verdict, network: str, beside: Verdict | None = None) -> str:
    """Return where a network lies among networks with a planted mechanism, and what distance costs beyond noise.

    Args:
        verdict: the verdict.
        network: the network.
        beside: the comparisons of distance with noise, of `against_noise`.

    Returns:
        Sentences on the largest displacement; "" if no relative cost is defined and noise wasn't measured.
    """
    placed = placed_at_largest(verdict, network)
    places = {each.place for each in placed if each.bands}
    words = [LIKENESS[places.pop()] if len(places) == 1 else UNLIKE] if places else []
    noises = _largest(beside, network)
    if noises:
        rows = ", ".join(f"{_points(row)} ({row.intensity})" for row in noises)
        words.append(
            "Noise of the same size doesn't tell, since in both kinds of networks it costs about as much as distance; "
            f"here distance costs, minus noise, at displacement {100 * noises[0].target:g} %, {rows}."
        )
    return " ".join(words)


def planted_table(verdict: Verdict, network: str) -> Table | None:
    """Return what intensity costs relative to distance, beside planted networks; None if there are none of these."""
    placed = [each for each in placed_at_largest(verdict, network) if each.bands]
    if not placed:
        return None
    return Table(
        name=f"planted-{network}",
        title="Costs relative to that of distance",
        caption=(
            f"At displacement {100 * placed[0].cost.target:g} %, with 95 % intervals (Fieller). Planted: 5 to 95 % of "
            "the networks that measure distances, or match templates, by construction."
        ),
        columns=(
            Column("family", "family", kind="text"),
            Column("relative", "this network", kind="text"),
            *(Column(name, words, kind="interval") for name, words in MECHANISMS.items()),
        ),
        rows=tuple(
            (
                each.cost.intensity,
                each.cost.ratio.text,
                *(Span(*each.bands[name]) if name in each.bands else None for name in MECHANISMS),
            )
            for each in placed
        ),
        group="family",
    )


def _mean_costs(verdict: Verdict, network: str, target: float) -> dict[str, float]:
    """Return the mean cost over runs of every family that reaches a displacement."""
    own = verdict.costs.sel(network=network, target=target)
    runs = {str(name): _finite(own.sel(family=name).values) for name in own.family.values}
    return {name: float(mean(values)) for name, values in runs.items() if values.size}


def _other_answers(means: Mapping[str, float], verdict: Verdict) -> list[str]:
    """Return the families by which the order of the mean costs would be another one, in words."""
    rules, decides = verdict.rules, roles(verdict.rules)
    others = {name: cost for name, cost in means.items() if name not in decides}
    distance = {name: means[name] for name in rules.distance}
    intensity = {name: means[name] for name in rules.intensity}
    whole = sum(distance.values()) / len(distance)
    order = 1 if whole > max(intensity.values()) else -1
    nearest = max(intensity, key=lambda name: order * intensity[name])
    against = intensity[nearest]
    groups: dict[str, list[str]] = {}
    for name, cost in others.items():
        reading, said = reading_of(name), f"{name} {_number(cost):.2f}"
        if reading == "intensity" and order * (whole - cost) < 0:
            groups.setdefault(f"of intensity, {_than(cost, whole)} than distance", []).append(said)
        elif reading == "distance" and order * (cost - against) < 0:
            groups.setdefault(f"of distance, {_than(cost, against)} than {nearest}", []).append(said)
        elif reading == "neither" and cost > whole - rules.margin:
            groups.setdefault("neither of them, as much as distance or more", []).append(said)
    return [f"{_listed(names)} ({words})" for words, names in groups.items()]


def _than(cost: float, other: float) -> str:
    return "more" if cost > other else "less"


def within(study: StudyResults, network: str, family: str, margin: float) -> tuple[float, float] | None:
    """Return the levels around the identity between which the mean accuracy stays within a margin.

    Returns:
        The least and the greatest measured level that are reached from the level with the greatest mean accuracy
        without falling by more than the margin below the unperturbed mean; None if no level is within it.
    """
    own = curve(study, network, family)
    whole = float(mean(_finite(unperturbed(study, network))))
    means = np.array([mean(_finite(runs)) for runs in own.accuracy])
    inside = means >= whole - margin
    if not inside.any():
        return None
    best = int(np.where(inside, means, -np.inf).argmax())
    first = last = best
    while first > 0 and inside[first - 1]:
        first -= 1
    while last + 1 < len(inside) and inside[last + 1]:
        last += 1
    return float(own.levels[first]), float(own.levels[last])


def _finite(values: np.ndarray) -> np.ndarray:
    return np.asarray(values[np.isfinite(values)])


def _level(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def _described(study: StudyResults, network: str, margin: float) -> str:
    whole = summarise(unperturbed(study, network))
    if not whole.n:
        return "No run has an accuracy: all of them diverged."
    parts = []
    for family in families(study):
        levels = within(study, network, family, margin)
        between = (
            "at no level" if levels is None else f"from level {_level(levels[0])} to {_level(levels[1])}"
        )
        parts.append(f"{family} {between}")
    return (
        f"Unperturbed training accuracy {whole.mean:.2f} %. The mean over {number_of(whole.n, 'run')} stays within "
        f"{points(margin)} of it for: {'; '.join(parts)}."
    )


def numbers_table(study: StudyResults, verdict: Verdict | None, beside: Verdict | None = None) -> Table:
    """Return the few numbers that carry the answer: accuracies with intervals, and the largest differences.

    Args:
        study: the results.
        verdict: the verdict, if it was made.
        beside: the comparisons of distance with noise, if noise was measured.
    """
    rows: list[tuple[Cell, ...]] = []
    level = "" if verdict is None else _confidence(verdict)
    for network in networks(study):
        name = display_name(network)
        for quantity, words in (
            ("train_accuracy", "training accuracy, %"),
            ("test_accuracy", "test accuracy, %"),
        ):
            if quantity in study.history:
                summary = summarise(final_values(study, network, quantity))
                interval = Span.of(summary, least=0.0, most=100.0)
                rows.append((name, words, summary.n, Number.of(summary.mean), interval, "95 %"))
        for row in (*_largest(verdict, network), *_largest(beside, network)):
            interval = _span(row)
            words = f"D, points: distance minus {row.intensity}, displacement {100 * row.target:g} %"
            rows.append((name, words, row.n, Number.of(row.difference, signed=True), interval, level))
        rows.extend((name, *row) for row in _extremes(verdict, network))
    return Table(
        name="numbers",
        title="The numbers that carry the answer",
        caption=(
            "Means over n runs with t intervals; accuracies unperturbed."
            + (
                " D: cost of distance minus that of another family in the same runs. Least and greatest D: over all "
                "comparisons by the rules and by every check."
                if verdict is not None
                else ""
            )
        ),
        columns=(
            Column("network", "network", kind="text"),
            Column("quantity", "quantity", kind="text"),
            Column("n", "n", kind="count"),
            Column("mean", "mean"),
            Column("interval", "interval", kind="interval"),
            Column("confidence", "confidence", kind="text"),
        ),
        rows=tuple(rows),
    )


def _largest(verdict: Verdict | None, network: str) -> list[Comparison]:
    """Return the comparisons of a network at the largest displacement that any of them reaches."""
    own = [row for row in (verdict.comparisons if verdict else ()) if row.network == network and row.n]
    return [row for row in own if row.target == max(each.target for each in own)]


def _extremes(verdict: Verdict | None, network: str) -> Iterator[tuple[Cell, ...]]:
    """Yield the least and the greatest D of a network over all ways of measuring, if there is more than one way."""
    if verdict is None or not verdict.checks:
        return
    ways = [("by the rules", verdict.comparisons)]
    ways += [(f"by {CHECKS[check]}", rows) for check, rows in verdict.checks.items()]
    found = [(row, way) for way, rows in ways for row in _of(rows, network) if _measured(row)]
    for choose in (min, max) if found else ():
        row, way = choose(found, key=lambda each: each[0].difference)
        interval = _span(row)
        words = (
            f"{'least' if choose is min else 'greatest'} D, points: distance minus {row.intensity}, displacement "
            f"{100 * row.target:g} %, {way}"
        )
        yield words, row.n, Number.of(row.difference, signed=True), interval, _confidence(verdict)
