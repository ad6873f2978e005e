"""Charts of a page as Vega-Lite specifications, with their data as columns. `assets/charts.js` shows them.

Each colour has one meaning: blue is distance, red is intensity, grey is a family that is neither. Families of one
reading differ by their dashes, networks by the panel in which they are. A colour stands here as the name of a variable
of the style sheet, such as "var(--distance)"; the page's script puts in its value, since that follows the theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nearzero.report.figures.scales import READINGS, reading_of
from nearzero.report.render.markup import Markup, tag

__all__ = ["Chart", "family_of", "figure", "swatch"]

Value = float | int | str | None
THIN, THICK = 1.1, 2.2  # of the lines below the identity, and of all others
WIDTH = {"condition": {"test": "indexof(datum.series, ' below') > 0", "value": THIN}, "value": THICK}
# The words of a tooltip; its x and y are those of the axes.
TOOLTIP = {"series": "family", "x": "x", "y": "y", "low": "95 % from", "high": "95 % to", "n": "runs"}
DASHES = ([1, 0], [6, 3], [2, 2], [12, 3], [8, 2, 2, 2], [1, 4], [4, 5])


def dash_of(family: str) -> list[int]:
    """Return the dashes of a family's line, the same on every page; a user's own family has the last ones."""
    for families in READINGS.values():
        if family in families:
            return DASHES[families.index(family)]
    return DASHES[-1]


@dataclass(frozen=True)
class Chart:
    """Lines with bands: a mean against x, one line for each series.

    Attributes:
        name: unique in the page.
        title: above it; `description` is for readers who don't see it.
        x, y: titles of the axes.
        columns: "series", "x", "y", "low", "high" and "n"; a series is a family, and may have a side after a blank.
        headings: names of these columns in a CSV file.
        marks: the same columns of points that are drawn over the lines, with open markers.
        marked: what these points are, in one word.
        logarithmic: whether x is.
        group: charts of a group are switched together.
        y_range: the ends of the y axis, for charts side by side that are to be compared; those of the values if None.
        labels: what the switches choose by, such as the network and the axis.
    """

    name: str
    title: str
    description: str
    x: str
    y: str
    columns: Mapping[str, Sequence[Value]]
    headings: Mapping[str, str]
    marks: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    marked: str = "published"
    logarithmic: bool = False
    group: str = ""
    y_range: tuple[float, float] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def series(self) -> list[str]:
        """Return the names of the series, in order."""
        return list(dict.fromkeys(map(str, self.columns["series"])))

    def values(self) -> dict[str, Any]:
        """Return all that the page's script needs, for JSON."""
        return {
            "title": self.title,
            "spec": self._spec(),
            "columns": dict(self.columns),
            "marks": dict(self.marks),
            "marked": self.marked,
            "headings": dict(self.headings),
            "logarithmic": self.logarithmic,
            "group": self.group,
            "labels": dict(self.labels),
            "series": {name: reading_of(family_of(name)) for name in self.series},
            "names": {name: human_name(name) for name in self.series},
        }

    def _spec(self) -> dict[str, Any]:
        positions = [float(value) for value in self.columns["x"] if value is not None]
        return {
            "width": "container",
            "height": 260,
            "autosize": {"type": "fit-x", "contains": "padding"},
            "description": self.description,
            "padding": 4,
            "data": {"name": "rows"},
            "params": [
                {"name": "x0", "value": min(positions, default=0.0)},
                {"name": "x1", "value": max(positions, default=1.0)},
                {"name": "shown", "value": self.series},
                {"name": "marked", "value": True},
            ],
            "layer": self._layers(),
        }

    def _layers(self) -> list[dict[str, Any]]:
        """Return bands, lines, published points, and the points that the pointer finds."""
        x, y, colour, dash = self._x(), self._y(), self._colour(), self._dash()
        lines = {"x": x, "color": colour, "detail": {"field": "series"}}
        shown = [{"filter": "indexof(shown, datum.series) >= 0"}]
        band = {
            "transform": shown,
            "mark": {"type": "area", "opacity": 0.18, "clip": True, "aria": False},
            "encoding": lines | {"y": y | {"field": "low"}, "y2": {"field": "high"}},
        }
        line = {
            "transform": shown,
            "mark": {"type": "line", "clip": True, "aria": False},
            "encoding": lines | {"y": y, "strokeDash": dash, "strokeWidth": WIDTH},
        }
        marks = {
            "data": {"name": "marks"},
            "transform": [*shown, {"filter": "marked"}],
            "mark": {"type": "point", "filled": False, "size": 38, "clip": True, "aria": False},
            "encoding": {"x": x, "y": y, "color": {"value": "var(--ink)"}},
        }
        hover = {"type": "point", "on": "pointerover", "clear": "pointerout", "nearest": True}
        words = TOOLTIP | {"x": self.x, "y": self.y}
        found = {
            "opacity": {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0},
            "tooltip": [
                {"field": "name" if key == "series" else key, "title": words[key], "type": "nominal"}
                for key in words
                if key in self.headings
            ],
        }
        points = {
            "transform": shown,
            "mark": {"type": "point", "clip": True, "filled": True, "size": 60, "aria": False},
            "params": [{"name": "hover", "select": hover}],
            "encoding": lines | {"y": y} | found,
        }
        return [band, line, *([marks] if self.marks else []), points]

    def _x(self) -> dict[str, Any]:
        scale = {"type": "log"} if self.logarithmic else {"type": "linear", "zero": False}
        domain = {"domainMin": {"expr": "x0"}, "domainMax": {"expr": "x1"}, "nice": False}
        axis = {"tickCount": 6, "labelFlush": True, "labelOverlap": True}
        return {"field": "x", "type": "quantitative", "title": self.x, "scale": scale | domain, "axis": axis}

    def _y(self) -> dict[str, Any]:
        scale: dict[str, Any] = {"zero": False}
        if self.y_range is not None:
            scale |= {"domain": list(self.y_range), "nice": True}
        return {"field": "y", "type": "quantitative", "title": self.y, "scale": scale}

    def _colour(self) -> dict[str, Any]:
        scale = {"domain": list(READINGS), "range": [f"var(--{reading})" for reading in READINGS]}
        return {"field": "reading", "type": "nominal", "legend": None, "scale": scale}

    def _dash(self) -> dict[str, Any]:
        names = self.series
        scale = {"domain": names, "range": [dash_of(family_of(name)) for name in names]}
        return {"field": "series", "type": "nominal", "legend": None, "scale": scale}


def width_of(series: str) -> float:
    """Return the width of a series' line: thin below the identity, else thick."""
    return THIN if series.endswith(" below") else THICK


def human_name(series: str) -> str:
    """Return a series as a reader sees it: its reading, its family, and the side of the identity if there is one.

    Example:
        >>> from nearzero.page.charts import human_name
        >>> human_name("signed_shift"), human_name("shift below")
        ('distance: signed_shift', 'distance: shift, below the identity')
    """
    family, _, side = series.partition(" ")
    reading = reading_of(family)
    words = family if reading == "neither" else f"{reading}: {family}"
    return f"{words}, {side} the identity" if side else words


def family_of(series: str) -> str:
    """Return the family of a series, whose name may have a side after a blank."""
    return series.split(" ")[0]


def figure(chart: Chart) -> Markup:
    """Return the element in which the page's script shows a chart, with its buttons."""
    buttons = [
        tag("button", label, type="button", data_do=do, title=title)
        for do, label, title in (
            ("in", "+", "Zoom in"),
            ("out", "−", "Zoom out"),
            ("left", "←", "Move to the left"),
            ("right", "→", "Move to the right"),
            ("all", "All", "Show all levels"),
            ("png", "PNG", "Save the picture as PNG"),
            ("svg", "SVG", "Save the picture as SVG"),
            ("csv", "CSV", "Save the values as CSV"),
        )
    ]
    return tag(
        "figure",
        tag("figcaption", chart.title),
        tag("p", _key(chart), class_="legend"),
        tag("div", class_="plot", role="img", aria_label=chart.description),
        tag("div", buttons, class_="tools", role="group", aria_label=f"Tools: {chart.title}"),
        tag("details", tag("summary", "Values"), tag("div", class_="scroll", tabindex=0), class_="values"),
        class_="chart",
        data_chart=chart.name,
    )


def _key(chart: Chart) -> list[Markup]:
    """Return a swatch of the line of each series, with its name.

    It has the reading where the chart has several of them, and the side where the family has several.
    """
    families = [family_of(name) for name in chart.series]
    mixed = len({reading_of(family) for family in families}) > 1
    return [
        tag("span", swatch(name), _key_words(name, mixed, families.count(family) > 1), data_series=name)
        for name, family in zip(chart.series, families, strict=True)
    ]


def _key_words(series: str, mixed: bool, sided: bool) -> str:
    family, _, side = series.partition(" ")
    words = human_name(family) if mixed else family
    return f"{words}, {side}" if sided else words


def swatch(series: str) -> Markup:
    """Return a piece of the line of a series."""
    family = family_of(series)
    line = tag(
        "line",
        x1=0,
        y1=4,
        x2=28,
        y2=4,
        stroke=f"var(--{reading_of(family)})",
        stroke_width=width_of(series),
        stroke_dasharray=" ".join(map(str, dash_of(family))),
    )
    return tag("svg", line, class_="swatch", viewBox="0 0 28 8", aria_hidden="true")
