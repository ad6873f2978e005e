"""Figure 4: every measured accuracy against the published one, and their differences."""

import math
from collections.abc import Sequence

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
    points,
    styled,
)
from nearzero.report.results import StudyResults, display_name, networks

__all__ = ["agreement_figure"]

_MARKERS = {  # marker and label of each quantity; none of them is the marker of a network in other figures
    "train_accuracy": ("*", "table 1"),
    "test_accuracy": ("*", "table 1"),
    "scale": ("s", "table 2, scale"),
    "clip": ("D", "table 3, clip"),
    "offset": ("v", "table 4, offset"),
}


def agreement_figure(study: StudyResults) -> Figure:
    """Draw measured against published mean accuracy of tables 1 to 4, and the differences in a panel below.

    Each network has a column of its own. Bars in the lower panels: 3 standard errors of the difference. Shaded: 1.5
    points. Rows of tables 2 to 4 that lie outside both have filled markers. The insets enlarge the crowded corner.
    """
    rows = _rows(study)
    names = list(dict.fromkeys(row.network for row in rows)) or [""]
    with styled():
        figure = ShownFigure(figsize=(0.5 + 3.2 * len(names), 4.9), layout="constrained")
        panels = figure.subplots(
            2, len(names), sharex=True, sharey="row", squeeze=False, height_ratios=(2.2, 1.0)
        )
        for name, (above, below) in zip(names, panels.T, strict=True):
            _column(above, below, [row for row in rows if row.network == name])
            below.set_xlabel("published accuracy (%)")
        first, last = panels[:, 0]
        first.set_ylabel("measured accuracy (%)")
        last.set_ylabel("difference (points)")
        _limits(last, rows)
        if rows:
            reproduced = reproduction(study)
            count = f"{len(reproduced.agreeing)} of {len(reproduced.comparisons)}"
            within = f"±{POINTS:g} points (shaded) or ±{STANDARD_ERRORS:g} s.e. (bars)"
            last.set_title(f"All networks: {count} within {within}", fontsize=6.5)
            first.legend(handles=_keys(differing=bool(reproduced.differing)), loc="upper left")
        else:
            why = "\n".join(("nothing published to compare", *study.departures))
            first.text(0.5, 0.9, why, ha="center", va="top", transform=first.transAxes)
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


def _column(above: Axes, below: Axes, rows: Sequence[PublishedComparison]) -> None:
    """Draw the panels of one network."""
    above.set(xlim=(0, 102), ylim=(0, 102))
    below.axhspan(-POINTS, POINTS, color=SHADE, linewidth=0)
    below.axhline(0, color=PALE, linewidth=0.7)
    inset = above.inset_axes((0.60, 0.08, 0.38, 0.38))
    inset.tick_params(labelsize=5.5)
    inset.set(xlim=(94, 100.5), ylim=(94, 100.5), xticks=(94, 97, 100), yticks=(94, 97, 100))
    for axes in (above, below, inset):
        axes.grid(True)
    for axes in (above, inset):
        axes.plot([0, 102], [0, 102], color=PALE, linewidth=0.7, zorder=1)
    for network, colour in colours(dict.fromkeys(row.network for row in rows)).items():
        above.set_title(display_name(network), color=colour)
        _draw(above, inset, below, rows, colour)


def _draw(above: Axes, inset: Axes, below: Axes, rows: Sequence[PublishedComparison], colour: str) -> None:
    for row in rows:
        face = colour if row.level is not None and not row.agrees else "none"
        style = points(_MARKERS[row.quantity][0], 3.2, colour, face)
        for axes in (above, inset):
            axes.plot([row.published], [row.published + row.difference], **style)
        below.plot([row.published], [row.difference], **style)
        if math.isfinite(row.standard_error):
            half = STANDARD_ERRORS * row.standard_error
            ends = [row.difference - half, row.difference + half]
            below.plot([row.published] * 2, ends, color=colour, linewidth=0.5, alpha=0.6)


def _limits(below: Axes, rows: Sequence[PublishedComparison]) -> None:
    """Set symmetric limits that hold every difference and its bar."""
    reach = [2.0 * POINTS]
    for row in rows:
        error = row.standard_error if math.isfinite(row.standard_error) else 0.0
        reach.append(abs(row.difference) + STANDARD_ERRORS * error)
    below.set_ylim(-1.05 * max(reach), 1.05 * max(reach))


def _keys(*, differing: bool) -> list[Line2D]:
    markers = [(marker, label, "none") for marker, label in dict.fromkeys(_MARKERS.values())]
    if differing:
        markers.append(("s", "outside both", INK))
    return [Line2D([], [], **points(marker, 3.4, INK, face), label=label) for marker, label, face in markers]
