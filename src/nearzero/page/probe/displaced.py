"""The part of a probe's page on responses at equal displacement: what distance and intensity cost in each layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from nearzero.analysis.verdict import Rules, Verdict, verdict
from nearzero.errors import InputError
from nearzero.page.charts import Chart, figure
from nearzero.page.curves import cost_charts
from nearzero.report.render.html import to_html
from nearzero.report.render.markup import Markup, tag
from nearzero.report.table import Cell, Column, Number, Table
from nearzero.report.verdict import comparisons_table, costs_table

__all__ = ["Displaced"]

MOST_CHARTS = 12
DESCRIBED = ("network", "intensity", "displacement", "distance_cost", "intensity_cost", "difference")


@dataclass(frozen=True, eq=False)
class Displaced:
    """The responses of one model at levels of equal displacement.

    Attributes:
        matched: the responses on (layer, family, side, target), see `nz.matched`.
        described: the costs and their differences by the default rules; None if `reason` says what they lack.
        reason: why there is no description; "" if there is one.
        charts: what each change costs in each of the first layers.
    """

    matched: xr.Dataset
    described: Verdict | None
    reason: str
    charts: Sequence[Chart]

    @classmethod
    def of(cls, matched: xr.Dataset) -> Displaced:
        """Return what a page shows of responses at matched displacement."""
        try:
            described = verdict([matched], Rules(targets=tuple(map(float, matched.target.values))))
        except InputError as error:
            return cls(matched, None, str(error), ())
        charts = cost_charts(described, MOST_CHARTS)
        return cls(matched, described, "", [_of_one_network(chart) for chart in charts])

    def panel(self) -> Markup:
        """Return charts and tables."""
        attributes = self.matched.attrs
        halves = (
            "Levels at which the activations of a layer change by the same share of their spread. The reference half "
            f"of the examples ({attributes['reference_examples']:,}) sets unit ranges and levels; the responses are "
            f"those of the other half ({attributes['examples']:,}). There is one network, so nothing is tested."
        )
        whole = _responses_table(self.matched)
        return tag(
            "div",
            tag("p", halves),
            self._described(),
            tag("details", tag("summary", "All responses at equal displacement"), to_html(whole)),
        )

    def _described(self) -> Markup:
        found = self.described
        if found is None:
            return tag("p", f"Distance and intensity aren't compared: {self.reason}.")
        left, layers = len(found.networks) - len(self.charts), len(found.networks)
        return tag(
            "div",
            tag("div", [figure(chart) for chart in self.charts], class_="charts"),
            tag("p", f"Charts: the first {len(self.charts)} of {layers} layers.", class_="caption")
            if left
            else None,
            [to_html(table) for table in _tables(found)],
        )


def _of_one_network(chart: Chart) -> Chart:
    """Return a chart of costs of one layer, which has no bands."""
    description = f"{chart.description.split('. ')[0]}, for one network."
    return replace(chart, title=f"layer {chart.title}", description=description)


def _tables(found: Verdict) -> Iterator[Table]:
    """Return the tables of costs without what a single network has none of: intervals, tests, findings."""
    table = comparisons_table(found, "")
    places = [[column.name for column in table.columns].index(name) for name in DESCRIBED]
    measure = found.rules.measure.replace("_", " ")
    yield replace(
        table,
        name="described",
        title="Distance against intensity at equal displacement",
        caption=(
            f"Points of {measure} lost. D: the cost of distance ({', '.join(found.rules.distance)}, sides averaged) "
            "minus that of intensity. A description of one network, without intervals."
        ),
        columns=tuple(_layer_column(table.columns[place]) for place in places),
        rows=tuple(tuple(row[place] for place in places) for row in table.rows),
        group="layer",
    )
    costs = costs_table(found, "")
    yield replace(
        costs,
        title="What every family costs at equal displacement",
        caption=costs.caption.replace("means over runs, ", ""),
        columns=(_layer_column(costs.columns[0]), *costs.columns[1:]),
        group="layer",
    )


def _layer_column(column: Column) -> Column:
    return replace(column, name="layer", header="layer") if column.name == "network" else column


def _responses_table(matched: xr.Dataset) -> Table:
    """Return a table with a row for each layer, family, side and displacement that is reached."""
    rows: list[tuple[Cell, ...]] = []
    measure = "accuracy" if "accuracy" in matched else "agreement"
    axes = ("layer", "family", "side", "target")
    labels = [matched[axis].values.tolist() for axis in axes]
    values, levels = (matched[name].transpose(*axes).values for name in (measure, "level"))
    bases = matched[f"unperturbed_{measure}"].values
    for place in np.argwhere(np.isfinite(values)).tolist():
        layer, family, side, target = (names[at] for names, at in zip(labels, place, strict=True))
        value, base, level = (
            float(held[tuple(at)]) for held, at in ((values, place), (bases, place[:1]), (levels, place))
        )
        change = Number.of(100 * value - 100 * base, signed=True)
        where = (str(layer), str(family), str(side), Number(100 * float(target), 0))
        rows.append((*where, f"{level:.4g}", Number.of(100 * value), change))
    return Table(
        name="displaced",
        title="Responses at equal displacement",
        caption=(
            f"{measure.capitalize()} in percent, and minus the unperturbed one. Where no level reaches a displacement "
            "there is no row."
        ),
        columns=(
            Column("layer", "layer", kind="text"),
            Column("family", "family", kind="text"),
            Column("side", "side", kind="text"),
            Column("displacement", "displacement, %"),
            Column("level", "level"),
            Column(measure, f"{measure}, %"),
            Column("change", "minus unperturbed"),
        ),
        rows=tuple(rows),
        group="layer",
    )
