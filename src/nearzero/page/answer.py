"""The first screen of a study's page: the question, an answer for each network, and the numbers that carry it.

Without a verdict there is no answer to the question; then the sentences say what the responses show, and which
command makes a verdict.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from nearzero.analysis.verdict import CHECKS, Comparison, Verdict
from nearzero.paper.audit.values import points
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
from nearzero.support.markup import Markup, tag

__all__ = ["QUESTION", "answers", "numbers_table", "robustness", "within"]

QUESTION = "Do these hidden units measure distance or intensity?"
ANSWERS = {
    "distance costs more": "Distance. At equal displacement of the activations, moving a unit's boundary costs more "
    "accuracy than changing its intensity",
    "intensity costs more": "Intensity. At equal displacement of the activations, changing a unit's intensity costs "
    "more accuracy than moving its boundary",
    "mixed": "Both, depending on the size of the change and the kind of intensity",
    "equivalent": "Neither more than the other: both cost the same, within the margin",
    "no effect": "Not to be told: neither change costs anything at the sizes that were measured",
    "inconclusive": "Not decided by these runs",
    "description only": "Not judged: there are too few runs; the numbers describe them alone",
    "degenerate": "Not judged: all runs give the same difference",
    "not reached": "Not judged: the changes don't reach the sizes at which they were to be compared",
}


def answers(study: StudyResults, verdict: Verdict | None, margin: float, command: str) -> Markup:
    """Return an answer for each network.

    Args:
        study: the results.
        verdict: the verdict, if it was made.
        margin: the smallest difference that matters, in points of accuracy.
        command: the command that makes a verdict.
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
    return tag("div", [_card(verdict, name) for name in verdict.networks], class_="cards")


def _card(verdict: Verdict, network: str) -> Markup:
    finding = verdict.finding(network)
    own = [row for row in verdict.comparisons if row.network == network]
    return tag(
        "div",
        tag("h3", display_name(network)),
        tag("p", f"{ANSWERS.get(finding, finding)}{_reservation(verdict, network)}.", class_="finding"),
        tag("p", tag("strong", "By how much: "), _by_how_much(own, verdict)),
        tag("p", tag("strong", "How sure: "), _how_sure(own, verdict)),
        tag("p", tag("strong", "What would change it: "), robustness(verdict, network)),
        class_="card",
        data_finding=finding,
    )


def _reservation(verdict: Verdict, network: str) -> str:
    """Return whether the finding holds under all checks; "" if no direction was found."""
    phrase = verdict.robustness(network)
    if not phrase:
        return ""
    return (
        ", and all checks agree (robust)"
        if phrase == "robust"
        else ". But not all checks agree: it isn't robust"
    )


def _by_how_much(own: list[Comparison], verdict: Verdict) -> str:
    """Return a sentence with the least and the greatest difference among the comparisons that were measured."""
    rows = sorted(
        (row for row in own if row.n and math.isfinite(row.difference)), key=lambda row: row.difference
    )
    if not rows:
        return "no difference was measured."
    measure = verdict.rules.measure.replace("_", " ")
    words = [_row_words(row) for row in dict.fromkeys((rows[-1], rows[0]))]
    return f"cost of distance minus cost of intensity, in points of {measure}: {', down to '.join(words)}."


def _row_words(row: Comparison) -> str:
    interval = "" if row.low is None or row.high is None else f" [{row.low:.2f} to {row.high:.2f}]"
    return f"{row.difference:+.2f}{interval} ({row.intensity}, displacement {100 * row.target:g} %)"


def _how_sure(own: list[Comparison], verdict: Verdict) -> str:
    rules, counts = verdict.rules, Counter(row.finding for row in own)
    found = ", ".join(f"{name} in {count}" for name, count in counts.most_common())
    runs = sorted({row.n for row in own})
    over = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    return (
        f"of {len(own)} comparisons over {over} runs: {found}. Margin {points(rules.margin)}, {rules.test} test, "
        f"family-wise error rate {rules.alpha:g}; intervals are {100 * (1 - 2 * rules.alpha):g} %."
    )


def robustness(verdict: Verdict, network: str) -> str:
    """Return a sentence on the checks of a network's finding."""
    results = verdict.checked(network)
    if not results:
        return "no direction was found, so there is none to check; more runs or other sizes might find one."
    outcomes: dict[str, list[str]] = {}
    for result in results:
        outcomes.setdefault(result.outcome, []).append(CHECKS[result.check])
    if list(outcomes) == ["holds"]:
        return f"none of the {len(results)} other ways to measure: {', '.join(outcomes['holds'])}."
    phrases = {
        "turns": "it turns, for some comparison, if measured by",
        "undecided": "it is undecided by",
        "not measured": "not measured:",
        "holds": "it holds by",
    }
    found = (
        f"{words} {', '.join(outcomes[outcome])}" for outcome, words in phrases.items() if outcome in outcomes
    )
    return f"another way to measure: {'; '.join(found)}."


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
        f"Unperturbed training accuracy {whole.mean:.2f} %. The mean over {whole.n} runs stays within {points(margin)} "
        f"of it for: {'; '.join(parts)}."
    )


def numbers_table(study: StudyResults, verdict: Verdict | None) -> Table:
    """Return the few numbers that carry the answer: accuracies with intervals, and the largest difference."""
    rows: list[tuple[Cell, ...]] = []
    for network in networks(study):
        name = display_name(network)
        for quantity, words in (
            ("train_accuracy", "training accuracy, %"),
            ("test_accuracy", "test accuracy, %"),
        ):
            if quantity in study.history:
                summary = summarise(final_values(study, network, quantity))
                rows.append((name, words, summary.n, Number.of(summary.mean), Span.of(summary), "95 %"))
        for row in _largest(verdict, network):
            interval = None if row.low is None or row.high is None else Span(row.low, row.high)
            words = f"D, points: distance minus {row.intensity}, displacement {100 * row.target:g} %"
            rows.append((name, words, row.n, Number.of(row.difference, signed=True), interval, "90 %"))
    return Table(
        name="numbers",
        title="The numbers that carry the answer",
        caption=(
            "Means over n runs with t intervals; accuracies unperturbed."
            + (" D: cost of distance minus that of intensity." if verdict is not None else "")
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
