"""A verdict as tables: every comparison by the rules, and the cost of every family at each displacement.

The rules and their application are in `nearzero.analysis.verdict`; `render` decides on the layout of tables.
"""

from collections.abc import Iterator

import numpy as np

from nearzero.analysis.verdict import Comparison, Verdict
from nearzero.report.results import display_name
from nearzero.report.table import Cell, Column, Number, Span, Table
from nearzero.statistics.summaries import mean

__all__ = ["comparisons_table", "costs_table", "judged_tables"]

_COMPARISONS = (
    Column("network", "network", kind="text"),
    Column("intensity", "intensity", kind="text"),
    Column("displacement", "displacement, %", "d\n%"),
    Column("n", "n", kind="count", spare=1),
    Column("distance_cost", "cost of distance", "distance\npoints", unit="points"),
    Column("intensity_cost", "cost of intensity", "intensity\npoints", unit="points"),
    Column("difference", "difference", "D\npoints", unit="points"),
    Column("interval90", "90 % interval", "90 %\ninterval", kind="interval", unit="points"),
    Column("effect", "effect size", "g_z", spare=3),
    Column("p_adjusted", "p, Holm", "p, Holm", kind="text", spare=2),
    Column("p_sign_flip", "p, sign flips", "p, signs", kind="text", spare=4),
    Column("finding", "finding", kind="text"),
)


def judged_tables(verdict: Verdict, title: str) -> tuple[Table, Table]:
    """Return both tables: comparisons and costs."""
    return comparisons_table(verdict, title), costs_table(verdict, title)


def comparisons_table(verdict: Verdict, title: str) -> Table:
    """Return a table with a row for each network, intensity family and displacement, and with the rules' finding."""
    rules = verdict.rules
    measure = rules.measure.replace("_", " ")
    share = f"{100 * (1 - 2 * rules.alpha):g} %"
    return Table(
        name="verdict",
        title=f"Verdict: {title}",
        caption=(
            f"Costs in points of {measure}, means over n runs, data fixed: what the unperturbed network has more. D is "
            f"the cost of distance ({', '.join(rules.distance)}, sides averaged) minus that of intensity, with its "
            f"{share} t interval. p of the paired t-test, adjusted by Holm over all rows; sign flips: "
            f"exact, not adjusted. Margin {rules.margin:g} points, alpha {rules.alpha:g}."
        ),
        columns=_COMPARISONS,
        rows=tuple(map(_comparison_row, verdict.comparisons)),
        notices=tuple(_notices(verdict)),
    )


def _comparison_row(row: Comparison) -> tuple[Cell, ...]:
    return (
        display_name(row.network),
        row.intensity,
        Number(100 * row.target, 0),
        row.n,
        Number.of(row.distance_cost),
        Number.of(row.intensity_cost),
        Number.of(row.difference, signed=True),
        None if row.low is None or row.high is None else Span(row.low, row.high),
        Number.of(row.effect),
        _p(row.p_adjusted),
        _p(row.p_sign_flip),
        f"{row.finding} ({row.words})" if row.words else row.finding,
    )


def _p(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"


def _notices(verdict: Verdict) -> Iterator[str]:
    yield from verdict.rules.notices
    for network, reasons in verdict.left_out.items():
        yield from (f"{display_name(network)}: {reason}" for reason in reasons)


def costs_table(verdict: Verdict, title: str) -> Table:
    """Return a table of the mean cost over runs of every family at each displacement, deciding or not."""
    targets = [float(target) for target in verdict.costs.target.values]
    measure = verdict.rules.measure.replace("_", " ")
    deciding = {*verdict.rules.distance, *verdict.rules.intensity}
    rows = []
    for network in verdict.networks:
        for family in verdict.costs.family.values:
            costs = verdict.costs.sel(network=network, family=family).transpose("target", "run").values
            means = (Number.of(float(mean(runs[np.isfinite(runs)]))) for runs in costs)
            rows.append((display_name(network), str(family), "yes" if family in deciding else "no", *means))
    return Table(
        name="costs",
        title=f"Costs at matched displacement: {title}",
        caption=(
            f"Points of {measure} lost, means over runs, the sides of a family averaged; a dash: some side or draw "
            "doesn't reach the displacement. Families that don't decide are here for reading."
        ),
        columns=(
            Column("network", "network", kind="text"),
            Column("family", "family", kind="text"),
            Column("decides", "decides", kind="text"),
            *(Column(f"d{100 * target:g}", f"d = {100 * target:g} %", unit="points") for target in targets),
        ),
        rows=tuple(rows),
    )
