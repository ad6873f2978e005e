"""The figure of a probe: a map of layers against families, the metric as colour."""

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from nearzero.report.figures.style import INK, styled

__all__ = ["layer_map"]

SHARES = ("accuracy", "agreement")  # shown from 0 to 100 %
SHORT = 34  # letters of a layer's name that have room
LABELS = {"offset": "offset, in unit ranges", "scale": "scale", "clip": "clip, in unit ranges"}


def layer_map(response: xr.Dataset, metric: str) -> Figure:
    """A panel for each family with a row for each layer, in the order of the forward pass from above.

    Args:
        response: a probe's, on (layer, family, level).
        metric: which of its metrics.
    """
    families = [str(each) for each in response.family.values]
    layers = [str(each) for each in response.layer.values]
    factor, unit = (100, " (%)") if metric in SHARES else (1, "")
    values = factor * response[metric]
    base = factor * float(response[f"unperturbed_{metric}"])
    low, high = (0.0, 100.0) if metric in SHARES else (_finite_extreme(values, base))
    with styled():
        height = 1.1 + 0.16 * max(len(layers), 3)
        figure = Figure(figsize=(7.2, min(height, 11.0)), layout="constrained")
        panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
        meshes = [
            _panel(axes, values.sel(family=family), family, low, high)
            for axes, family in zip(panels, families, strict=True)
        ]
        first = panels[0]
        size = 6.0 if len(layers) <= 40 else 240 / len(layers)
        first.set_yticks(range(len(layers)), [_short(name) for name in layers], fontsize=size)
        first.invert_yaxis()
        bar = figure.colorbar(meshes[0], ax=list(panels), fraction=0.03, pad=0.015)
        bar.set_label(f"{metric.replace('_', ' ')}{unit}")
        bar.ax.axhline(base, color=INK, linewidth=1.0)
        items = f"{int(response.attrs['items']):,} items"
        figure.suptitle(
            f"{response.attrs['model']}, {items}; without perturbation {base:.4g}{unit.strip(' ()')} (line in the bar)",
            fontsize=7.0, x=0.01, ha="left",
        )  # fmt: skip
    return figure


def _panel(axes: Axes, values: xr.DataArray, family: str, low: float, high: float) -> QuadMesh:
    """One family: levels across, layers down, and a line at the identity level."""
    measured = values.dropna("level", how="all")
    levels = measured.level.values
    axes.set_title(family)
    axes.set_xlabel(LABELS.get(family, "level"))
    axes.spines[:].set_visible(False)
    logarithmic = len(levels) > 1 and levels.min() > 0 and levels.max() / levels.min() > 20
    if logarithmic:
        axes.set_xscale("log")
    edges = _edges(levels, logarithmic)
    rows = np.arange(values.sizes["layer"] + 1) - 0.5
    grid = np.ma.masked_invalid(measured.transpose("layer", "level").values.astype(float))
    mesh = axes.pcolormesh(edges, rows, grid, cmap="viridis", vmin=low, vmax=high, rasterized=True)
    identity = {"offset": 0.0, "scale": 1.0}.get(family)
    if identity is not None and edges[0] < identity < edges[-1]:
        axes.axvline(identity, color="white", linewidth=0.8, linestyle=(0, (2, 2)))
    return mesh


def _edges(levels: npt.NDArray[np.float64], logarithmic: bool) -> npt.NDArray[np.float64]:
    """Borders halfway between levels."""
    if len(levels) == 1:
        return np.array([levels[0] - 0.5, levels[0] + 0.5])
    places = np.log(levels) if logarithmic else levels
    middles = (places[1:] + places[:-1]) / 2
    edges = np.concatenate([[2 * places[0] - middles[0]], middles, [2 * places[-1] - middles[-1]]])
    return np.asarray(np.exp(edges) if logarithmic else edges)


def _finite_extreme(values: xr.DataArray, base: float) -> tuple[float, float]:
    """Least and greatest finite value, the unperturbed one included."""
    finite = values.values[np.isfinite(values.values)]
    ends = np.append(finite, base if np.isfinite(base) else 0.0)
    low, high = float(ends.min()), float(ends.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _short(name: str) -> str:
    return name if len(name) <= SHORT else f"{name[: SHORT // 2 - 1]}…{name[-SHORT // 2 :]}"
