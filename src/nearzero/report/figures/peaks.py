"""Figures 2 and 3: five feature peaks before and after a unit, from the exact densities of `nearzero.paper`.

There is a row for each unit: on the left the density of the linear feature z and the unit's boundary, on the
right the density of the unit's output, with the probability of exactly zero as a bar. The figures need no
study, and so have no notices.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nearzero.paper.peaks import FIGURE_2, FIGURE_3, PeakUnit
from nearzero.report.figures.style import INK, ROLES, ShownFigure, colours, signed, styled
from nearzero.report.results import Floats, display_name

__all__ = ["activations_figure", "offsets_figure"]

# One colour per peak, the same before and after. Letters name the peaks too, for readers who don't see the colours.
_PEAKS = ROLES["peaks"]
_BAR: dict[str, Any] = {"width": 0.16, "edgecolor": "white", "linewidth": 0.4, "zorder": 3}
_TOP = 1.08
_POINTS = 801
_VISIBLE = 1e-3  # mass from which a peak is drawn in the bar
_NAMED = 0.1  # mass from which its letter is beside the bar, and not over its density


def activations_figure() -> Figure:
    """Draw figure 2: the peaks after ReLU and after Abs, unperturbed."""
    return _figure(FIGURE_2)


def offsets_figure() -> Figure:
    """Draw figure 3: the same with the boundary moved to either side, by an offset of the opposite sign."""
    return _figure(FIGURE_3)


def _figure(units: tuple[PeakUnit, ...]) -> Figure:
    with styled():
        figure = ShownFigure(figsize=(7.0, 0.55 + 1.35 * len(units)), layout="constrained")
        panels = figure.subplots(
            len(units), 2, sharex="col", sharey=True, squeeze=False, width_ratios=(1.3, 1)
        )
        for unit, (before, after) in zip(units, panels, strict=True):
            _before(before, unit)
            _after(after, unit)
        panels[-1, 0].set_xlabel("linear feature z")
        panels[-1, 1].set_xlabel("activation a")
    return figure


def _before(axes: Axes, unit: PeakUnit) -> None:
    z = np.linspace(-4.4, 5.2, _POINTS)
    _fill(axes, z, unit.peaks.densities(z))
    axes.axvline(unit.boundary, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
    axes.text(unit.boundary + 0.12, _TOP - 0.04, f"boundary {signed(unit.boundary)}", va="top")
    for name, centre, colour in zip(unit.peaks.names, unit.peaks.means, _PEAKS, strict=True):
        _letter(axes, centre, 0.42, name, colour)
    offset = "no offset (level 0)"
    if unit.offset:
        offset = f"offset {signed(unit.offset)} (level {signed(100 * unit.level)} %)"
    name = display_name(unit.activation)
    axes.set_title(f"{name}, {offset}", color=colours([unit.activation])[unit.activation])
    axes.set(xlim=(z[0], z[-1]), ylim=(0, _TOP), ylabel="density")
    axes.set_xticks(range(-4, 6))


def _after(axes: Axes, unit: PeakUnit) -> None:
    a = np.linspace(0.0, 5.8, _POINTS)
    densities, masses = unit.densities(a), unit.masses_at_zero()
    _fill(axes, a, densities)
    _bar(axes, unit, masses)
    for name, colour, x, height in _modes(unit, a, densities, masses):
        _letter(axes, x, height + 0.02, name, colour)
    total = masses.sum()
    axes.text(0.16, _TOP - 0.04, f"mass at zero {total:.3f}" if total else "no mass at zero", va="top")
    axes.set(xlim=(-0.45, a[-1]), title=f"after {display_name(unit.activation)}")
    axes.set_xticks(range(6))


def _bar(axes: Axes, unit: PeakUnit, masses: Floats) -> None:
    """Stack the peaks' visible masses at zero, with letters to the left of those above `_NAMED`."""
    ends = masses.cumsum()
    for name, mass, end, colour in zip(unit.peaks.names, masses, ends, _PEAKS, strict=True):
        if mass > _VISIBLE:
            axes.bar(0.0, mass, bottom=end - mass, color=colour, **_BAR)
        if mass > _NAMED:
            axes.text(-0.14, end - mass / 2, name, ha="right", va="center", color=colour, fontweight="bold")


def _modes(
    unit: PeakUnit, a: Floats, densities: Floats, masses: Floats
) -> Iterator[tuple[str, str, float, float]]:
    """Yield name, colour, position and height of each peak that isn't named at the bar.

    The letters of peaks at the same position are placed side by side.
    """
    kept = [k for k, mass in enumerate(masses) if mass <= _NAMED]
    modes = {k: int(densities[k].argmax()) for k in kept}
    for k in kept:
        neighbours = [other for other in kept if abs(a[modes[other]] - a[modes[k]]) < unit.peaks.sigma]
        shift = 0.2 * (neighbours.index(k) - (len(neighbours) - 1) / 2)
        height = float(densities[:, modes[k]].sum())
        yield unit.peaks.names[k], _PEAKS[k], float(a[modes[k]]) + shift, height


def _letter(axes: Axes, x: float, y: float, name: str, colour: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    axes.text(x, y, name, ha="center", va="bottom", color=colour, fontweight="bold", bbox=box)


def _fill(axes: Axes, x: Floats, densities: Floats) -> None:
    """Stack the filled peaks, so that they add up to the line, the density of the mixture."""
    tops = densities.cumsum(axis=0)
    for top, density, colour in zip(tops, densities, _PEAKS, strict=True):
        axes.fill_between(x, top - density, top, density > 1e-5, color=colour, alpha=0.3, linewidth=0)
    axes.plot(x, tops[-1], color=INK, linewidth=0.8)
