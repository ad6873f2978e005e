"""Figure 4: every measured accuracy against the published one, and their differences."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nearzero.paper.published import published
from nearzero.report.comparison import (
    POINTS,
    STANDARD_ERRORS,
    PublishedComparison,
    compare_baseline,
    reproduction,
)
from nearzero.report.figures.style import (
    INK,
    PALE,
    SHADE,
    ShownFigure,
    add_notices,
    colours,
    network_keys,
    points,
    styled,
)
from nearzero.report.results import StudyResults, networks

__all__ = ["agreement_figure"]

_MARKERS = {  # marker and label of each quantity
    "train_accuracy": ("D", "table 1"),
    "test_accuracy": ("D", "table 1"),
    "scale": ("o", "table 2, scale"),
    "clip": ("s", "table 3, clip"),
    "offset": ("^", "table 4, offset"),
}


def agreement_figure(study: StudyResults) -> Figure:
    """Draw measured against published mean accuracy of tables 1 to 4, and the differences in a panel below.

    Bars in the lower panel: 3 standard errors of the difference. Shaded: 1.5 points. Rows of tables 2 to 4
    that lie outside both have filled markers. The inset enlarges the crowded corner.
    """
    with styled():
        figure = ShownFigure(figsize=(3.5, 4.7), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1.0))
        rows = _rows(study)
        above.set(ylabel="measured accuracy (%)", xlim=(0, 102), ylim=(0, 102))
        below.set(xlabel="published accuracy (%)", ylabel="difference (points)")
        below.axhspan(-POINTS, POINTS, color=SHADE, linewidth=0)
        below.axhline(0, color=PALE, linewidth=0.7)
        inset = above.inset_axes((0.60, 0.08, 0.38, 0.38))
        inset.tick_params(labelsize=5.5)
        inset.set(xlim=(94, 100.5), ylim=(94, 100.5), xticks=(94, 97, 100), yticks=(94, 97, 100))
        for axes in (above, below, inset):
            axes.grid(True)
        for axes in (above, inset):
            axes.plot([0, 102], [0, 102], color=PALE, linewidth=0.7, zorder=1)
        _draw(above, inset, below, rows, colours(networks(study)))
        _limits(below, rows)
        reproduced = reproduction(study)
        if not study.departures:
            count = f"{len(reproduced.agreeing)} of {len(reproduced.comparisons)}"
            below.set_title(
                f"{count} within ±{POINTS:g} points (shaded) or ±{STANDARD_ERRORS:g} s.e. (bars)",
                fontsize=6.5,
            )
        if rows:
            above.legend(handles=_keys(study), loc="upper left")
        else:
            why = "\n".join(("nothing published to compare", *study.departures))
            above.text(0.5, 0.9, why, ha="center", va="top", transform=above.transAxes)
        add_notices(figure, study.notices)
    return figure


def _rows(study: StudyResults) -> list[PublishedComparison]:
    """Return the comparisons of all accuracies of tables 1 to 4 that were measured."""
    if study.departures:
        return []
    rows = list(reproduction(study).comparisons)
    for network in networks(study):
        if network in published().baseline:
            rows += [row for row in compare_baseline(study, network) if row.quantity in _MARKERS]
    return [row for row in rows if row.is_measured]


def _draw(
    above: Axes, inset: Axes, below: Axes, rows: list[PublishedComparison], colour_of: dict[str, str]
) -> None:
    for row in rows:
        colour = colour_of[row.network]
        face = colour if row.level is not None and not row.agrees else "none"
        style = points(_MARKERS[row.quantity][0], 3.2, colour, face)
        for axes in (above, inset):
            axes.plot([row.published], [row.published + row.difference], **style)
        below.plot([row.published], [row.difference], **style)
        if math.isfinite(row.standard_error):
            half = STANDARD_ERRORS * row.standard_error
            ends = [row.difference - half, row.difference + half]
            below.plot([row.published] * 2, ends, color=colour, linewidth=0.5, alpha=0.6)


def _limits(below: Axes, rows: list[PublishedComparison]) -> None:
    """Set symmetric limits that hold every difference and its bar."""
    reach = [2.0 * POINTS]
    for row in rows:
        error = row.standard_error if math.isfinite(row.standard_error) else 0.0
        reach.append(abs(row.difference) + STANDARD_ERRORS * error)
    below.set_ylim(-1.05 * max(reach), 1.05 * max(reach))


def _keys(study: StudyResults) -> list[Line2D]:
    keys = network_keys((name for name in networks(study) if name in published().baseline), marked=False)
    markers = [(marker, label, "none") for marker, label in dict.fromkeys(_MARKERS.values())]
    if reproduction(study).differing:
        markers.append(("o", "outside both", INK))
    keys += [Line2D([], [], **points(marker, 3.4, INK, face), label=label) for marker, label, face in markers]
    return keys
