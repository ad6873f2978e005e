"""The figure of a grid: the cost of distance minus that of intensity, for each network, at three displacements."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nearzero.analysis.verdict import Comparison, Finding, Verdict
from nearzero.report.figures.style import INK, PALE, ShownFigure, add_notices, points, styled
from nearzero.report.grids import GridResults, judgements
from nearzero.report.results import display_name

__all__ = ["grid_figure"]

_COLOURS = ("#EE7733", "#0077BB", "#222222")  # from the smallest displacement drawn to the largest
_SPACING = 0.22  # between the displacements of one network, in rows
# Marker, and whether it is filled. Findings that aren't listed have an open circle.
_MARKERS: dict[Finding, tuple[str, bool]] = {
    "distance costs more": ("o", True),
    "intensity costs more": ("o", True),
    "equivalent": ("s", True),
    "no effect": ("D", True),
    "degenerate": ("X", False),
}


def grid_figure(grid: GridResults) -> Figure:
    """Draw D, the cost of distance minus that of intensity in percentage points, with its interval.

    There is a row for each network, and a panel for each pair of a distance and an intensity family. Networks on
    which the direction found is robust are marked, by the distance that decides.
    """
    verdicts = judgements(grid)
    verdict = next(iter(verdicts.values()))
    names, targets = verdict.networks, sorted(verdict.rules.targets)[-len(_COLOURS) :]
    pairs = [(distance, intensity) for distance in verdicts for intensity in verdict.rules.intensity]
    with styled():
        figure = ShownFigure(figsize=(1.4 + 1.6 * len(pairs), 1.2 + 0.34 * len(names)), layout="constrained")
        panels = figure.subplots(1, len(pairs), sharex=True, sharey=True, squeeze=False).ravel()
        for axes, (distance, intensity) in zip(panels, pairs, strict=True):
            axes.set(title=f"{distance} against {intensity}", xlabel="D, points")
            _panel(axes, verdicts[distance], intensity, targets)
        panels[0].set_yticks(range(len(names)), [_label(verdict, name) for name in names])
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        figure.legend(handles=_legend(targets), loc="outside lower center", ncols=4)
        add_notices(figure, grid.notices)
    return figure


def _label(verdict: Verdict, network: str) -> str:
    """Return the name of a network, marked if the direction found on it is robust."""
    return display_name(network) + (" (robust)" if verdict.robustness(network) == "robust" else "")


def _panel(axes: Axes, verdict: Verdict, intensity: str, targets: Sequence[float]) -> None:
    margin = verdict.rules.margin
    axes.axvspan(-margin, margin, color="#EEEEEE", linewidth=0, zorder=0)
    axes.axvline(0.0, color=INK, linewidth=0.6)
    axes.grid(True, axis="x")
    colours = dict(zip(targets, _COLOURS[-len(targets) :], strict=True))
    for row, network in enumerate(verdict.networks):
        if row:
            axes.axhline(row - 0.5, color="#E3E3E3", linewidth=0.4)
        for comparison in verdict.comparisons:
            pair = comparison.network, comparison.intensity
            if pair == (network, intensity) and comparison.target in colours:
                position = list(colours).index(comparison.target) - (len(colours) - 1) / 2
                _draw(axes, comparison, row + _SPACING * position, colours[comparison.target])


def _draw(axes: Axes, comparison: Comparison, y: float, colour: str) -> None:
    if not comparison.n:
        return
    if comparison.low is not None and comparison.high is not None:
        axes.plot([comparison.low, comparison.high], [y, y], color=colour, linewidth=1.0)
    marker, filled = _MARKERS.get(comparison.finding, ("o", False))
    style = points(marker, 3.2, colour, colour if filled else "w", edge=1.0)
    axes.plot([comparison.difference], [y], **style)


def _legend(targets: Sequence[float]) -> list[Line2D]:
    displacements = [
        Line2D([], [], color=colour, label=f"d = {100 * target:g} %")
        for target, colour in zip(targets, _COLOURS[-len(targets) :], strict=True)
    ]
    labels = {
        "one costs more": ("o", PALE),
        "equivalent": ("s", PALE),
        "no effect": ("D", PALE),
        "degenerate": ("X", "w"),
        "no finding": ("o", "w"),
    }
    findings = [
        Line2D([], [], **points(marker, 3.2, PALE, face, edge=1.0), label=label)
        for label, (marker, face) in labels.items()
    ]
    return displacements + findings
