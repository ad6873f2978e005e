"""Figure 5: the cost of each family against displacement, a panel for each network."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nearzero.analysis.verdict import Verdict, measure_words
from nearzero.report.figures.scales import reading_of
from nearzero.report.figures.style import FAMILY_MARKERS, INK, ROLES, ShownFigure, add_notices, styled
from nearzero.report.results import display_name
from nearzero.statistics.bands import simultaneous_band
from nearzero.statistics.summaries import mean

__all__ = ["matched_figure"]

# The colour of a family is that of its reading. Families that decide have a thick line, a marker and a band; those that
# don't have a thin line, with dashes of their own.
_DASHES: tuple[Any, ...] = ((0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)), "-", (0, (6, 2, 1, 1, 1, 2)))
_NOT_DECIDING = (
    "shift",
    "signed_shift",
    "offset",
    "clip",
    "noise",
)  # without scale, whose line would lie on the axis
SEED = 0


def matched_figure(verdict: Verdict, notices: tuple[str, ...] = ()) -> Figure:
    """Draw the mean cost over runs in points (nats for a loss), with 95 % bands for the families that decide.

    The bands are simultaneous over the displacements; runs are the unit of inference, the data are fixed.
    """
    names = verdict.shown_networks
    rows, columns = -(-len(names) // 2), min(2, len(names))
    with styled():
        figure = ShownFigure(figsize=(3.4 * columns + 0.6, 2.9 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axes, network in zip(panels, names, strict=False):
            _panel(axes, verdict, network)
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        panels[0].set_ylabel(f"{_cost_words(verdict)}")
        drawn = [axes for axes in panels if axes.get_legend_handles_labels()[0]]
        for axes in drawn[:1]:  # none if no network reaches any displacement
            axes.legend(loc="upper left", ncols=1)
        add_notices(figure, notices)
    return figure


def _cost_words(verdict: Verdict) -> str:
    words = measure_words(verdict.rules.measure)
    return f"rise of the {words} (nats)" if verdict.rules.of_loss else f"{words} lost (points)"


def _panel(axes: Axes, verdict: Verdict, network: str) -> None:
    rules, own = verdict.rules, verdict.costs.sel(network=network).transpose("family", "run", "target")
    axes.set(title=display_name(network), xlabel="displacement of the activations (%)")
    axes.set_xlim(0, 1.04 * (100 * own.target.values).max())
    axes.grid(True)
    axes.axhline(0.0, color=INK, linewidth=0.6)
    deciding = [*rules.distance, *rules.intensity]
    for family, marker in zip(deciding, FAMILY_MARKERS, strict=False):
        read_as = "distance" if family in rules.distance else "intensity"
        label, colour = f"{family} ({read_as})", ROLES[read_as][0]
        _draw(axes, own.sel(family=family), label, colour, band=True, linewidth=1.4, marker=marker)
    others = [family for family in _NOT_DECIDING if family in own.family.values and family not in deciding]
    for family, dashes in zip(others, _DASHES, strict=False):
        colour = ROLES[reading_of(family)][0]
        _draw(axes, own.sel(family=family), family, colour, linestyle=dashes, linewidth=0.8, alpha=0.75)


def _draw(
    axes: Axes, costs: xr.DataArray, label: str, colour: str, *, band: bool = False, **style: Any
) -> None:
    """Draw the mean of costs (run, target) at the targets that any run reaches; a band of the runs that reach them all.

    A family that no run reaches isn't drawn.
    """
    reached = costs.isel(target=np.isfinite(costs.values).any(axis=0))
    targets, curves = 100 * reached.target.values, reached.values
    if not curves.size:
        return
    axes.plot(targets, mean(curves.T), color=colour, label=label, markersize=3.2, **style)
    if not band:
        return
    complete = curves[np.isfinite(curves).all(axis=1)]
    if len(complete) > 1:
        interval = simultaneous_band(complete, rng=np.random.default_rng(SEED))
        axes.fill_between(targets, interval.low, interval.high, color=colour, alpha=0.2, linewidth=0)
