"""A verdict as tables: every comparison by the rules, and what every family costs at each displacement.

The rules, and what follows from them, are in `nearzero.analysis.verdict`; how tables look is decided in `render`.
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
    """Both tables."""
    return comparisons_table(verdict, title), costs_table(verdict, title)


def comparisons_table(verdict: Verdict, title: str) -> Table:
    """A row for each network, family of intensity and displacement; the finding is what the rules say."""
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
        rows=tuple(map(_row, verdict.comparisons)),
        notices=tuple(_notices(verdict)),
    )


def _row(each: Comparison) -> tuple[Cell, ...]:
    return (
        display_name(each.network),
        each.intensity,
        Number(100 * each.target, 0),
        each.n,
        Number.of(each.distance_cost),
        Number.of(each.intensity_cost),
        Number.of(each.difference, signed=True),
        None if each.low is None or each.high is None else Span(each.low, each.high),
        Number.of(each.effect),
        _p(each.p_adjusted),
        _p(each.p_sign_flip),
        f"{each.finding} ({each.words})" if each.words else each.finding,
    )


def _p(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"


def _notices(verdict: Verdict) -> Iterator[str]:
    yield from verdict.rules.notices
    for network, reasons in verdict.left_out.items():
        yield from (f"{display_name(network)}: {reason}" for reason in reasons)


def costs_table(verdict: Verdict, title: str) -> Table:
    """What every family costs at each displacement, means over runs; those that never decide too."""
    targets = [float(each) for each in verdict.costs.target.values]
    measure = verdict.rules.measure.replace("_", " ")
    deciding = {*verdict.rules.distance, *verdict.rules.intensity}
    rows = []
    for network in verdict.networks:
        for family in verdict.costs.family.values:
            found = verdict.costs.sel(network=network, family=family).transpose("target", "run").values
            means = (Number.of(float(mean(runs[np.isfinite(runs)]))) for runs in found)
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
            *(Column(f"d{100 * each:g}", f"d = {100 * each:g} %", unit="points") for each in targets),
        ),
        rows=tuple(rows),
    )
