"""The figure of a probe: a map of layers against families, with the metric as colour.

`nearzero.probing` measures; this module only draws.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patheffects import Stroke
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import ScaledTranslation

from nearzero.report.captions import MARKS, layers_by_conduct
from nearzero.report.figures.scales import (
    LOSSES,
    SHARES,
    UNITS,
    identity_level,
    is_logarithmic,
    level_title,
    reading_of,
    scale_ends,
    short_names,
    spelled,
)
from nearzero.report.figures.style import (
    INK,
    LINE,
    MARKERS,
    OTHER_MARKERS,
    PALE,
    ROLES,
    ShownFigure,
    styled,
)
from nearzero.report.results import Floats
from nearzero.support.words import number_of

__all__ = ["layer_lines", "layer_map"]

ONE_ROW, SEVERAL_ROWS = 4, 3  # greatest number of panels beside each other: in a single row, and else
WIDE_NAME = 20  # characters; with longer names the figure is wider
LAYER_HEIGHT, PANEL_MINIMUM, FIGURE_MAXIMUM = 0.16, 1.1, 11.0  # inches
HEAD, MARGIN = 0.35, 0.7  # inches: above all panels; above and below each panel together
SMALLEST_FONT = 4.5  # points; if there is less room, not every row is named
DASHES = ("-", "--", ":", "-.")  # of lines in turn, since neighbours have nearly the same colour
LINE_MARKERS = (*MARKERS.values(), *OTHER_MARKERS)  # of lines in turn
MARKED = 5  # markers on a line, or a few more
BAND, ALL_BANDS = 0.15, 0.6  # opacity of a band, and of all together, so that many don't hide the lines


def layer_map(response: xr.Dataset, metric: str, assumed: Sequence[str] = ()) -> Figure:
    """Draw a panel for each family, with a row for each layer, in the order of the forward pass from the top.

    Args:
        response: of a probe, on (layer, family, level).
        metric: the one to draw, of those that the probe measured.
        assumed: what was inferred about the model and the data, for the caption.
    """
    families = [str(family) for family in response.family.values]
    names, notes = _marked(response)
    share = metric in SHARES
    values = (100 if share else 1) * response[metric]
    base = (100 if share else 1) * float(response[f"unperturbed_{metric}"])
    low, high = (100.0 * end if share else end for end in scale_ends(metric, values.values, base))
    columns = len(families) if len(families) <= ONE_ROW else SEVERAL_ROWS
    rows = -(-len(families) // columns)
    with styled():
        width = 7.2 + 0.05 * max(max(map(len, names)) - WIDE_NAME, 0)
        panel_height = MARGIN + max(LAYER_HEIGHT * len(names), PANEL_MINIMUM)
        height = min(HEAD + rows * panel_height, FIGURE_MAXIMUM)
        figure = ShownFigure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes in grid.flat[len(families) :]:
            axes.remove()
        panels = list(grid.flat[: len(families)])
        meshes, marked = [], []
        for axes, family in zip(panels, families, strict=True):
            meshes.append(_panel(axes, values.sel(family=family), family, low, high, metric in LOSSES))
            marked.append(_mark_identity(axes, family, response))
        room = 72 * ((height - HEAD) / rows - MARGIN) / len(names)  # points for a name
        for number, axes in enumerate(panels):
            if number % columns == 0:
                _name_rows(axes, names, room)
            else:
                axes.tick_params(axis="y", length=0, labelleft=False)
        _colour_bar(figure, panels, meshes[0], values.values, metric, base)
        lines = _caption(response, metric, base, any(marked))
        lines += notes
        lines += [f"Assumed: {'; '.join(assumed)}.".replace("$", r"\$")] if assumed else []
        wrapped = (textwrap.fill(line, int(16 * width)) for line in lines)
        figure.suptitle("\n".join(wrapped), fontsize=7.0, x=0.01, ha="left")
    return figure


def _marked(response: xr.Dataset) -> tuple[list[str], list[str]]:
    """Return the names of the layers, with marks where their conducts differ, and the note on the marks."""
    conducts = layers_by_conduct(response)
    marks = {layer: mark for mark, layers in zip(MARKS, conducts.values(), strict=False) for layer in layers}
    layers = [str(layer) for layer in response.layer.values]
    names = [
        f"{name} {marks.get(layer, '')}".rstrip().replace("$", r"\$")
        for name, layer in zip(short_names(layers), layers, strict=True)
    ]
    if not conducts:
        return names, []
    of_marks = (f"{mark or 'no mark'}: {conduct}" for mark, conduct in zip(MARKS, conducts, strict=False))
    return names, [
        f"Layers with different marks can't be compared, except under scale ({'; '.join(of_marks)})."
    ]


def layer_lines(response: xr.Dataset, metric: str, intervals: xr.Dataset | None = None) -> Figure:
    """Draw a panel for each family, with a line for each layer, and a band for its interval if there is one.

    Args:
        response: of a probe, on (layer, family, level).
        metric: the one to draw, of those that the probe measured.
        intervals: the ends `low` and `high`, on (layer, family, level).
    """
    families = [str(family) for family in response.family.values]
    names, notes = _marked(response)
    factor = 100 if metric in SHARES else 1
    base = factor * float(response[f"unperturbed_{metric}"])
    columns = min(len(families), SEVERAL_ROWS)
    rows = -(-len(families) // columns)
    with styled():
        figure = ShownFigure(figsize=(7.2, 0.9 + 2.2 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes in grid.flat[len(families) :]:
            axes.remove()
        for axes, family in zip(grid.flat, families, strict=False):
            for number, layer in enumerate(response.layer.values):
                curve = response[metric].sel(layer=layer, family=family).dropna("level")
                curve = curve.isel(level=np.isfinite(curve.level.values))
                style = _layer_style(number, len(names))
                step = max(curve.size // MARKED, 1)
                # markers of neighbours lie on other levels
                axes.plot(
                    curve.level, factor * curve, **style, markevery=(number % step, step), label=names[number]
                )
                if intervals is not None:
                    ends = factor * intervals.sel(layer=layer, family=family, level=curve.level)
                    alpha = min(BAND, ALL_BANDS / len(names))
                    axes.fill_between(
                        curve.level, ends.low, ends.high, color=style["color"], alpha=alpha, linewidth=0.0
                    )
            measured = response[metric].sel(family=family).dropna("level", how="all").level.values
            _label(axes, family, measured[np.isfinite(measured)])
            axes.axhline(base, color=PALE, linewidth=0.7)
        unit = "%" if metric in SHARES else UNITS.get(metric, "")
        for axes in grid[:, 0]:
            axes.set_ylabel(_spelled(metric) + (f" ({unit})" if unit else ""))
        figure.legend(
            *grid[0, 0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=min(len(names), 5),
            handlelength=3.5,
            title="layer, from the first (light) to the last (dark)" if len(names) > 1 else "layer",
            title_fontsize=7.0,
        )
        lines = _caption(response, metric, base, marked=False)
        lines[-1] = lines[-1].replace(" (arrow at the bar)", " (grey line)")
        if intervals is not None:
            lines.append(f"Bands: {100 * intervals.attrs['confidence']:g} % intervals over examples.")
        lines += notes
        wrapped = (textwrap.fill(line, 115) for line in lines)
        figure.suptitle("\n".join(wrapped), fontsize=7.0, x=0.01, ha="left")
    return figure


def _layer_style(number: int, layers: int) -> dict[str, Any]:
    """Return how the line of a layer is drawn: its shade (light for the first, dark for the last), marker, dashes."""
    shade = mpl.colors.LinearSegmentedColormap.from_list("layers", ROLES["layers"])(
        number / max(layers - 1, 1)
    )
    turn = number // len(LINE_MARKERS)  # after all markers, the dashes are other ones
    return {
        "color": mpl.colors.to_hex(shade),
        "linestyle": DASHES[(number + turn) % len(DASHES)],
        "marker": LINE_MARKERS[number % len(LINE_MARKERS)],
        "markersize": 4.0,
    }


def _caption(response: xr.Dataset, metric: str, base: float, marked: bool) -> list[str]:
    """Return the lines of the caption."""
    items, examples = (int(response.attrs[name]) for name in ("items", "examples"))
    whole = number_of(examples, "example")
    over = whole if items == examples else f"{number_of(items, 'item')} of {whole}"
    name = _spelled(metric)
    title = (
        f"{name[0].upper()}{name[1:]} of {response.attrs['model']}, one layer perturbed at a time, on {over}."
    )
    unit = "%" if metric in SHARES else UNITS.get(metric, "")
    notes = [
        f"Unperturbed: {_number(base)} {unit}".rstrip() + " (arrow at the bar)." if np.isfinite(base) else "",
        "Dashed: the level at which nothing changes." if marked else "",
    ]
    return [title, *filter(None, [" ".join(filter(None, notes))])]


def _panel(axes: Axes, values: xr.DataArray, family: str, low: float, high: float, reverse: bool) -> QuadMesh:
    """Draw one family: levels from left to right, layers from top to bottom."""
    measured = values.isel(level=np.isfinite(values.level.values)).dropna("level", how="all")
    levels = measured.level.values
    logarithmic = _label(axes, family, levels)
    axes.spines[:].set_visible(False)
    rows = np.arange(values.sizes["layer"] + 1) - 0.5
    grid = np.ma.masked_invalid(measured.transpose("layer", "level").values.astype(float))
    colours = mpl.colormaps["viridis_r" if reverse else "viridis"].with_extremes(bad=LINE)
    return axes.pcolormesh(
        _edges(levels, logarithmic), rows, grid, cmap=colours, vmin=low, vmax=high, rasterized=True
    )


def _label(axes: Axes, family: str, levels: Floats) -> bool:
    """Write the title of a family's panel and the axis of its levels; return whether the axis is logarithmic."""
    reading = reading_of(family)
    axes.set_title(_spelled(family) + (f" ({reading})" if reading != "neither" else ""))
    axes.set_xlabel(level_title(family))
    logarithmic = is_logarithmic(levels)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda level, _: f"{level:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif len(levels) == 1:
        axes.set_xticks(levels)
    return logarithmic


def _mark_identity(axes: Axes, family: str, response: xr.Dataset) -> bool:
    """Draw a line at the level at which nothing changes, if there is one; return whether there is."""
    identity = identity_level(family, response.offset.values)
    left, right = axes.get_xlim()
    if identity is None or not left < identity < right:
        return False
    line = axes.axvline(identity, color=INK, linewidth=0.7, linestyle=(0, (2, 2)))
    line.set_path_effects([Stroke(linewidth=1.6, foreground="white", alpha=0.8), Stroke()])
    return True


def _name_rows(axes: Axes, names: list[str], room: float) -> None:
    """Name the layers, in a font that is small enough not to overlap; if it were too small, every second, third, ..."""
    step = int(np.ceil(1.2 * SMALLEST_FONT / room))
    rows = range(0, len(names), step)
    size = min(6.0, max(step * room / 1.2, SMALLEST_FONT))
    axes.set_yticks(list(rows), [names[row] for row in rows], fontsize=size)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_ylabel("layer, first on top" if step == 1 else f"layer, first on top, one in {step} named")


def _colour_bar(
    figure: Figure, panels: list[Axes], mesh: QuadMesh, values: Floats, metric: str, base: float
) -> None:
    """Draw the scale of colours, with an arrow at the value of the unperturbed model."""
    low, high = mesh.get_clim()
    finite = values[np.isfinite(values)]
    extend = ("neither", "min", "max", "both")[(finite < low).any() + 2 * (finite > high).any()]
    bar = figure.colorbar(mesh, ax=panels, fraction=0.03, pad=0.02, extend=extend)
    unit = "%" if metric in SHARES else UNITS.get(metric, "")
    bar.set_label(_spelled(metric) + (f" ({unit})" if unit else ""))
    if np.isfinite(base):
        to_the_left = ScaledTranslation(-2.5 / 72, 0, figure.dpi_scale_trans)
        transform = bar.ax.get_yaxis_transform() + to_the_left
        arrow: dict[str, Any] = {"marker": ">", "markersize": 4.0, "markeredgewidth": 0.0, "color": INK}
        bar.ax.plot(0.0, base, **arrow, clip_on=False, transform=transform)


def _edges(levels: Floats, logarithmic: bool) -> Floats:
    """Return the borders of the cells: halfway between the levels."""
    if len(levels) < 2:  # no level at all: nothing was measured at a finite level
        return np.array([levels[0] - 0.5, levels[0] + 0.5] if len(levels) else [0.0])
    centres = np.log(levels) if logarithmic else levels
    middles = (centres[1:] + centres[:-1]) / 2
    edges = np.concatenate([[2 * centres[0] - middles[0]], middles, [2 * centres[-1] - middles[-1]]])
    return np.asarray(np.exp(edges) if logarithmic else edges)


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _spelled(name: str) -> str:
    """Return a name as plain text for a figure, in which a dollar sign would begin a formula."""
    return spelled(name).replace("$", r"\$")
