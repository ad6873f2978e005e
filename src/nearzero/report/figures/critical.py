"""Figures of critical levels: the share of examples that keep their prediction, and the examples that change first.

The critical levels are found in `nearzero.analysis.critical`.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nearzero.analysis.critical import CriticalLevels
from nearzero.errors import InputError
from nearzero.report.figures.style import (
    INK,
    PALE,
    ShownFigure,
    colours,
    markers,
    network_keys,
    signed,
    styled,
)
from nearzero.report.results import Floats, display_name
from nearzero.support.words import number_of

__all__ = ["breaking_figure", "critical_figure"]

POINTS = 1200  # of a curve; more can't be distinguished
DOTTED = (0, (1.0, 1.2))
COLUMNS = 2


def critical_figure(found: Mapping[str, Mapping[str, CriticalLevels]]) -> Figure:
    """Draw the share of examples whose prediction hasn't changed between the identity and a level, for each family.

    Dotted lines: the share whose prediction at that level is the unperturbed one; the gap between the lines
    is the share that has changed and changed back. Above each panel: the share that never changes on a side
    (censored).

    Args:
        found: critical levels by network and family.

    Raises:
        InputError: there is nothing to draw.
    """
    families = list(dict.fromkeys(family for by_family in found.values() for family in by_family))
    if not families:
        raise InputError("there are no critical levels to draw: give at least one network with one family")
    rows = -(-len(families) // COLUMNS)
    with styled():
        figure = ShownFigure(figsize=(7.0, 0.35 + 2.3 * rows), layout="constrained")
        panels = figure.subplots(rows, COLUMNS, squeeze=False)
        for panel, family in zip(panels.flat, families, strict=False):
            by_network = {name: by_family[family] for name, by_family in found.items() if family in by_family}
            _panel(panel, family, by_network)
        for spare in panels.flat[len(families) :]:
            spare.set_axis_off()
        for left in panels[:, 0]:
            left.set_ylabel("share of examples (%)")
        figure.legend(handles=_keys(found), loc="outside upper center", ncols=len(found) + 2)
    return figure


def _panel(axes: Axes, family: str, by_network: Mapping[str, CriticalLevels]) -> None:
    low = min(critical.low for critical in by_network.values())
    high = max(critical.high for critical in by_network.values())
    axes.set(title=family, xlabel="level", xlim=(low, high), ylim=(0, 102))
    if family == "scale":
        axes.set_xscale("log")
    axes.set_yticks(range(0, 101, 20))
    axes.grid(True)
    for name, critical in by_network.items():
        colour = colours(by_network)[name]
        spaced = np.geomspace if family == "scale" else np.linspace
        levels = np.clip(spaced(critical.low, critical.high, POINTS), critical.low, critical.high)
        agreement = critical.accuracy(levels, critical.unperturbed)
        axes.plot(levels, 100 * agreement, color=colour, linewidth=0.8, linestyle=DOTTED)
        for side in critical.sides:
            marker = markers(by_network)[name]
            axes.plot(
                *_survival(critical, side, levels),
                color=colour,
                marker=marker,
                markersize=2.8,
                markevery=0.14,
            )
    for identity in {critical.identity for critical in by_network.values() if len(critical.sides) == 2}:
        axes.axvline(float(identity or 0.0), color=PALE, linewidth=0.7, zorder=1)
    # above the panel, since curves can cross every place within it
    axes.set_title(_censored_shares(by_network), loc="right", fontsize=6.0, linespacing=1.25)


def _censored_shares(by_network: Mapping[str, CriticalLevels]) -> str:
    """Return, as text, the share of each network's examples that never change on each side."""
    sides = list(dict.fromkeys(side for critical in by_network.values() for side in critical.sides))
    if not sides:
        return ""
    lines = [f"never changes {' | '.join(sides)}"]
    for name, critical in by_network.items():
        shares = (
            _percent(critical.censored(side), len(critical)) if side in critical.sides else "–"
            for side in sides
        )
        lines.append(f"{display_name(name)} {' | '.join(shares)}")
    return "\n".join(lines)


def _percent(count: int, examples: int) -> str:
    """Format a share in percent; "100.0 %" only if it is all, "0.0 %" only if it is none."""
    text = f"{100 * count / examples:.1f} %"
    if text == "100.0 %" and count < examples:
        return "over 99.9 %"
    return "under 0.1 %" if text == "0.0 %" and count else text


def _survival(critical: CriticalLevels, side: str, levels: Floats) -> tuple[Floats, Floats]:
    """Return the levels on a side, and the share (%) of examples that haven't changed between identity and level."""
    first_changes = critical.critical(side)
    first_changes = first_changes[np.isfinite(first_changes)]
    start = critical.high if critical.identity is None or math.isinf(critical.identity) else critical.identity
    outward = 1 if side == "above" else -1
    on_side = np.unique(np.append(levels[outward * (levels - start) >= 0], start))
    changed = np.searchsorted(np.sort(outward * first_changes), outward * on_side, side="right")
    return on_side, 100 * (1 - changed / len(critical))


def _keys(networks: Iterable[str]) -> list[Line2D]:
    return [
        *network_keys(networks),
        Line2D([], [], color=INK, label="not changed on the way"),
        Line2D([], [], color=INK, linewidth=0.8, linestyle=DOTTED, label="as unperturbed at the level"),
    ]


def breaking_figure(
    found: Mapping[str, CriticalLevels],
    images: npt.NDArray[np.number],
    labels: npt.NDArray[np.integer] | None = None,
    *,
    count: int = 10,
) -> Figure:
    """Draw the examples whose prediction changes first, for each family and side.

    Above each example: its prediction before and after the change, and in brackets its label, if the
    unperturbed prediction was wrong. Below it: its critical level.

    Args:
        found: the critical levels of one network, by family.
        images: the examples, `(N, D)` or `(N, H, W)`. Square ones are drawn as images, others named by their
            index.
        labels: of the examples, `(N,)`; None for no labels in brackets.
        count: number of examples for each family and side.

    Raises:
        InputError: the number of images isn't the number of examples, or there is nothing to draw.
    """
    rows = [(family, side) for family, critical in found.items() for side in critical.sides]
    if not rows:
        raise InputError("there are no sides to draw: the levels of a family must include its identity")
    for family, critical in found.items():
        if len(images) != len(critical):
            raise InputError(
                f"images must be those of the {number_of(len(critical), 'example')} of {family}; got {len(images):,}"
            )
    with styled():
        figure = ShownFigure(figsize=(0.75 + 0.66 * count, 0.25 + 0.92 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), count, squeeze=False)
        for (family, side), row in zip(rows, panels, strict=True):
            _draw_first(row, found[family], side, images, labels)
            _write(row[0], -0.25, 0.5, f"{family}\n{side}", ha="right", va="center", fontsize=7.0)
        truth = "" if labels is None else " (what it is, if it was another)"
        figure.supxlabel(f"what the prediction was → becomes{truth}; below, the critical level", fontsize=6.5)
    return figure


def _draw_first(
    panels: npt.NDArray[np.object_],
    critical: CriticalLevels,
    side: str,
    images: npt.NDArray[np.number],
    labels: npt.NDArray[np.integer] | None,
) -> None:
    """Draw the examples that change first on a side, one in each panel."""
    first = critical.first_to_break(len(panels), side)
    levels, after = critical.critical(side), critical.successor(side)
    for panel in panels:
        panel.set_axis_off()
    for panel, n in zip(panels, first, strict=False):
        picture = _picture(np.asarray(images[n]))
        if picture is None:
            _write(panel, 0.5, 0.5, f"{n:,}", ha="center", va="center")
        else:
            panel.imshow(picture, cmap="gray_r", interpolation="nearest")
        before = int(critical.unperturbed[n])
        truth = "" if labels is None or labels[n] == before else f" ({labels[n]})"
        panel.set_title(f"{before} → {after[n]}{truth}", fontsize=6.0, loc="center", pad=1.5)
        level = signed(float(levels[n])) if critical.identity == 0 else f"{levels[n]:.4g}"
        _write(panel, 0.5, -0.03, level, ha="center", va="top", fontsize=5.5)


def _write(panel: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write text at a position given as shares of the panel's width and height."""
    panel.text(x, y, text, transform=panel.transAxes, **style)


def _picture(values: npt.NDArray[np.number]) -> npt.NDArray[np.number] | None:
    """Return an example as an image; None if it isn't square."""
    if values.ndim == 2:
        return values
    side = math.isqrt(values.size)
    return values.reshape(side, side) if values.ndim == 1 and side * side == values.size > 1 else None
