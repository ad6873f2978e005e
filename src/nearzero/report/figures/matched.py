"""Figure 5: what each family costs against displacement, a panel for each network."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nearzero.report.figures.style import INK, add_notices, styled
from nearzero.report.results import display_name
from nearzero.statistics import mean, simultaneous_band
from nearzero.verdict import Verdict

__all__ = ["matched_figure"]

# Distance in blue, intensity in red and orange; what never decides is grey, told apart by its dashes.
_DECIDING = ("#0077BB", "#CC3311", "#EE7733", "#AA3377", "#009988")
_DASHES: tuple[Any, ...] = ((0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)), "-", (0, (6, 2, 1, 1, 1, 2)))
_READ = ("offset", "clip", "noise", "signed_shift")  # scale is flat, on the axis
SEED = 0


def matched_figure(verdict: Verdict, notices: tuple[str, ...] = ()) -> Figure:
    """Mean cost over runs, points; bands are simultaneous over the displacements, 95 %, runs the unit, data fixed."""
    names = verdict.networks
    with styled():
        figure = Figure(
            figsize=(3.4 * max(1, min(2, len(names))) + 0.6, 2.9 * -(-len(names) // 2)), layout="constrained"
        )
        panels = figure.subplots(-(-len(names) // 2), min(2, len(names)), sharey=True, squeeze=False).ravel()
        for axes, network in zip(panels, names, strict=False):
            _panel(axes, verdict, network)
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        panels[0].set_ylabel(f"{verdict.rules.measure.replace('_', ' ')} lost (points)")
        panels[0].legend(loc="upper left", ncols=1)
        add_notices(figure, notices)
    return figure


def _panel(axes: Axes, verdict: Verdict, network: str) -> None:
    targets = 100 * verdict.costs.target.values
    axes.set(
        title=display_name(network),
        xlabel="displacement of the activations (%)",
        xlim=(0, 1.04 * targets.max()),
    )
    axes.grid(True)
    axes.axhline(0.0, color=INK, linewidth=0.6)
    rules = verdict.rules
    deciding = [*rules.distance, *rules.intensity]
    for family, colour in zip(deciding, _DECIDING, strict=False):
        curves = verdict.costs.sel(network=network, family=family).transpose("run", "target").values
        word = "distance" if family in rules.distance else "intensity"
        _draw(axes, targets, curves, f"{family} ({word})", colour, "-", 1.4)
    read = [each for each in _READ if each in verdict.costs.family.values and each not in deciding]
    for family, dashes in zip(read, _DASHES, strict=False):
        curves = verdict.costs.sel(network=network, family=family).transpose("run", "target").values
        _draw(axes, targets, curves, family, "#777777", dashes, 0.9, band=False)


def _draw(
    axes: Axes,
    targets: Any,
    curves: Any,
    label: str,
    colour: str,
    dashes: Any,
    width: float,
    *,
    band: bool = True,
) -> None:
    reached = np.isfinite(curves).any(axis=0)
    curves = curves[:, reached]
    if not curves.size:
        return
    axes.plot(targets[reached], mean(curves.T), color=colour, linestyle=dashes, linewidth=width, label=label)
    if not band:
        return
    axes.plot(targets[reached], mean(curves.T), color=colour, marker="o", markersize=2.5, linestyle="none")
    whole = curves[np.isfinite(curves).all(axis=1)]
    if len(whole) > 1:
        found = simultaneous_band(whole, rng=np.random.default_rng(SEED))
        axes.fill_between(targets[reached], found.low, found.high, color=colour, alpha=0.2, linewidth=0)
