"""The figure of a probe: a map of layers against families, the metric as colour."""

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patheffects import Stroke
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import ScaledTranslation

from nearzero.report.figures.style import INK, styled

__all__ = ["layer_map"]

SHARES = ("accuracy", "agreement")  # shown from 0 to 100 %
LOSSES = ("cross_entropy", "kl_divergence")  # less is better: dark is harm in every map
UNITS = {"cross_entropy": "nats", "kl_divergence": "nats", "margin": "logits"}
TITLES = {"offset": "offset (distance)", "scale": "scale (intensity)", "clip": "clip (intensity)"}
LABELS = {"offset": "level, in unit ranges", "scale": "level (factor)", "clip": "level, in unit ranges"}
SHORT = 34  # letters of a layer's name that have room
WIDE = 20  # letters from which the figure grows
ROW, TALLEST = 0.16, 11.0  # inches
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
    with styled():
        width = 7.2 + 0.05 * max(max(map(len, names)) - WIDE, 0)
        height = min(1.15 + ROW * max(len(names), 4), TALLEST)
        figure = Figure(figsize=(width, height), layout="constrained")
        panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
        meshes = [
            _panel(axes, values.sel(family=family), family, low, high, metric in LOSSES)
            for axes, family in zip(panels, families, strict=True)
        ]
        for axes, family in zip(panels, families, strict=True):
            _mark_identity(axes, family, response)
        _name_rows(panels[0], names, height)
        for axes in panels[1:]:
            axes.tick_params(axis="y", length=0, labelleft=False)
        _bar(figure, panels, meshes[0], values.values, metric, base)
        title = f"{response.attrs['model']}, {int(response.attrs['items']):,} items"
        if np.isfinite(base):
            unit = "%" if share else UNITS.get(metric, "")
            title += (
                f"; {_spoken(metric)} without perturbation {_number(base)} {unit}".rstrip()
                + " (arrow at the bar)"
            )
        figure.suptitle(title, fontsize=7.0, x=0.01, ha="left")
    return figure


def _panel(axes: Axes, values: xr.DataArray, family: str, low: float, high: float, reverse: bool) -> QuadMesh:
    """One family: levels across, layers down."""
    measured = values.isel(level=np.isfinite(values.level.values)).dropna("level", how="all")
    levels = measured.level.values
    axes.set_title(TITLES.get(family, family))
    axes.set_xlabel(LABELS.get(family, "level"))
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


def _mark_identity(axes: Axes, family: str, response: xr.Dataset) -> None:
    """A line at the level at which nothing changes, where there is one."""
    identity = {"offset": 0.0, "scale": 1.0}.get(family)
    if family == "offset" and "as-written" in response.offset.values:
        return
    left, right = axes.get_xlim()
    if identity is not None and left < identity < right:
        line = axes.axvline(identity, color=INK, linewidth=0.7, linestyle=(0, (2, 2)))
        line.set_path_effects([Stroke(linewidth=1.6, foreground="white", alpha=0.8), Stroke()])


def _name_rows(axes: Axes, names: list[str], height: float) -> None:
    """Names of the layers, in letters that don't meet; of every second, third, ... where there are too many."""
    room = 72 * (height - 1.15) / len(names)  # points
    step = int(np.ceil(1.2 * SMALLEST / room))
    rows = range(0, len(names), step)
    size = min(6.0, max(step * room / 1.2, SMALLEST))
    axes.set_yticks(list(rows), [names[row] for row in rows], fontsize=size)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_ylabel("layer, first on top" if step == 1 else f"layer, first on top, one in {step} named")


def _bar(
    figure: Figure,
    panels: npt.NDArray[np.object_],
    mesh: QuadMesh,
    values: npt.NDArray[np.float64],
    metric: str,
    base: float,
) -> None:
    """The scale of colours, with an arrow where the unperturbed model is."""
    low, high = mesh.get_clim()
    finite = values[np.isfinite(values)]
    beyond = (bool((finite < low).any()), bool((finite > high).any()))
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max"}.get(beyond, "both")
    bar = figure.colorbar(mesh, ax=list(panels), fraction=0.03, pad=0.02, extend=extend)
    unit = "%" if metric in SHARES else UNITS.get(metric, "")
    bar.set_label(_spoken(metric) + (f" ({unit})" if unit else ""))
    if np.isfinite(base):
        aside = ScaledTranslation(-2.5 / 72, 0, figure.dpi_scale_trans)
        bar.ax.plot(
            0.0, base, marker=">", markersize=4.0, markeredgewidth=0.0, color=INK, clip_on=False,
            transform=bar.ax.get_yaxis_transform() + aside,
        )  # fmt: skip


def _edges(levels: npt.NDArray[np.float64], logarithmic: bool) -> npt.NDArray[np.float64]:
    """Borders halfway between levels."""
    if not len(levels):  # nothing was measured at a finite level
        return np.array([0.0])
    if len(levels) == 1:
        return np.array([levels[0] - 0.5, levels[0] + 0.5])
    places = np.log(levels) if logarithmic else levels
    middles = (places[1:] + places[:-1]) / 2
    edges = np.concatenate([[2 * places[0] - middles[0]], middles, [2 * places[-1] - middles[-1]]])
    return np.asarray(np.exp(edges) if logarithmic else edges)


def _scale(values: npt.NDArray[np.float64], base: float, least: float) -> tuple[float, float]:
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
