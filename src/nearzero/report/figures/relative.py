"""Figure 6: the relative cost of intensity at each displacement, between planted distance and planted templates."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nearzero.analysis.verdict import RelativeCost, Verdict
from nearzero.mechanisms.reference import MECHANISMS, Band, Mechanism
from nearzero.report.figures.style import FAMILY_MARKERS, INK, ROLES, ShownFigure, add_notices, points, styled
from nearzero.report.results import display_name

__all__ = ["relative_figure"]

# Colour and hatching of a mechanism.
_MECHANISMS = dict(zip(MECHANISMS, zip(ROLES["mechanisms"], ("////", "...."), strict=True), strict=True))
_TICKS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
_TICK_LABELS = ("0", "¼", "½", "1", "2", "4")
_EDGES = (-0.08, 16.0)  # relative costs beyond these are drawn at the edge, as an arrow


def relative_figure(
    verdict: Verdict, bands: Mapping[str, Sequence[Band]], notices: Sequence[str] = ()
) -> Figure:
    """Draw the relative cost of each family of intensity, with its interval: a row of panels for each network.

    The scale is r / (1 + r), so that a half and twice are equally far from 1.

    Args:
        verdict: the verdict.
        bands: by network, the relative costs of networks with a planted mechanism, see
            `nearzero.mechanisms.reference.planted_bands`.
        notices: lines above the figure.
    """
    names, families = verdict.shown_networks, verdict.rules.intensity
    with styled():
        lines = textwrap.wrap(_cannot_tell(verdict), 88 * len(families))
        height = 0.55 + 0.13 * len(lines) + len(names) * (0.62 + 0.25 * len(verdict.rules.targets))
        figure = ShownFigure(figsize=(0.7 + 3.3 * len(families), height), layout="constrained")
        panels = figure.subplots(len(names), len(families), sharex=True, sharey=True, squeeze=False)
        for network, row in zip(names, panels, strict=True):
            markers = FAMILY_MARKERS[len(verdict.rules.distance) :]  # as in figure 5
            for family, marker, axes in zip(families, markers, row, strict=False):
                costs = [
                    cost
                    for cost in verdict.relative_costs
                    if (cost.network, cost.intensity) == (network, family)
                ]
                _panel(axes, costs, bands.get(network, ()), verdict.rules.targets, marker)
                axes.set_title(
                    f"{display_name(network)}: {family} against {' and '.join(verdict.rules.distance)}"
                )
        for axes in panels[-1]:
            axes.set_xlabel("cost of intensity / cost of distance, at equal displacement")
        for axes in panels[:, 0]:
            axes.set_ylabel("displacement (%)")
        drawn = [
            mechanism
            for mechanism in _MECHANISMS
            if any(band.mechanism == mechanism for network in names for band in bands.get(network, ()))
        ]
        figure.legend(handles=_legend(drawn), loc="outside upper center", ncols=4)
        figure.supxlabel("\n".join(lines), fontsize=6.0, color=INK, x=0.01, ha="left")
        add_notices(figure, notices)
    return figure


def _cannot_tell(verdict: Verdict) -> str:
    """Return the sentence on what relative costs can't tell."""
    return f"What this can't tell: {verdict.caveats[-1]}."


def _panel(
    axes: Axes,
    costs: Sequence[RelativeCost],
    bands: Sequence[Band],
    targets: Sequence[float],
    marker: str,
) -> None:
    axes.set_xscale("function", functions=(_share, _ratio))
    axes.set_xlim(*_EDGES)
    axes.set_xticks(_TICKS, _TICK_LABELS)
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(targets)), [f"{100 * target:g}" for target in targets])
    axes.set_ylim(len(targets) - 0.45, -0.85)
    axes.grid(True, axis="x")
    axes.axvline(1.0, color=INK, linewidth=0.8)
    axes.text(0.95, -0.62, "← distance costs more", ha="right", va="center", fontsize=6.0)
    axes.text(1.06, -0.62, "intensity costs more →", ha="left", va="center", fontsize=6.0)
    for cost in costs:
        row = list(targets).index(cost.target)
        for band in bands:
            if (band.family, band.target) == (cost.intensity, cost.target):
                _bar(axes, band, row)
        _point(axes, cost, row, marker)


def _bar(axes: Axes, band: Band, y: float) -> None:
    """Draw the band of a planted mechanism as a bar, if it is defined."""
    if band.low is None or band.high is None:
        return
    colour, hatch = _MECHANISMS[band.mechanism]
    low, high = np.clip((band.low, band.high), *_EDGES)
    axes.barh(y, high - low, left=low, height=0.62, **_face(colour, hatch))


def _face(colour: str, hatch: str) -> dict[str, Any]:
    """Return the look of a band."""
    return {"facecolor": f"{colour}40", "edgecolor": colour, "linewidth": 0.6, "hatch": hatch}


def _point(axes: Axes, cost: RelativeCost, y: float, marker: str) -> None:
    """Draw the relative cost of the network with its interval, or say that it is undefined."""
    ratio = cost.ratio
    if ratio.ratio is None or ratio.low is None or ratio.high is None:
        axes.text(1.06, y, "undefined", ha="left", va="center", fontsize=6.0, color=INK)
        return
    low, high = np.clip((ratio.low, ratio.high), *_EDGES)
    axes.plot([low, high], [y, y], color="white", linewidth=3.0, zorder=3)
    axes.plot([low, high], [y, y], color=INK, linewidth=1.3, zorder=4)
    shown = float(np.clip(ratio.ratio, *_EDGES))
    beyond = "<" if ratio.ratio < shown else ">" if ratio.ratio > shown else marker
    axes.plot([shown], [y], zorder=5, **points(beyond, 4.5, "white", INK, edge=0.6))


def _share(ratio: Any) -> Any:
    """Return r / (1 + r), which goes on as a straight line below 0."""
    ratio = np.asarray(ratio, dtype=np.float64)
    return np.where(ratio < 0, ratio, np.abs(ratio) / (1.0 + np.abs(ratio)))


def _ratio(share: Any) -> Any:
    """Return the inverse of `_share`."""
    share = np.asarray(share, dtype=np.float64)
    inside = np.clip(share, 0.0, 0.999)
    return np.where(share < 0, share, inside / (1.0 - inside))


def _legend(mechanisms: Sequence[Mechanism]) -> list[Any]:
    style = points(FAMILY_MARKERS[1], 4.5, INK, INK)
    network = Line2D(
        [], [], **style | {"linestyle": "-", "linewidth": 1.3}, label="this network, 95 % interval"
    )
    bands = [Patch(**_face(*_MECHANISMS[name]), label=MECHANISMS[name]) for name in mechanisms]
    return [network, *bands]
