"""Figure 1: accuracy against level, intensity families on the left, the offset family on the right."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nearzero.paper.published import published
from nearzero.report.figures.style import INK, ShownFigure, add_notices, colours, markers, points, styled
from nearzero.report.results import StudyResults, curve, display_name, families, networks, unperturbed
from nearzero.statistics.summaries import count, mean, t_interval

__all__ = ["response_figure"]

_LINES: dict[str, Any] = {"scale": "-", "clip": (0, (3.2, 1.6)), "offset": "-"}
_MARKED = 0.14  # of a panel's diagonal, between two markers of a curve


def response_figure(study: StudyResults) -> Figure:
    """Draw mean accuracy over runs with its 95 % t interval as a band, and the published means as open markers.

    Panel (a): intensity scale (solid) and clip (dashed), levels 0 to 120 %. Panel (b): distance offset, -200
    to 100 %.
    """
    with styled():
        figure = ShownFigure(figsize=(7.0, 2.75), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _panel(left, study, ("scale", "clip"), (0.0, 120.0), "(a) Intensity: scale and clip")
        _panel(right, study, ("offset",), (-200.0, 100.0), "(b) Distance: offset")
        left.set_ylabel("train accuracy (%)")
        left.legend(handles=_keys(study), loc="lower right", ncols=1)
        add_notices(figure, study.notices)
    return figure


def _panel(
    axes: Axes, study: StudyResults, drawn: tuple[str, ...], limits: tuple[float, float], title: str
) -> None:
    axes.set(title=title, xlabel="level (%)", xlim=limits, ylim=(0.0, 102.0))
    axes.set_xticks(np.arange(limits[0], limits[1] + 1, 20 if limits[0] == 0 else 50))
    axes.set_yticks(range(0, 101, 20))
    axes.grid(True)
    swept = [family for family in drawn if family in families(study)]
    for family in swept:
        for network, colour in colours(networks(study)).items():
            marker = markers(networks(study))[network]
            _draw_curve(axes, study, network, family, colour, marker)
            if not study.departures:
                _draw_published(axes, network, family, colour, marker, limits)
    if not swept:
        axes.text(0.5, 0.5, "not swept", ha="center", va="center", transform=axes.transAxes)


def _draw_curve(axes: Axes, study: StudyResults, network: str, family: str, colour: str, marker: str) -> None:
    grid = curve(study, network, family)
    finite = np.isfinite(grid.levels)
    levels, accuracy = 100.0 * grid.levels[finite], grid.accuracy[finite]
    low, high = (np.clip(end, 0.0, 100.0) for end in t_interval(accuracy))
    axes.fill_between(levels, low, high, color=colour, alpha=0.22, linewidth=0)
    style: dict[str, Any] = {"marker": marker, "markersize": 2.8, "markevery": _MARKED}
    label = f"{network} {family}"
    axes.plot(levels, mean(accuracy), color=colour, linestyle=_LINES[family], label=label, **style)


def _draw_published(
    axes: Axes, network: str, family: str, colour: str, marker: str, limits: tuple[float, float]
) -> None:
    inside = [
        (100.0 * row.level, row.networks[network].accuracy)
        for row in published().families[family]
        if network in row.networks and limits[0] <= 100.0 * row.level <= limits[1]
    ]
    if inside:
        style = points(marker, 3.6, colour, "white")
        label = f"{network} {family} published"
        axes.plot(*zip(*inside, strict=True), **style, clip_on=False, zorder=4, label=label)


def _keys(study: StudyResults) -> list[Line2D | Patch]:
    """Return a key for each network and each family of panel (a), one for the band and one for the published points."""
    keys: list[Line2D | Patch] = []
    runs = study.response.sizes["run"]
    for network, colour in colours(networks(study)).items():
        finite = int(count(unperturbed(study, network)))
        remark = "" if finite == runs else f" ({finite} of {runs} runs)"
        marker = markers(networks(study))[network]
        label = display_name(network) + remark
        keys.append(Line2D([], [], color=colour, marker=marker, markersize=2.8, label=label))
    keys.extend(
        Line2D([], [], color=INK, linestyle=_LINES[family], label=family)
        for family in ("scale", "clip")
        if family in families(study)
    )
    keys.append(Patch(facecolor=INK, alpha=0.22, label="95 % interval"))
    if not study.departures:
        keys.append(Line2D([], [], **points("o", 3.2, INK, "white"), label="published"))
    return keys
