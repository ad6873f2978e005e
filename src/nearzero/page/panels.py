"""The panels of a page that its script brings to life: switches of curves, the unit explorer, and the examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nearzero.analysis.verdict import Rules
from nearzero.page.charts import Chart, family_of, swatch
from nearzero.page.examples import MatchedExamples
from nearzero.page.explorer import ALONE, CHANGED, EXTREME, Explorer
from nearzero.report.render.html import to_html
from nearzero.report.render.markup import Markup, tag
from nearzero.report.results import display_name
from nearzero.report.table import Cell, Column, Level, Number, Table

__all__ = [
    "curve_controls",
    "example_panel",
    "matched_panel",
    "matched_strips",
    "unit_panel",
    "unit_table",
]

AXES = {"displacement": "displacement", "level": "level"}  # equal sizes first: equal levels can't be compared


def curve_controls(charts: Sequence[Chart], published: bool, displaced: bool) -> Markup:
    """Return the switches of the response curves: axis, networks, splits, families, published points."""
    networks = {chart.labels["network"]: display_name(chart.labels["network"]) for chart in charts}
    splits = {chart.labels["split"]: f"{chart.labels['split']} set" for chart in charts}
    families = list(dict.fromkeys(family_of(name) for chart in charts for name in chart.series))
    axes = {
        name: {chart.labels["axis"] for chart in charts if name in map(family_of, chart.series)}
        for name in families
    }
    return tag(
        "form",
        _choice("axis", "Axis", AXES if displaced else {"level": "level"}),
        _boxes("network", "Networks", networks),
        _choice("split", "Examples", splits) if len(splits) > 1 else None,
        tag(
            "fieldset",
            tag("legend", "Families"),
            [
                tag(
                    "label",
                    tag("input", type="checkbox", name="family", value=name, checked=True),
                    swatch(name),
                    name,
                    data_axes=" ".join(sorted(axes[name])),
                )
                for name in families
            ],
        ),
        _boxes("published", "Published", {"yes": "published points"}, axes="level") if published else None,
        tag("p", _legend(), class_="legend"),
        id="curve-controls",
        class_="controls",
    )


def _legend() -> Iterable[Markup]:
    for reading, words in (
        ("distance", "distance"),
        ("intensity", "intensity"),
        ("neither", "neither (noise)"),
    ):
        yield tag("span", tag("span", class_=f"key {reading}"), words)


def _choice(name: str, legend: str, choices: dict[str, str]) -> Markup | None:
    if len(choices) < 2:
        return None
    return tag(
        "fieldset",
        tag("legend", legend),
        [
            tag("label", tag("input", type="radio", name=name, value=value, checked=not place), words)
            for place, (value, words) in enumerate(choices.items())
        ],
    )


def _boxes(name: str, legend: str, choices: dict[str, str], axes: str | None = None) -> Markup:
    """Return boxes, all ticked; those of some axes alone are hidden on the others."""
    return tag(
        "fieldset",
        tag("legend", legend),
        [
            tag("label", tag("input", type="checkbox", name=name, value=value, checked=True), words)
            for value, words in choices.items()
        ],
        data_axes=axes,
    )


def _networks(identity: str, explorers: Sequence[Explorer]) -> Markup:
    options = [
        tag("option", f"{each.values['label']}, run {each.values['run']}", value=each.key)
        for each in explorers
    ]
    return tag("label", "Network ", tag("select", options, id=identity))


HISTOGRAMS = (
    "One row for each class; grey: predicted right, purple: predicted wrong. Solid line: the unit's boundary; dashed: "
    "where the clip sets in. A bar that is too tall is shortened, and says how many examples it holds."
)
OFFSETS = {"shift": "a shift of the boundary alone", "offset": "the study's offset, which also scales"}
# name, label, title, least, greatest, step, start
SLIDERS = (
    ("scale", "scale", "factor of z", -1, 4, 0.01, 1),
    ("offset", "offset, unit ranges", "added to z, in unit ranges", -2, 1, 0.005, 0),
    (
        "clip",
        "clip, unit ranges",
        "upper bound, in unit ranges; at the right end nothing is clipped",
        0,
        1,
        0.005,
        1,
    ),
)


def unit_panel(explorers: Sequence[Explorer]) -> Markup:
    """Return the unit explorer, which `assets/explorer.js` runs."""
    return tag(
        "div",
        _unit_controls(explorers),
        tag("p", id="unit-why", class_="caption"),
        tag("p", id="unit-outcome", class_="outcome", role="status", aria_live="polite"),
        tag(
            "div",
            _histogram("Before: pre-activation z, by class", "unit-before-plot"),
            _histogram("After: activation of the perturbed z", "unit-after-plot"),
            class_="pair",
        ),
        tag("p", HISTOGRAMS, class_="caption"),
        tag("div", _confusion(), _weights(), class_="pair"),
        [
            (tag("h3", heading), tag("div", id=identity, class_="strip"))
            for heading, identity in (
                ("Nearest to the boundary", "unit-nearest"),
                ("Greatest activation", "unit-greatest"),
                ("Predictions that changed", "unit-changed"),
            )
        ],
        id="unit-explorer",
    )


def _unit_controls(explorers: Sequence[Explorer]) -> Markup:
    """Return the choices and sliders of the unit explorer."""
    last, offsets = explorers[0].values["units"] - 1, explorers[0].values["offsets"]
    chosen = tag(
        "div",
        _networks("unit-network", explorers),
        tag("label", "Unit ", tag("input", type="number", id="unit-number", min=0, max=last, value=0)),
        tag("button", "Previous unit", type="button", id="unit-before"),
        tag("button", "Next unit", type="button", id="unit-after"),
        class_="row",
    )
    scopes = {"one": "this unit", "all": "all units at once"}
    end = tag(
        "div",
        tag("label", tag("input", type="checkbox", id="unit-clipped"), "clip at this level"),
        tag("button", "Reset", type="button", id="unit-reset"),
        class_="row",
    )
    return tag(
        "div",
        chosen,
        _choice("scope", "Perturb", scopes),
        _choice("offset-as", "Offset acts as", {name: OFFSETS[name] for name in offsets}),
        [_slider(*each) for each in SLIDERS],
        tag("p", offsets["shift"], id="unit-equation", class_="caption", aria_live="polite"),
        end,
        class_="controls",
    )


def _slider(
    name: str, label: str, title: str, least: float, greatest: float, step: float, start: float
) -> Markup:
    """Return a slider, the same value as a number, and a place for its meaning."""
    identity = f"unit-{name}"
    return tag(
        "div",
        tag("label", label, for_=identity, title=title),
        tag(
            "input",
            type="range",
            id=identity,
            min=least,
            max=greatest,
            step=step,
            value=start,
            data_parameter=name,
        ),
        tag(
            "input",
            type="number",
            id=f"{identity}-number",
            step="any",
            value=start,
            aria_label=f"{label}, as a number",
            data_parameter=name,
        ),
        tag("output", class_="detail", id=f"{identity}-detail", for_=identity),
        class_="slider",
    )


def _confusion() -> Markup:
    table = tag(
        "div",
        id="unit-confusion",
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label="Confusion matrix",
    )
    words = tag("p", "Rows: labels; columns: predictions.", class_="caption")
    return tag("div", tag("h3", "Confusion matrix"), table, words, class_="half")


def _weights() -> Markup:
    words = "Black: negative, white: positive, each relative to the unit's greatest weight."
    shown = tag("div", id="unit-weights")
    return tag(
        "div", tag("h3", "Weights of the unit"), shown, tag("p", words, class_="caption"), class_="half"
    )


def _histogram(title: str, identity: str) -> Markup:
    """Return the place of a histogram, with buttons that save it."""
    buttons = [
        tag(
            "button",
            label,
            type="button",
            data_save=label.lower(),
            data_of=identity,
            title=f"Save as {label}",
        )
        for label in ("PNG", "SVG", "CSV")
    ]
    return tag(
        "figure",
        tag("figcaption", title),
        tag("div", id=identity, class_="histogram"),
        tag("div", buttons, class_="tools"),
        class_="half",
    )


SHOWN = 8  # examples of each set that changes at equal displacement
CHANGES = (
    Column("network", "network", kind="text"),
    Column("families", "families", kind="text"),
    Column("first", "first alone", kind="count"),
    Column("second", "second alone", kind="count"),
    Column("both", "both", kind="count"),
    Column("neither", "neither", kind="count"),
)
UNITS = (
    Column("unit", "unit", kind="count"),
    Column("state", "state", kind="text"),
    Column("silent", "activation 0, %", unit="percent"),
    Column("near", "class entropy near zero, bits"),
    Column("far", "far out, bits"),
    Column("below", "alone, below"),
    Column("above", "alone, above"),
    Column("removed", "changed without it, %", unit="percent"),
)


def unit_table(explorer: Explorer) -> Markup:
    """Return the table of a network's units; the script shows the one of the chosen network, and adds buttons."""
    rows: list[tuple[Cell, ...]] = [
        (
            row.unit,
            "dead" if row.dead else "live",
            Number(100 * row.silent, 1),
            Number(row.near),
            Number(row.far),
            _level(row.below),
            _level(row.above),
            Number(100 * row.removed),
        )
        for row in explorer.units
    ]
    name = f"{explorer.values['label']}, run {explorer.values['run']}"
    tried = ", ".join(f"{100 * level:g}" for level in ALONE)
    table = Table(
        name=f"units-{explorer.key}",
        title=f"Units of {name}",
        caption=(
            f"On the page's examples. Class entropy: of the {100 * EXTREME:g} % of examples nearest to z = 0, and "
            "farthest from it; 0 if all are of one class. Alone: the least shift of this unit alone, in % of its "
            f"range, at which {100 * CHANGED:g} % of the predictions change, among {tried} %; a dash: none does. "
            "Changed without it: predictions that change if the unit's activation is set to 0."
        ),
        columns=UNITS,
        rows=tuple(rows),
        group="state",
    )
    return tag("div", to_html(table), class_="units", data_network=explorer.key)


def _level(value: float | None) -> Level | None:
    return None if value is None else Level(value)


def matched_strips(key: str, found: MatchedExamples | None, rules: Rules) -> list[dict[str, Any]]:
    """Return the first examples of each set that changes at equal displacement, as `assets/examples.js` shows them."""
    if found is None:
        return []
    return [
        {
            "id": _strip(key, pair, number),
            "items": [{"n": int(n), "lines": _changes(found, pair, n)} for n in np.flatnonzero(own)[:SHOWN]],
        }
        for pair in _pairs(found, rules)
        for number, own in enumerate(found.sets(*pair))
    ]


def _pairs(found: MatchedExamples, rules: Rules) -> list[tuple[str, str]]:
    """Return each family of distance with each family of intensity."""
    measured = _families(found)
    return [
        (first, second)
        for first in rules.distance
        for second in rules.intensity
        if first in measured and second in measured
    ]


def _families(found: MatchedExamples) -> list[str]:
    return list(dict.fromkeys(name for name, _ in found.levels))


def _strip(key: str, pair: tuple[str, str], number: int) -> str:
    return f"matched-{key}-{'-'.join(pair)}-{number}"


def _changes(found: MatchedExamples, pair: tuple[str, str], n: int) -> list[str]:
    """Return the lines below an example: its label, and the prediction under each family."""
    changes = [f"{name}: {own[n]}" for (name, _), own in found.predictions.items() if name in pair]
    return [f"label {found.labels[n]}", *changes]


def matched_panel(
    explorers: Sequence[Explorer], changed: Sequence[MatchedExamples | None], rules: Rules
) -> Markup:
    """Return which examples change under distance and under intensity at equal displacement, with counts and images."""
    parts, rows, sentences = [], list[tuple[Cell, ...]](), []
    for explorer, found in zip(explorers, changed, strict=True):
        name = f"{explorer.values['label']}, run {explorer.values['run']}"
        if found is None:
            sentences.append(
                tag("li", f"{name}: the deciding families share no displacement, so none is shown.")
            )
            continue
        levels = ", ".join(f"{family} {level:.4g}" for (family, _), level in found.levels.items())
        right = int(found.right.sum())
        changes = ", ".join(f"{family} {int(found.changed(family).sum())}" for family in _families(found))
        sentences.append(
            tag(
                "li",
                f"{name}, at displacement {100 * found.target:g} %: of {right} examples that are right, these "
                f"change: {changes}. Levels: {levels}.",
            )
        )
        strips = []
        for pair in _pairs(found, rules):
            counts = [int(own.sum()) for own in found.sets(*pair)]
            distance, intensity = pair
            rows.append((name, f"{distance}, {intensity}", *counts, right - sum(counts)))
            headings = (
                f"{distance}, not {intensity}",
                f"{intensity}, not {distance}",
                f"both {distance} and {intensity}",
            )
            for number, (heading, count) in enumerate(zip(headings, counts, strict=True)):
                strips += [
                    tag("h4", f"Changed by {heading}: {count}"),
                    tag("div", id=_strip(explorer.key, pair, number), class_="strip"),
                ]
        parts.append(tag("details", tag("summary", f"Images: {name}"), strips, open=True))
    table = Table(
        name="matched-examples",
        title="Which predictions change at equal displacement",
        caption=(
            "Families: the first is of distance, the second of intensity. Of the page's examples that are predicted "
            "right without a perturbation: how many change under one alone, under both, and under neither."
        ),
        columns=CHANGES,
        rows=tuple(rows),
    )
    return tag(
        "div",
        tag(
            "p",
            "Both changes move the activations of the reference half of the training set equally far. A family that "
            "draws is the first of this run's draws, and one with two sides is shown above its identity. "
            "The verdict averages over draws, sides and runs, so these counts are an example of its costs and not "
            "their measure.",
        ),
        tag("ul", sentences),
        to_html(table) if rows else None,
        parts,
    )


def example_panel(explorers: Sequence[Explorer]) -> Markup:
    """Return the examples and their critical levels, which `assets/examples.js` runs."""
    if not explorers:
        return tag("p", "No network is embedded.")
    chosen = tag(
        "div",
        _networks("example-network", explorers),
        tag("label", "Family ", tag("select", id="example-family")),
        tag("label", "Side ", tag("select", id="example-side")),
        class_="row",
    )
    slider = tag(
        "div",
        tag("label", "level", for_="example-level"),
        tag("input", type="range", id="example-level", min=0, max=1000, step=1, value=0),
        tag("input", type="number", id="example-level-number", step="any", aria_label="level, as a number"),
        tag("button", "Identity", type="button", id="example-identity"),
        class_="slider",
    )
    return tag(
        "div",
        tag("div", chosen, slider, class_="controls"),
        tag("p", id="example-equation", class_="caption"),
        tag("p", id="example-outcome", class_="outcome", role="status", aria_live="polite"),
        _histogram("Critical levels: where predictions first change", "example-plot"),
        tag("p", id="example-note", class_="caption"),
        tag("h3", "First to change"),
        tag("div", id="example-first", class_="strip"),
        tag("h3", "Last to change"),
        tag("div", id="example-last", class_="strip"),
        id="example-explorer",
    )
