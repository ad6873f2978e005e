"""Tables 1 to 4 of the paper from a study's results, with the published number beside every measured one.

Each function returns a `Table`. `render` decides on its layout, `comparison` on agreement with the paper.
Tables 2 to 4 always have both t-tests: against the identity, which is the right baseline, and against entry
50 of the grid, which the published tests used.
"""

import math
from collections.abc import Iterator
from itertools import zip_longest
from typing import TypeVar

from nearzero.paper.published import published
from nearzero.report.captions import conduct_words
from nearzero.report.comparison import PublishedComparison, compare_baseline, compare_responses, reproduction
from nearzero.report.results import (
    Curve,
    Floats,
    StudyResults,
    curve,
    display_name,
    families,
    final_values,
    networks,
    splits,
    unperturbed,
)
from nearzero.report.table import Cell, Column, Level, Number, Span, Table, TAndP
from nearzero.statistics.paired import paired_t_test
from nearzero.statistics.summaries import Summary, summarise

__all__ = ["baseline_table", "differing_table", "heldout_table", "response_table", "tables"]

Item = TypeVar("Item")

_SAMPLE = (
    "mean, sample standard deviation (sd, ddof 1) and 95 % t interval of the mean over n runs, at the grid "
    "level nearest each published level."
)
_NUMBERS = {"scale": 2, "clip": 3, "offset": 4}
_FAMILIES = {"scale": "Intensity scale", "clip": "Intensity clip", "offset": "Distance offset"}
_QUANTITIES = {
    "train_accuracy": "train accuracy, %",
    "test_accuracy": "test accuracy, %",
    "loss": "loss, nats",
}

_MEASURED = (
    Column("network", "network", kind="text"),
    Column("level", "level, %", "level\n%"),
    Column("grid_level", "grid, %", "grid\n%", spare=1),
    Column("n", "n", kind="count"),
    Column("accuracy", "accuracy, %", "acc.\n%", unit="percent"),
    Column("sd_ddof1", "sd", unit="percent", spare=4),
    Column("interval95", "95 % interval", "95 %\ninterval", kind="interval", unit="percent", spare=3),
)
_PUBLISHED = (
    Column("published_accuracy", "published, %", "publ.\n%", unit="percent"),
    Column("difference", "difference", "diff.", unit="points"),
    Column("difference_standard_errors", "in s.e.", "in\ns.e.", spare=6),
)
_IDENTITY = Column("identity", "vs identity", "t, p\nvs identity", kind="test")
_ENTRY = Column("entry50", "vs entry 50", "t, p\nvs entry 50", kind="test", spare=2)
_PUBLISHED_TEST = Column("published", "published", "t, p\npublished", kind="test", spare=5)
_BASELINE = (
    Column("network", "network", kind="text"),
    Column("quantity", "quantity", kind="text"),
    Column("n", "n", kind="count"),
    Column("mean", "mean"),
    Column("sd_ddof0", "sd"),
    Column("interval95", "95 % interval", kind="interval"),
    Column("published_mean", "published mean", "published\nmean"),
    Column("published_sd_ddof0", "published sd", "published\nsd", spare=1),
    Column("difference", "difference"),
    Column("difference_standard_errors", "in s.e.", spare=2),
)
_PUBLISHED_COLUMNS = 4  # the last ones of _BASELINE
_DIFFERING = (
    Column("network", "network", kind="text"),
    Column("family", "family", kind="text"),
    Column("level", "level, %"),
    Column("grid_level", "grid, %"),
    Column("published_accuracy", "published, %", unit="percent"),
    Column("measured_accuracy", "measured, %", unit="percent"),
    Column("difference", "difference", unit="points"),
    Column("difference_standard_errors", "in s.e."),
)


def tables(study: StudyResults) -> tuple[Table, ...]:
    """Return every table of a study: 1, those of 2 to 4 that were swept, the same on the test set, differing rows.

    A study that departs from the published one has no published numbers in its tables, and no differing rows.
    """
    swept = [family for family in _NUMBERS if family in families(study)]
    heldout = [heldout_table(study, family) for family in swept if "test" in splits(study)]
    responses = [response_table(study, family) for family in swept]
    differing = () if study.departures else (differing_table(study),)
    return (baseline_table(study), *responses, *heldout, *differing)


def baseline_table(study: StudyResults) -> Table:
    """Return table 1: accuracy and loss at the end of training, a row for each network and quantity."""
    published_too = not study.departures
    compared = (
        "Difference: measured less published, also in standard errors (s.e.) of the difference of the two means."
        if published_too
        else str(reproduction(study))
    )
    rows = [
        _baseline_row(study, network, quantity)[: None if published_too else -_PUBLISHED_COLUMNS]
        for network in networks(study)
        for quantity in _QUANTITIES
        if quantity in study.history
    ]
    return Table(
        name="table1_baseline",
        title=f"Table 1. Baseline: {study.title}",
        caption=(
            "The networks at the end of training: mean, population standard deviation (sd, ddof 0, as published) "
            f"and 95 % t interval of the mean over n runs. {compared} {conduct_words(study.conduct)}"
        ),
        columns=_BASELINE[: None if published_too else -_PUBLISHED_COLUMNS],
        rows=tuple(rows),
        notices=study.notices,
    )


def response_table(study: StudyResults, family: str) -> Table:
    """Return table 2 (scale), 3 (clip) or 4 (offset): accuracy on the training set at each published level.

    Args:
        study: the results.
        family: "scale", "clip" or "offset".
    """
    compare = not study.departures
    rows = [row for network in networks(study) for row in _response_rows(study, network, family, compare)]
    compared = (
        "Difference: measured less published, in points and in standard errors (s.e., our deviation taken for both "
        "sides)."
        if compare
        else str(reproduction(study))
    )
    entry = published().ttest_entry
    levels = curve(study, networks(study)[0], family).levels
    place = f" (level {Level(float(levels[entry]))} %)" if entry < len(levels) else ""
    return Table(
        name=f"table{_NUMBERS[family]}_{family}",
        title=f"Table {_NUMBERS[family]}. {_FAMILIES[family]}: {study.title}",
        caption=(
            f"Accuracy over the training set: {_SAMPLE} {compared} t, p: two-sided paired t-test over "
            "runs, baseline less perturbed; against the identity (the unperturbed network), and against "
            f"entry {entry} of the grid{place}, which the published tests took for the baseline. "
            f"{conduct_words(study.conduct)}"
        ),
        columns=(
            *_MEASURED,
            *(_PUBLISHED if compare else ()),
            *_leading_first(study, _IDENTITY, _ENTRY),
            *((_PUBLISHED_TEST,) if compare else ()),
        ),
        rows=tuple(rows),
        notices=study.notices,
    )


def heldout_table(study: StudyResults, family: str) -> Table:
    """Return table 2, 3 or 4 for the test set, tested against the identity; the paper has no such table."""
    rows: list[tuple[Cell, ...]] = []
    for network in networks(study):
        grid, identity = curve(study, network, family, "test"), unperturbed(study, network, "test")
        name = display_name(network)
        rows.append((name, Level(None), None, *_summary_cells(summarise(identity)), None))
        for row in published().families[family]:
            runs, cells = _measured(grid, row.level)
            rows.append((name, Level(row.level), *cells, _test(identity, runs)))
    return Table(
        name=f"table{_NUMBERS[family]}_{family}_test",
        title=f"Table {_NUMBERS[family]}, test set. {_FAMILIES[family]}: {study.title}",
        caption=(
            f"Accuracy over the test set, which neither training nor the unit ranges saw: {_SAMPLE} t, p: "
            "two-sided paired t-test over runs, identity less perturbed. Nothing published compares. "
            f"{conduct_words(study.conduct)}"
        ),
        columns=(*_MEASURED, _IDENTITY),
        rows=tuple(rows),
        notices=study.notices,
    )


def differing_table(study: StudyResults) -> Table:
    """Return the rows of tables 2 to 4 that do not agree with the paper, and in the title the number of those that do.

    Rows without a measured value come last, if the study has their network and family; other such rows are
    counted in the title only.
    """
    reproduced = reproduction(study)
    unmeasured = [
        row
        for row in reproduced.unmeasured
        if row.network in networks(study) and row.quantity in families(study)
    ]
    rows = [
        (
            display_name(row.network),
            row.quantity,
            Level(row.level),
            None if row.grid_level is None else Level(row.grid_level),
            Number.of(row.published),
            None if row.measured is None else Number.of(row.measured.mean),
            *_difference(row),
        )
        for row in (*reproduced.differing, *unmeasured)
    ]
    return Table(
        name="differing_rows",
        title=f"Rows that differ from the paper: {study.title}. {reproduced}",
        caption=(
            "The paper gives no deviations here, so ours is taken for both sides: a standard error (s.e.) is "
            f"sd * sqrt(1 / n + 1 / {published().runs}). {conduct_words(study.conduct)}"
        ),
        columns=_DIFFERING,
        rows=tuple(rows),
        notices=study.notices,
    )


def _baseline_row(study: StudyResults, network: str, quantity: str) -> tuple[Cell, ...]:
    decimals = 4 if quantity == "loss" else 2
    summary = summarise(final_values(study, network, quantity))
    facts = None if study.departures else published().baseline.get(network)
    number = None if facts is None else getattr(facts, quantity.removesuffix("_accuracy"))
    comparisons = () if facts is None else compare_baseline(study, network)
    comparison = next((row for row in comparisons if row.quantity == quantity), None)
    return (
        display_name(network),
        _QUANTITIES[quantity],
        summary.n,
        Number.of(summary.mean, decimals),
        Number.of(summary.population_sd if summary.n > 1 else None, decimals),
        Span.of(summary, decimals, least=0.0, most=math.inf if quantity == "loss" else 100.0),
        Number.of(None if number is None else number.mean, decimals),
        Number.of(None if number is None else number.sd, decimals),
        *_difference(comparison, decimals),
    )


def _response_rows(
    study: StudyResults, network: str, family: str, compare: bool
) -> Iterator[tuple[Cell, ...]]:
    """Yield a row for the unperturbed network, then one for each published level; `compare` adds published numbers."""
    name = display_name(network)
    grid, identity = curve(study, network, family), unperturbed(study, network)
    entry = grid.entry(published().ttest_entry)
    measured = _summary_cells(summarise(identity))
    tests = _leading_first(study, None, _test(entry, identity))  # the identity isn't tested against itself
    empty: tuple[Cell, ...] = (None, None, None) if compare else ()
    yield (name, Level(None), None, *measured, *empty, *tests, *empty[:1])
    facts = published()
    comparisons = compare_responses(study, network, family) if compare and network in facts.baseline else ()
    for row, comparison in zip_longest(facts.families[family], comparisons):
        runs, cells = _measured(grid, row.level)
        tests = _leading_first(study, _test(identity, runs), _test(entry, runs))
        if not compare:
            yield (name, Level(row.level), *cells, *tests)
            continue
        accuracy: Cell = None
        test: Cell = None
        if (response := row.networks.get(network)) is not None:
            accuracy, test = Number.of(response.accuracy), TAndP(response.t, response.p, facts.runs)
        yield (name, Level(row.level), *cells, accuracy, *_difference(comparison), *tests, test)


def _leading_first(study: StudyResults, identity: Item, entry: Item) -> tuple[Item, Item]:
    """Return the cells of both t-tests, first the one that the switch `ttest_baseline` names."""
    return (entry, identity) if study.conduct.get("ttest_baseline") == "published" else (identity, entry)


def _measured(grid: Curve, level: float) -> tuple[Floats | None, tuple[Cell, ...]]:
    """Return the runs at the grid level nearest to a level, and the cells from grid level to interval."""
    index = grid.nearest(level)
    if index is None:
        return None, (None, 0, None, None, None)
    runs = grid.accuracy[index]
    return runs, (Level(float(grid.levels[index])), *_summary_cells(summarise(runs)))


def _summary_cells(summary: Summary) -> tuple[Cell, ...]:
    """Return the cells of a summary of accuracies in percent."""
    interval = Span.of(summary, least=0.0, most=100.0)
    return summary.n, Number.of(summary.mean), Number.of(summary.sd), interval


def _difference(comparison: PublishedComparison | None, decimals: int = 2) -> tuple[Cell, ...]:
    if comparison is None:
        return None, None
    return (
        Number.of(comparison.difference, decimals, signed=True),
        Number.of(comparison.in_standard_errors, 1, signed=True),
    )


def _test(baseline: Floats | None, runs: Floats | None) -> Cell:
    if runs is None:
        return None
    if baseline is None:
        return TAndP(None, None, None, "no such entry")
    test = paired_t_test(baseline, runs)
    return TAndP(test.t, test.p, test.n, test.reason)
