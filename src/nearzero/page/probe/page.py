"""The page of a probe: its sections, from the responses of the layers of one model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.page.charts import Chart, family_of, figure
from nearzero.page.document import PageData, Section, document
from nearzero.page.examples import SEED
from nearzero.page.methods import methods
from nearzero.page.probe.cells import Cells, Ends, class_arrays, metrics_of
from nearzero.page.probe.displaced import Displaced
from nearzero.page.probe.items import PageItems
from nearzero.page.probe.panels import cell_panel, item_panel, map_panel, unit_panel
from nearzero.report.figures.scales import SHARES, level_title, metric_text, reading_of, spelled
from nearzero.report.render.html import to_html
from nearzero.report.render.markup import Markup, tag
from nearzero.report.table import Cell, Column, Number, Span, Table
from nearzero.support.words import number_of

__all__ = ["ProbeContents", "probe_page"]

ONE_NETWORK = (
    "This is one trained network. Its numbers say nothing about other trainings of the same model, for which runs are "
    "the unit of inference: nz.judge_runs compares several."
)
BOOTSTRAP = (
    "Intervals are 95 % percentile bootstrap intervals over examples, all items of an example together, with the model "
    "fixed. Each is for its cell alone; one without a width comes from examples that are all alike, and isn't certain."
)
KNOWN = ("agreement", "kl_divergence")  # of the unperturbed model with itself, 1 and 0
NO_ITEMS = "There are no intervals, classes or examples: the probe didn't keep its items (keep_items=True)."


@dataclass(frozen=True, eq=False)
class ProbeContents:
    """All that the page of a probe is made from.

    Attributes:
        cells: where the probe measured.
        title: a line that names the model and the data.
        notes: what restricts the numbers.
        layers, assumptions: tables of the layers, and of what was assumed.
        intervals: by metric, `low` and `high` on (layer, family, level); empty without items.
        plain: by metric, the interval of the unperturbed value; empty without items.
        by_class: by metric, the means per class, on (layer, family, level, target); empty without classes.
        classes: the classes that are embedded, their numbers of items, and how many classes there are.
        names: of classes, by their number; or None.
        items: the embedded examples, if the probe kept its items.
        displaced: the responses at equal displacement, if the probe had a design.
        code: what makes the page again.
    """

    cells: Cells
    title: str
    notes: Sequence[str]
    layers: Table
    assumptions: Table | None
    intervals: Mapping[str, xr.Dataset]
    plain: Mapping[str, Ends]
    by_class: Mapping[str, xr.DataArray]
    classes: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]
    names: Sequence[str] | None
    items: PageItems | None
    displaced: Displaced | None
    code: str

    @property
    def response(self) -> xr.Dataset:
        """Return the responses of the probe."""
        return self.cells.response

    @property
    def versions(self) -> dict[str, str]:
        """Return the versions of packages by which the probe was measured; {} if unknown."""
        return dict(json.loads(self.response.attrs.get("versions", "{}")))


def probe_page(contents: ProbeContents) -> str:
    """Return the page of a probe."""
    charts = _charts(contents)
    further = () if contents.displaced is None else contents.displaced.charts
    sections = [
        Section("cell", "One cell: its curve, and each class", _cell(contents, charts), "Cell"),
        Section("units", "Units of a layer", unit_panel("unit_minimum" in contents.response), "Units"),
        *_items(contents),
        *_displaced(contents.displaced),
        Section("layers", "Layers", to_html(contents.layers), "Layers"),
        Section("assumed", "What was assumed, and notes", _assumed(contents), "Assumed"),
        Section(
            "methods",
            "Methods, citation, code",
            methods(_methods_text(contents), contents.versions.get("nearzero", "unknown"), contents.code),
            "Methods",
        ),
    ]
    return document(
        f"nearzero: {contents.title}", _lead(contents), sections, _data(contents, [*charts, *further])
    )


def _data(contents: ProbeContents, charts: Sequence[Chart]) -> PageData:
    cells, (classes, counts, total) = contents.cells, contents.classes
    values: dict[str, Any] = cells.values(contents.plain)
    arrays = cells.arrays(contents.intervals)
    if contents.by_class:
        arrays |= class_arrays(cells, contents.by_class, classes.tolist())
    values["classes"] = {
        "numbers": classes.tolist(),
        "counts": counts.tolist(),
        "total": total,
        "names": [class_name(contents.names, number) for number in classes.tolist()],
    }
    if contents.items is not None:
        arrays |= contents.items.arrays
        targets = np.unique(contents.items.arrays.get("item/target", np.zeros(0, np.int64))).tolist()
        named = (
            {}
            if contents.names is None
            else {str(each): class_name(contents.names, each) for each in targets}
        )
        values["items"] = contents.items.values | {"names": named}
    return PageData({"charts": {chart.name: chart.values() for chart in charts}, "probe": values}, arrays)


def class_name(names: Sequence[str] | None, number: int) -> str:
    """Return the name of a class; its number, if it has none."""
    return str(names[number]) if names is not None and 0 <= number < len(names) else str(number)


# --- the first screen ---


def _lead(contents: ProbeContents) -> Markup:
    response = contents.response
    return tag(
        "section",
        tag("h1", f"What does {response.attrs['model']} lose when the units of one layer are perturbed?"),
        tag("p", contents.title, class_="subtitle"),
        tag("p", _measured(contents)),
        tag("div", _cards(contents), class_="cards"),
        tag("p", tag("b", "Notice: "), ONE_NETWORK, class_="notice"),
        map_panel(_labels(response)),
        to_html(_numbers(contents)),
        tag("h2", "What was probed"),
        tag("dl", [(tag("dt", name), tag("dd", words)) for name, words in _run(contents).items()]),
        id="answer",
        aria_label="The answer",
    )


def _labels(response: xr.Dataset) -> dict[str, str]:
    """Return the metrics as words, by name."""
    return {name: spelled(name) for name in metrics_of(response)}


def _measured(contents: ProbeContents) -> str:
    """Return one sentence on what was measured, with the unperturbed metrics."""
    response = contents.response
    values = []
    for name in [name for name in metrics_of(response) if name not in KNOWN] or metrics_of(response):
        value = metric_text(name, float(response[f"unperturbed_{name}"]))
        values.append(f"{spelled(name)} {value}{_interval(name, contents.plain.get(name))}")
    layers, cells = response.sizes["layer"], len(contents.cells)
    noun = "layer was" if layers == 1 else f"{layers} layers were"
    return (
        f"{'One' if layers == 1 else 'Its'} {noun} perturbed{'' if layers == 1 else ' one at a time'}, at {cells:,} "
        f"levels in all, on {_counted(response)}; unperturbed: {', '.join(values)}."
    )


def _counted(response: xr.Dataset) -> str:
    examples, items = (int(response.attrs[name]) for name in ("examples", "items"))
    whole = number_of(examples, "example")
    return whole if items == examples else f"{number_of(items, 'item')} of {whole}"


def _interval(metric: str, ends: Ends | None) -> str:
    """Return the ends of an interval in brackets; "" if there is none."""
    if ends is None or not np.isfinite(ends).all():
        return ""
    low, high = (metric_text(metric, end) for end in ends)
    return f" (95 % interval {low.removesuffix(' %')} to {high})"


@dataclass(frozen=True)
class _Extreme:
    """The cell of a family whose first metric differs most from the unperturbed one."""

    family: str
    layer: str
    level: float
    value: float
    ends: Ends | None


def _extremes(contents: ProbeContents) -> list[_Extreme]:
    cells, name = contents.cells, metrics_of(contents.response)[0]
    response, (layers, families, _) = cells.response, cells.places
    values = cells.take(response[name]).astype(np.float64)
    distances = np.abs(values - float(response[f"unperturbed_{name}"]))
    found = []
    for place, family in enumerate(map(str, response.family.values)):
        own = np.flatnonzero((families == place) & np.isfinite(distances))
        if not own.size:
            continue
        cell = int(own[distances[own].argmax()])
        held = contents.intervals.get(name)
        ends = (
            None if held is None else (float(cells.take(held.low)[cell]), float(cells.take(held.high)[cell]))
        )
        layer = str(response.layer.values[layers[cell]])
        found.append(_Extreme(family, layer, float(cells.levels[cell]), float(values[cell]), ends))
    return found


def _cards(contents: ProbeContents) -> list[Markup]:
    """Return a card for each family: the response that differs most from the unperturbed one."""
    name = metrics_of(contents.response)[0]
    base = float(contents.response[f"unperturbed_{name}"])
    cards = []
    for row in _extremes(contents):
        finding = f"{spelled(name)} {metric_text(name, row.value)}{_interval(name, row.ends)}"
        place = (
            f"at level {row.level:.4g} in layer {row.layer}, where it differs most from the unperturbed "
            f"{metric_text(name, base)}. {_spread(contents, row.family, base)}"
        )
        if row.value == base:
            finding, place = (
                f"{spelled(name)} stays {metric_text(name, base)}",
                "at every level, in every layer.",
            )
        heading = tag("h3", f"{spelled(row.family)}{_reading(row.family)}")
        cards.append(tag("div", heading, tag("p", finding, class_="finding"), tag("p", place), class_="card"))
    return cards


def _reading(family: str) -> str:
    reading = reading_of(family)
    return "" if reading == "neither" else f" ({reading})"


def _spread(contents: ProbeContents, family: str, base: float) -> str:
    """Return a sentence on the layer that a family changes least at its most harmful level."""
    response, name = contents.response, metrics_of(contents.response)[0]
    own = abs(response[name].sel(family=family) - base).max("level").dropna("layer")
    if own.sizes["layer"] < 2:
        return ""
    least = own.isel(layer=int(own.values.argmin()))
    change = metric_text(name, float(least))
    change = f"{change.removesuffix(' %')} points" if name in SHARES else change
    return f"Layer {least.layer.item()} changes least, by {change} at most."


def _numbers(contents: ProbeContents) -> Table:
    """Return the table of the numbers on the first screen."""
    name = metrics_of(contents.response)[0]
    factor, decimals = (100.0, 2) if name in SHARES else (1.0, 4)
    base = float(contents.response[f"unperturbed_{name}"])
    unit = ", %" if name in SHARES else ""
    rows: list[tuple[Cell, ...]] = [
        (
            row.family,
            row.layer,
            f"{row.level:.4g}",
            Number.of(factor * row.value, decimals),
            None
            if row.ends is None or not np.isfinite(row.ends).all()
            else Span(factor * row.ends[0], factor * row.ends[1], decimals),
            Number.of(factor * (row.value - base), decimals, signed=True),
        )
        for row in _extremes(contents)
    ]
    return Table(
        name="numbers",
        title="The numbers that carry it: the most extreme response of each family",
        caption=(
            f"{BOOTSTRAP if contents.intervals else NO_ITEMS} The cell was chosen as the most extreme one, for which "
            "neither value nor interval is corrected."
        ),
        columns=(
            Column("family", "family", kind="text"),
            Column("layer", "layer", kind="text"),
            Column("level", "level"),
            Column("value", f"{spelled(name)}{unit}"),
            Column("interval", "95 % interval", kind="interval"),
            Column("change", "minus unperturbed"),
        ),
        rows=tuple(rows),
        group="family",
    )


def _run(contents: ProbeContents) -> dict[str, str]:
    response = contents.response
    layers = [str(name) for name in response.layer.values]
    levels = (
        f"{name}: {len(own)}, from {own.min():.4g} to {own.max():.4g}"
        for place, name in enumerate(map(str, response.family.values))
        if (own := contents.cells.family_levels(place)).size
    )
    conducts = dict.fromkeys(
        f"offset {offset}, range {side}"
        for offset, side in zip(response.offset.values, response.range.values, strict=True)
    )
    versions = ", ".join(f"{name} {version}" for name, version in contents.versions.items())
    return {
        "model": f"{response.attrs['model']}, as it was when it was probed",
        "layers": f"{len(layers)}: {', '.join(layers[:8])}{' and others' if len(layers) > 8 else ''}",
        "data": _counted(response),
        "levels": "; ".join(levels),
        "conduct": "; ".join(conducts),
        "versions": versions or "not recorded",
    }


# --- the sections ---


def _charts(contents: ProbeContents) -> list[Chart]:
    """Return a chart for each family, with the curve of the first layer; the script puts in others."""
    response, name = contents.response, metrics_of(contents.response)[0]
    factor = 100.0 if name in SHARES else 1.0
    charts = []
    for place, family in enumerate(map(str, response.family.values)):
        positions = contents.cells.family_levels(place)
        positions = positions[np.isfinite(positions)]
        if not positions.size:
            continue
        curve = response[name].sel(family=family).isel(layer=0).sel(level=positions).values
        values = [None if np.isnan(value) else factor * float(value) for value in curve]
        chart = Chart(
            name=f"cell-{place}",
            title=f"{spelled(family)}",
            description=f"A metric of the model against the level of {family} in one layer, and its 95 % interval.",
            x=level_title(family),
            y=f"{spelled(name)}{', %' if name in SHARES else ''}",
            columns={
                "series": [*[family] * len(values), *["unperturbed"] * 2],
                "x": [*positions.tolist(), float(positions[0]), float(positions[-1])],
                "y": [*values, None, None],
                "low": [None] * (len(values) + 2),
                "high": [None] * (len(values) + 2),
            },
            headings={
                "series": "family",
                "x": "level",
                "y": "value",
                "low": "interval95_low",
                "high": "interval95_high",
            },
            marks={"series": [family], "x": [float(positions[0])], "y": [values[0]]},
            marked="chosen",
            logarithmic=contents.cells.values({})["families"][place]["logarithmic"],
            group="cell",
            labels={"family": family_of(family)},
        )
        charts.append(chart)
    return charts


def _cell(contents: ProbeContents, charts: Sequence[Chart]) -> Markup:
    _, counts, total = contents.classes
    return tag(
        "div",
        cell_panel(_labels(contents.response), [figure(chart) for chart in charts], bool(contents.by_class)),
        tag("p", BOOTSTRAP if contents.intervals else NO_ITEMS, class_="caption"),
        tag(
            "p",
            f"Classes: the {len(counts)} with the most items, of {total:,}." if len(counts) < total else "",
            class_="caption",
        )
        if contents.by_class
        else None,
    )


def _items(contents: ProbeContents) -> list[Section]:
    items = contents.items
    if items is None:
        return []
    count, total = len(items.examples), items.total
    which = (
        f"all {number_of(total, 'example')}"
        if count == total
        else f"{count:,} of the {total:,} examples, drawn with seed {SEED}"
    )
    cut = f", of each the first {items.most} tokens that count" if items.most else ""
    words = f"The page holds {which}{cut}. Change: the metric at the chosen cell minus the unperturbed one."
    heading = "Tokens" if items.tokens else "Examples"
    panel = item_panel(_labels(contents.response), items.tokens, "images" in items.arrays)
    return [Section("examples", heading, tag("div", tag("p", words), panel))]


def _displaced(displaced: Displaced | None) -> list[Section]:
    if displaced is None:
        return []
    return [
        Section(
            "displaced", "Distance and intensity at equal displacement", displaced.panel(), "Displacement"
        )
    ]


def _assumed(contents: ProbeContents) -> Markup:
    return tag(
        "div",
        tag("p", "Nothing was recorded about what was assumed.")
        if contents.assumptions is None
        else to_html(contents.assumptions),
        tag("h3", "Notes"),
        tag("ul", [tag("li", note) for note in (*contents.notes, ONE_NETWORK)]),
    )


def _methods_text(contents: ProbeContents) -> str:
    response, name = contents.response, metrics_of(contents.response)[0]
    layers = response.sizes["layer"]
    families = ", ".join(map(str, response.family.values))
    text = (
        f"{'One layer' if layers == 1 else f'{layers} layers'} of {response.attrs['model']} "
        f"{'was' if layers == 1 else 'were'} perturbed with nearzero {contents.versions.get('nearzero', '')}"
        f"{'' if layers == 1 else ', one at a time'}: every unit's x was replaced by "
        f"y = min(max(scale x + offset, low), clip) at {len(contents.cells):,} levels of the families {families}, and "
        f"{' and '.join(map(spelled, metrics_of(response)))} were measured on {_counted(response)}. Conduct: "
        f"{_run(contents)['conduct']}. Unperturbed {spelled(name)}: "
        f"{metric_text(name, float(response[f'unperturbed_{name}']))}."
    )
    if contents.intervals:
        text += f" {BOOTSTRAP}"
    return f"{text} One network was probed, so nothing is claimed about other trainings."
