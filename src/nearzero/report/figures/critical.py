"""Figures of critical levels: how many examples keep their prediction how far out, and which ones break first.

They draw what `nearzero.analysis.critical` has found; nothing is found here.
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
from nearzero.report.figures.style import INK, PALE, colours, network_keys, signed, styled
from nearzero.report.results import Floats, display_name

__all__ = ["breaking_figure", "critical_figure"]

POINTS = 1200  # of a curve; more can't be seen
DOTTED = (0, (1.0, 1.2))
COLUMNS = 2


def critical_figure(found: Mapping[str, Mapping[str, CriticalLevels]]) -> Figure:
    """The share of examples whose prediction hasn't changed between the identity and a level, for each family.

    Dotted: the share whose prediction is the unperturbed one at that level, so that the gap is what has changed back.
    In words: what never changes on a side (censored).

    Args:
        found: critical levels of networks by name, each of families by name.

    Raises:
        InputError: there is nothing to draw.
    """
    families = list(dict.fromkeys(family for each in found.values() for family in each))
    if not families:
        raise InputError("there are no critical levels to draw: give at least one network with one family")
    rows = -(-len(families) // COLUMNS)
    with styled():
        figure = Figure(figsize=(7.0, 0.35 + 2.3 * rows), layout="constrained")
        panels = figure.subplots(rows, COLUMNS, squeeze=False)
        for panel, family in zip(panels.flat, families, strict=False):
            _panel(panel, family, {name: each[family] for name, each in found.items() if family in each})
        for spare in panels.flat[len(families) :]:
            spare.set_axis_off()
        for left in panels[:, 0]:
            left.set_ylabel("share of examples (%)")
        figure.legend(handles=_keys(found), loc="outside upper center", ncols=len(found) + 2)
    return figure


def _panel(axes: Axes, family: str, found: Mapping[str, CriticalLevels]) -> None:
    low, high = min(each.low for each in found.values()), max(each.high for each in found.values())
    axes.set(title=family, xlabel="level", xlim=(low, high), ylim=(0, 102))
    if family == "scale":
        axes.set_xscale("log")
    axes.set_yticks(range(0, 101, 20))
    axes.grid(True)
    for name, each in found.items():
        colour = colours(found)[name]
        spaced = np.geomspace if family == "scale" else np.linspace
        levels = np.clip(spaced(each.low, each.high, POINTS), each.low, each.high)
        agreement = each.accuracy(levels, each.unperturbed)
        axes.plot(levels, 100 * agreement, color=colour, linewidth=0.8, linestyle=DOTTED)
        for side in each.sides:
            axes.plot(*_survival(each, side, levels), color=colour)
    for identity in {each.identity for each in found.values() if len(each.sides) == 2}:
        axes.axvline(float(identity or 0.0), color=PALE, linewidth=0.7, zorder=1)
    # over the panel, since there is no place in it that no curve goes through
    axes.set_title(_never(found), loc="right", fontsize=6.0, linespacing=1.25)


def _never(found: Mapping[str, CriticalLevels]) -> str:
    """In words: the share of each network's examples that never change, on each side."""
    sides = list(dict.fromkeys(side for each in found.values() for side in each.sides))
    if not sides:
        return ""
    lines = [f"never changes {' | '.join(sides)}"]
    for name, each in found.items():
        shares = (_share(each.censored(side), len(each)) if side in each.sides else "–" for side in sides)
        lines.append(f"{display_name(name)} {' | '.join(shares)}")
    return "\n".join(lines)


def _share(count: int, examples: int) -> str:
    """In percent; not 100.0 where it isn't all, nor 0.0 where it isn't none."""
    text = f"{100 * count / examples:.1f} %"
    if text == "100.0 %" and count < examples:
        return "over 99.9 %"
    return "under 0.1 %" if text == "0.0 %" and count else text


def _survival(found: CriticalLevels, side: str, levels: Floats) -> tuple[Floats, Floats]:
    """Levels on a side, and the share (%) of examples that haven't changed on the way to each."""
    critical = found.critical(side)
    changed = critical[np.isfinite(critical)]
    start = found.high if found.identity is None or math.isinf(found.identity) else found.identity
    outward = 1 if side == "above" else -1
    mine = np.unique(np.append(levels[outward * (levels - start) >= 0], start))
    gone = np.searchsorted(np.sort(outward * changed), outward * mine, side="right")
    return mine, 100 * (1 - gone / len(found))


def _keys(found: Iterable[str]) -> list[Line2D]:
    return [
        *network_keys(found),
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
    """The examples whose prediction changes first, for each family and side.

    Over each what the prediction was and becomes, and in brackets what the example is, if it was another; below it the
    critical level.

    Args:
        found: the critical levels of one network, by family.
        images: (N, D) or (N, H, W), the examples; drawn where they're square, else named by their number.
        labels: (N,), what the examples are; nothing in brackets without.
        count: how many of each.

    Raises:
        InputError: another number of images than of examples, or nothing to draw.
    """
    rows = [(family, side) for family, each in found.items() for side in each.sides]
    if not rows:
        raise InputError("there are no sides to draw: a family needs an identity among the levels looked at")
    for family, each in found.items():
        if len(images) != len(each):
            raise InputError(
                f"images must be those of the {len(each):,} examples of {family}; got {len(images):,}"
            )
    with styled():
        figure = Figure(figsize=(0.75 + 0.66 * count, 0.25 + 0.92 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), count, squeeze=False)
        for (family, side), line in zip(rows, panels, strict=True):
            _line(line, found[family], side, images, labels)
            _write(line[0], -0.25, 0.5, f"{family}\n{side}", ha="right", va="center", fontsize=7.0)
        truth = "" if labels is None else " (what it is, if it was another)"
        figure.supxlabel(f"what the prediction was → becomes{truth}; below, the critical level", fontsize=6.5)
    return figure


def _line(
    panels: npt.NDArray[np.object_],
    found: CriticalLevels,
    side: str,
    images: npt.NDArray[np.number],
    labels: npt.NDArray[np.integer] | None,
) -> None:
    first = found.first_to_break(len(panels), side)
    levels, becomes = found.critical(side), found.successor(side)
    for panel in panels:
        panel.set_axis_off()
    for panel, n in zip(panels, first, strict=False):
        picture = _picture(np.asarray(images[n]))
        if picture is None:
            _write(panel, 0.5, 0.5, f"{n:,}", ha="center", va="center")
        else:
            panel.imshow(picture, cmap="gray_r", interpolation="nearest")
        was = int(found.unperturbed[n])
        truth = "" if labels is None or labels[n] == was else f" ({labels[n]})"
        panel.set_title(f"{was} → {becomes[n]}{truth}", fontsize=6.0, loc="center", pad=1.5)
        level = signed(float(levels[n])) if found.identity == 0 else f"{levels[n]:.4g}"
        _write(panel, 0.5, -0.03, level, ha="center", va="top", fontsize=5.5)


def _write(panel: Axes, x: float, y: float, text: str, **look: Any) -> None:
    """Write at a place given as a share of the panel's width and height."""
    panel.text(x, y, text, transform=panel.transAxes, **look)


def _picture(values: npt.NDArray[np.number]) -> npt.NDArray[np.number] | None:
    if values.ndim == 2:
        return values
    side = math.isqrt(values.size)
    return values.reshape(side, side) if values.ndim == 1 and side * side == values.size > 1 else None
