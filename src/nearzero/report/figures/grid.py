"""The figure of a grid: by how much distance costs more, for each of its networks, at three displacements."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nearzero.analysis.verdict import Comparison, Finding, Verdict
from nearzero.report.figures.style import INK, PALE, add_notices, points, styled
from nearzero.report.grids import GridResults, judgements
from nearzero.report.results import display_name

__all__ = ["grid_figure"]

_COLOURS = ("#EE7733", "#0077BB", "#222222")  # from the smallest displacement shown to the largest
_APART = 0.22  # between the displacements of one network, in rows
# One of the two costs more: full. Equivalent: a square. Everything else: empty.
_MARKS: dict[Finding, tuple[str, bool]] = {
    "distance costs more": ("o", True),
    "intensity costs more": ("o", True),
    "equivalent": ("s", True),
}


def grid_figure(grid: GridResults) -> Figure:
    """D with its interval, points: the cost of distance minus that of intensity. A row for each network, a panel for
    each pair of them.
    """
    judged = judgements(grid)
    verdict = next(iter(judged.values()))
    names, shown = verdict.networks, sorted(verdict.rules.targets)[-len(_COLOURS) :]
    pairs = [(distance, each) for distance in judged for each in verdict.rules.intensity]
    with styled():
        figure = Figure(figsize=(1.4 + 1.6 * len(pairs), 1.2 + 0.34 * len(names)), layout="constrained")
        panels = figure.subplots(1, len(pairs), sharex=True, sharey=True, squeeze=False).ravel()
        for axes, (distance, intensity) in zip(panels, pairs, strict=True):
            axes.set(title=f"{distance} against {intensity}", xlabel="D, points")
            _panel(axes, judged[distance], intensity, shown)
        panels[0].set_yticks(range(len(names)), [display_name(each) for each in names])
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        figure.legend(handles=_legend(shown), loc="outside lower center", ncols=len(shown) + 3)
        add_notices(figure, grid.notices)
    return figure


def _panel(axes: Axes, verdict: Verdict, intensity: str, shown: Sequence[float]) -> None:
    margin = verdict.rules.margin
    axes.axvspan(-margin, margin, color="#EEEEEE", linewidth=0, zorder=0)
    axes.axvline(0.0, color=INK, linewidth=0.6)
    axes.grid(True, axis="x")
    colours = dict(zip(shown, _COLOURS[-len(shown) :], strict=True))
    for row, network in enumerate(verdict.networks):
        if row:
            axes.axhline(row - 0.5, color="#E3E3E3", linewidth=0.4)
        for each in verdict.comparisons:
            if (each.network, each.intensity) == (network, intensity) and each.target in colours:
                place = list(colours).index(each.target) - (len(colours) - 1) / 2
                _mark(axes, each, row + _APART * place, colours[each.target])


def _mark(axes: Axes, each: Comparison, y: float, colour: str) -> None:
    if not each.n:
        return
    if each.low is not None and each.high is not None:
        axes.plot([each.low, each.high], [y, y], color=colour, linewidth=1.0)
    marker, full = _MARKS.get(each.finding, ("o", False))
    axes.plot([each.difference], [y], **points(marker, 3.2, colour, colour if full else "w", edge=1.0))


def _legend(shown: Sequence[float]) -> list[Line2D]:
    sizes = [
        Line2D([], [], color=colour, label=f"d = {100 * target:g} %")
        for target, colour in zip(shown, _COLOURS[-len(shown) :], strict=True)
    ]
    words = {"one costs more": ("o", PALE), "equivalent": ("s", PALE), "no finding": ("o", "w")}
    marks = [
        Line2D([], [], **points(marker, 3.2, PALE, face, edge=1.0), label=word)
        for word, (marker, face) in words.items()
    ]
    return sizes + marks
