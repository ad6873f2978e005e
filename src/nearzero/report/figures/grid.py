"""The figure of a grid: the cost of distance minus that of intensity, for each network, at three displacements."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nearzero.analysis.verdict import Comparison, Finding, Verdict
from nearzero.report.figures.scales import Reading, reading_of, spelled
from nearzero.report.figures.style import (
    INK,
    LINE,
    PALE,
    ROLES,
    SHADE,
    ShownFigure,
    add_notices,
    points,
    styled,
)
from nearzero.report.grids import GridResults, judgements
from nearzero.report.results import display_name

__all__ = ["grid_figure"]

_COLOURS = ROLES["displacements"]
_LEAST_SIDE = 0.55  # of the longer side of zero: the shorter one has room for its words
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
    """Draw D, the cost of distance minus that of intensity in points (nats for a loss), with its interval.

    There is a row for each network, and a panel for each pair of a distance and an intensity family. The networks of
    one activation have panels of their own. Networks on which the direction found is robust are marked, by the
    distance that decides.
    """
    verdicts = judgements(grid)
    verdict = next(iter(verdicts.values()))
    groups, targets = _groups(verdict), sorted(verdict.rules.targets)[-len(_COLOURS) :]
    pairs = [(distance, intensity) for distance in verdicts for intensity in verdict.rules.intensity]
    sizes = [len(names) for names in groups]
    with styled():
        width = 1.4 + 1.6 * len(pairs)
        caption = textwrap.wrap(_caption(verdict), int(19 * width))
        height = 0.7 + 0.13 * len(caption) + 0.55 * len(groups) + 0.34 * sum(sizes)
        figure = ShownFigure(figsize=(width, height), layout="constrained")
        panels = figure.subplots(
            len(groups), len(pairs), sharex=True, sharey="row", squeeze=False, height_ratios=sizes
        )
        for names, row in zip(groups, panels, strict=True):
            for axes, (distance, intensity) in zip(row, pairs, strict=True):
                axes.set_title(f"{distance} against {intensity}", pad=20.0)
                _panel(axes, verdicts[distance], names, intensity, targets)
                _name_sides(axes, verdicts[distance].rules.distance, intensity)
            row[0].set_yticks(range(len(names)), [_label(verdict, name) for name in names])
            row[0].set_ylim(len(names) - 0.5, -0.5)
        low, high = panels[0, 0].get_xlim()
        panels[0, 0].set_xlim(min(low, -_LEAST_SIDE * high), max(high, -_LEAST_SIDE * low))
        for axes in panels[-1]:
            axes.set_xlabel(f"D, {verdict.rules.unit}")
        figure.legend(handles=_legend(targets), loc="outside upper center", ncols=4)
        figure.supxlabel("\n".join(caption), fontsize=6.0, x=0.01, ha="left")
        add_notices(figure, grid.notices)
    return figure


def _groups(verdict: Verdict) -> list[list[str]]:
    """Return the networks by activation; all in one group if an activation has one network only."""
    groups: dict[str, list[str]] = {}
    for name in verdict.networks:
        groups.setdefault(verdict.activations.get(name, name), []).append(name)
    together = any(len(names) < 2 for names in groups.values())
    return [list(verdict.networks)] if together else list(groups.values())


def _caption(verdict: Verdict) -> str:
    """Return the sentences on how to read the figure."""
    rules = verdict.rules
    unit = rules.unit.removesuffix("s") if rules.margin == 1 else rules.unit
    return (
        f"D: the cost of a panel's first family minus that of its second, in {rules.measured_in}, at equal "
        "displacement d of the activations; mean over runs, with its "
        f"{100 * (1 - 2 * rules.alpha):g} % interval. "
        f"Shaded: the margin, {rules.margin:g} {unit} on either side. "
        f"Robust: all checks find the same direction, with {', '.join(rules.distance)} as distance."
    )


def _label(verdict: Verdict, network: str) -> str:
    """Return the name of a network, marked if the direction found on it is robust."""
    return display_name(network) + (" (robust)" if verdict.robustness(network) == "robust" else "")


def _panel(
    axes: Axes, verdict: Verdict, names: Sequence[str], intensity: str, targets: Sequence[float]
) -> None:
    margin = verdict.rules.margin
    axes.axvspan(-margin, margin, color=SHADE, linewidth=0, zorder=0)
    axes.axvline(0.0, color=INK, linewidth=0.6)
    axes.grid(True, axis="x")
    colours = dict(zip(targets, _COLOURS[-len(targets) :], strict=True))
    for row, network in enumerate(names):
        if row:
            axes.axhline(row - 0.5, color=LINE, linewidth=0.4)
        for comparison in verdict.comparisons:
            pair = comparison.network, comparison.intensity
            if pair == (network, intensity) and comparison.target in colours:
                position = list(colours).index(comparison.target) - (len(colours) - 1) / 2
                _draw(axes, comparison, row + _SPACING * position, colours[comparison.target])


def _name_sides(axes: Axes, distance: Sequence[str], intensity: str) -> None:
    """Write on either side of zero what costs more there."""
    words: Mapping[str, Any] = {
        "transform": axes.get_xaxis_transform(),
        "va": "bottom",
        "fontsize": 5.5,
        "linespacing": 1.1,
    }
    axes.text(0.0, 1.02, f"{_side([intensity], 'intensity')} \n← costs more ", ha="right", **words)
    axes.text(0.0, 1.02, f" {_side(distance, 'distance')}\n costs more →", ha="left", **words)


def _side(families: Sequence[str], role: Reading) -> str:
    """Return the role of families, or their names where they stand in the place of others, as noise may."""
    return role if all(reading_of(name) == role for name in families) else ", ".join(map(spelled, families))


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
