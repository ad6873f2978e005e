"""The panels of a probe's page, which `assets/probe.js`, `assets/layer_map.js` and `assets/items.js` bring to life."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nearzero.report.render.markup import Markup, tag

__all__ = ["cell_panel", "item_panel", "map_panel", "unit_panel"]

MAP = (
    "A row for each layer, the first on top; a column for each measured level, in order. Grey: not measured, or not "
    "finite. Arrow at the scale: unperturbed. Dashed: the level at which nothing changes, where it was measured. Click "
    "a cell to choose it."
)


def map_panel(metrics: Mapping[str, str]) -> Markup:
    """Return the map of layers, families and levels, with the choice of a metric (labels by name) and a cell."""
    return tag(
        "div",
        _controls("cell", metrics),
        tag("p", id="cell-outcome", class_="outcome", role="status", aria_live="polite"),
        tag("div", id="layer-maps", class_="charts maps"),
        tag("div", id="map-scale", class_="map-scale"),
        tag("p", MAP, class_="caption"),
        id="probe",
    )


def _controls(key: str, metrics: Mapping[str, str]) -> Markup:
    """Return the choice of a cell; a page has it in several places, which `assets/probe.js` keeps equal."""
    options = [tag("option", label, value=name) for name, label in metrics.items()]
    slider = tag(
        "div",
        tag("label", "level", for_=f"{key}-level"),
        tag("input", type="range", id=f"{key}-level", data_cell="level", min=0, max=1, step=1, value=0),
        tag("output", data_cell="value", for_=f"{key}-level"),
        tag("span", data_cell="place", class_="detail"),
        class_="slider",
    )
    chosen = tag(
        "div",
        tag("label", "Metric ", tag("select", options, id=f"{key}-metric", data_cell="metric")),
        _layer(key),
        tag("label", "Family ", tag("select", id=f"{key}-family", data_cell="family")),
        class_="row",
    )
    return tag("div", chosen, slider, class_="controls")


def _layer(key: str) -> Markup:
    return tag("label", "Layer ", tag("select", id=f"{key}-layer", data_cell="layer"))


def cell_panel(metrics: Mapping[str, str], charts: Sequence[Markup], classes: bool) -> Markup:
    """Return the place of the curve of the chosen layer and family, and of the table of classes."""
    shown = (
        tag("h3", "Each class at this level"),
        tag(
            "div", id="cell-classes", class_="scroll tall", tabindex=0, role="group", aria_label="Each class"
        ),
        tag("div", _saves("cell-classes", ("CSV",)), class_="tools"),
    )
    return tag(
        "div",
        _controls("curve", metrics),
        tag("p", id="cell-words", class_="outcome"),
        tag("div", charts),
        tag("p", "Open circle: the chosen level. Grey: unperturbed.", class_="caption"),
        shown if classes else None,
    )


def unit_panel(known: bool) -> Markup:
    """Return the place of the units of the chosen layer."""
    if not known:
        return tag("p", "The result holds no unit ranges; those of newer versions of nearzero do.")
    return tag(
        "div",
        tag("div", _layer("unit"), class_="row controls"),
        tag("p", id="layer-units-words"),
        tag(
            "figure",
            tag("figcaption", "Range of each unit, from minimum to maximum"),
            tag("div", id="layer-units-plot", class_="histogram"),
            tag("div", _saves("layer-units-plot", ("PNG", "SVG", "CSV")), class_="tools"),
        ),
        tag(
            "details",
            tag("summary", "Table of the units"),
            tag("div", id="layer-units", class_="scroll tall", tabindex=0, role="group", aria_label="Units"),
        ),
    )


def item_panel(metrics: Mapping[str, str], tokens: bool, images: bool) -> Markup:
    """Return the place of the examples: tokens as a text, or pictures, and a table of them."""
    parts = [
        _controls("item", metrics),
        tag("p", id="item-outcome", class_="outcome", role="status", aria_live="polite"),
    ]
    if tokens:
        parts.append(
            tag(
                "div",
                tag("label", "Example ", tag("select", id="item-example")),
                tag("button", "Changed most", type="button", id="item-most"),
                class_="row controls",
            )
        )
        parts.append(tag("p", id="item-text", class_="tokens", tabindex=0, role="group", aria_label="Tokens"))
        words = (
            "Purple: worse than unperturbed, the darker the more; grey with a line below: better. Point at a token to "
            "see its numbers; the table lists them."
        )
        parts.append(tag("p", words, class_="caption"))
    if images:
        for heading, identity in (
            ("Worse than unperturbed, most first", "item-worse"),
            ("Better", "item-better"),
        ):
            parts += [tag("h3", heading), tag("div", id=identity, class_="strip")]
    parts.append(tag("h3", "Items"))
    parts.append(
        tag("div", id="item-table", class_="scroll tall", tabindex=0, role="group", aria_label="Items")
    )
    parts.append(tag("div", _saves("item-table", ("CSV",)), class_="tools"))
    return tag("div", parts, id="items")


def _saves(identity: str, labels: Sequence[str]) -> list[Markup]:
    """Return buttons that save what an element shows."""
    return [
        tag(
            "button",
            label,
            type="button",
            data_probe_save=label.lower(),
            data_of=identity,
            title=f"Save as {label}",
        )
        for label in labels
    ]
