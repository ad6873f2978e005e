"""The figure of a probe: a map of layers against families, the metric as colour.

What is measured is in `nearzero.probing`; here it's only drawn.
"""

import textwrap

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patheffects import Stroke
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import ScaledTranslation

from nearzero.perturbations.families import FAMILIES, Conduct, make_family
from nearzero.report.figures.style import INK, styled
from nearzero.report.results import Floats

__all__ = ["layer_map"]

SHARES = ("accuracy", "agreement")  # shown from 0 to 100 %
LOSSES = ("cross_entropy", "kl_divergence")  # less is better: dark is harm in every map
UNITS = {"cross_entropy": "nats", "kl_divergence": "nats", "margin": "logits"}
READINGS = {
    "offset": "distance", "shift": "distance", "scale": "intensity", "clip": "intensity", "gains": "intensity",
    "cap": "intensity",
}  # fmt: skip
LABELS = {"scale": "level (factor)", "gains": "level (deviation of ln gain)"}
ABREAST, FOLDED = 4, 3  # panels beside each other at most; and where they don't fit in one row
SHORT = 34  # letters of a layer's name that have room
WIDE = 20  # letters from which the figure grows
ROW, LEAST, TALLEST = 0.16, 1.1, 11.0  # inches: a layer, a panel at least, the figure at most
HEAD, FOOT = 0.35, 0.7  # inches: over all panels; over and under each
SMALLEST = 4.5  # points; where names would be smaller, not every row has one
TAIL = 0.02  # share of values beyond either end of a scale without bounds
ALIKE = 1e-4  # nats within which losses look alike


def layer_map(response: xr.Dataset, metric: str) -> Figure:
    """A panel for each family with a row for each layer, in the order of the forward pass from above.

    Args:
        response: a probe's, on (layer, family, level).
        metric: which of its metrics.
    """
    families = [str(each) for each in response.family.values]
    names = _short([str(each) for each in response.layer.values])
    share = metric in SHARES
    values = (100 if share else 1) * response[metric]
    base = (100 if share else 1) * float(response[f"unperturbed_{metric}"])
    low, high = (0.0, 100.0) if share else _scale(values.values, base, ALIKE if metric in LOSSES else 0.0)
    columns = len(families) if len(families) <= ABREAST else FOLDED
    rows = -(-len(families) // columns)
    with styled():
        width = 7.2 + 0.05 * max(max(map(len, names)) - WIDE, 0)
        height = min(HEAD + rows * (FOOT + max(ROW * len(names), LEAST)), TALLEST)
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes in grid.flat[len(families) :]:
            axes.remove()
        panels = list(grid.flat[: len(families)])
        meshes, marked = [], []
        for axes, family in zip(panels, families, strict=True):
            meshes.append(_panel(axes, values.sel(family=family), family, low, high, metric in LOSSES))
            marked.append(_mark_identity(axes, family, response))
        room = 72 * ((height - HEAD) / rows - FOOT) / len(names)  # points for a name
        for place, axes in enumerate(panels):
            if place % columns == 0:
                _name_rows(axes, names, room)
            else:
                axes.tick_params(axis="y", length=0, labelleft=False)
        _bar(figure, panels, meshes[0], values.values, metric, base)
        lines = _caption(response, metric, base, any(marked))
        wrapped = (textwrap.fill(line, int(16 * width)) for line in lines)
        figure.suptitle("\n".join(wrapped), fontsize=7.0, x=0.01, ha="left")
    return figure


def _caption(response: xr.Dataset, metric: str, base: float, marked: bool) -> list[str]:
    """What is drawn, in words."""
    items, examples = (int(response.attrs[each]) for each in ("items", "examples"))
    over = f"{examples:,} examples" if items == examples else f"{items:,} items of {examples:,} examples"
    spoken = _spoken(metric)
    what = f"{spoken[0].upper()}{spoken[1:]} of {response.attrs['model']}, one layer perturbed at a time, on {over}."
    unit = "%" if metric in SHARES else UNITS.get(metric, "")
    notes = [
        f"Unperturbed: {_number(base)} {unit}".rstrip() + " (arrow at the bar)." if np.isfinite(base) else "",
        "Dashed: the level at which nothing changes." if marked else "",
    ]
    return [what, *filter(None, [" ".join(filter(None, notes))])]


def _panel(axes: Axes, values: xr.DataArray, family: str, low: float, high: float, reverse: bool) -> QuadMesh:
    """One family: levels across, layers down."""
    measured = values.isel(level=np.isfinite(values.level.values)).dropna("level", how="all")
    levels = measured.level.values
    reading = READINGS.get(family)
    axes.set_title(_spoken(family) + (f" ({reading})" if reading else ""))
    axes.set_xlabel(LABELS.get(family, "level, in unit ranges" if family in FAMILIES else "level"))
    axes.spines[:].set_visible(False)
    logarithmic = len(levels) > 1 and levels.min() > 0 and levels.max() / levels.min() > 20
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda level, _: f"{level:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif len(levels) == 1:
        axes.set_xticks(levels)
    rows = np.arange(values.sizes["layer"] + 1) - 0.5
    grid = np.ma.masked_invalid(measured.transpose("layer", "level").values.astype(float))
    colours = mpl.colormaps["viridis_r" if reverse else "viridis"].with_extremes(bad="#E3E3E3")
    return axes.pcolormesh(
        _edges(levels, logarithmic), rows, grid, cmap=colours, vmin=low, vmax=high, rasterized=True
    )


def _mark_identity(axes: Axes, family: str, response: xr.Dataset) -> bool:
    """A line at the level at which nothing changes, where there is one; whether there is."""
    written = "as-written" in response.offset.values
    conduct = Conduct(offset="as-written" if written else "shift")
    identity = make_family(family, conduct).identity if family in FAMILIES else None
    left, right = axes.get_xlim()
    if identity is None or not left < identity < right:
        return False
    line = axes.axvline(identity, color=INK, linewidth=0.7, linestyle=(0, (2, 2)))
    line.set_path_effects([Stroke(linewidth=1.6, foreground="white", alpha=0.8), Stroke()])
    return True


def _name_rows(axes: Axes, names: list[str], room: float) -> None:
    """Names of the layers, in letters that don't meet; of every second, third, ... where there are too many."""
    step = int(np.ceil(1.2 * SMALLEST / room))
    rows = range(0, len(names), step)
    size = min(6.0, max(step * room / 1.2, SMALLEST))
    axes.set_yticks(list(rows), [names[row] for row in rows], fontsize=size)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_ylabel("layer, first on top" if step == 1 else f"layer, first on top, one in {step} named")


def _bar(
    figure: Figure, panels: list[Axes], mesh: QuadMesh, values: Floats, metric: str, base: float
) -> None:
    """The scale of colours, with an arrow where the unperturbed model is."""
    low, high = mesh.get_clim()
    finite = values[np.isfinite(values)]
    extend = ("neither", "min", "max", "both")[(finite < low).any() + 2 * (finite > high).any()]
    bar = figure.colorbar(mesh, ax=panels, fraction=0.03, pad=0.02, extend=extend)
    unit = "%" if metric in SHARES else UNITS.get(metric, "")
    bar.set_label(_spoken(metric) + (f" ({unit})" if unit else ""))
    if np.isfinite(base):
        aside = ScaledTranslation(-2.5 / 72, 0, figure.dpi_scale_trans)
        bar.ax.plot(
            0.0, base, marker=">", markersize=4.0, markeredgewidth=0.0, color=INK, clip_on=False,
            transform=bar.ax.get_yaxis_transform() + aside,
        )  # fmt: skip


def _edges(levels: Floats, logarithmic: bool) -> Floats:
    """Borders halfway between levels."""
    if len(levels) < 2:  # without any, nothing was measured at a finite level
        return np.array([levels[0] - 0.5, levels[0] + 0.5] if len(levels) else [0.0])
    places = np.log(levels) if logarithmic else levels
    middles = (places[1:] + places[:-1]) / 2
    edges = np.concatenate([[2 * places[0] - middles[0]], middles, [2 * places[-1] - middles[-1]]])
    return np.asarray(np.exp(edges) if logarithmic else edges)


def _scale(values: Floats, base: float, least: float) -> tuple[float, float]:
    """Ends for a metric without bounds: nearly all values between them, the unperturbed one among these.

    A few levels can be so far out that all others would look alike. Where all values are alike but for roundings,
    the scale is wide enough for them to look it.
    """
    finite = values[np.isfinite(values)]
    ends = list(np.quantile(finite, [TAIL, 1 - TAIL])) if finite.size else [0.0, 0.0]
    ends += [base] if np.isfinite(base) else []
    low, high = float(min(ends)), float(max(ends))
    least = max(least, 1e-3 * max(abs(low), abs(high)), 1e-12)
    return low, max(high, low + least)


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _spoken(metric: str) -> str:
    return metric.replace("_", " ").replace("kl ", "KL ")


def _short(names: list[str]) -> list[str]:
    """Names that have room: ever more of their words as first letters, numbers and the last word whole."""
    longest = max(each.count(".") for each in names)
    for words in range(longest + 1):
        shown = [_abbreviated(each, words) for each in names]
        if max(map(len, shown)) <= SHORT:
            return shown
    return [
        each if len(each) <= SHORT else f"{each[: SHORT // 2 - 1]}…{each[-SHORT // 2 :]}" for each in shown
    ]


def _abbreviated(name: str, words: int) -> str:
    parts = name.split(".")
    first = min(words, len(parts) - 1)
    return ".".join([*(each if each[:1].isdigit() else each[:1] for each in parts[:first]), *parts[first:]])
