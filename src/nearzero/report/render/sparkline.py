"""Small plots of characters, for terminals: curves as rows of a table, and bars on two sides of zero."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from nearzero.report.table import Column, Number, Table

__all__ = ["bar", "curves_table", "sparkline"]

STEPS = "▁▂▃▄▅▆▇█"
EIGHTHS = " ▏▎▍▌▋▊▉"
POINTS = 28  # of a curve; of a longer one, levels at equal steps of the grid
HALF = 10  # characters on each side of the zero of a bar

Floats = NDArray[np.float64]


def sparkline(values: Iterable[float], least: float, most: float) -> str:
    """Return a character for each value: its height between two ends; a blank where it isn't finite.

    Example:
        >>> from nearzero.report.render.sparkline import sparkline
        >>> sparkline([0.0, 25.0, 50.0, 100.0, float("nan")], 0.0, 100.0)
        '▁▃▅█ '
    """
    span = most - least
    shares = (
        math.nan if not math.isfinite(value) else (value - least) / span if span > 0 else 1.0
        for value in values
    )
    last = len(STEPS) - 1
    return "".join(
        STEPS[min(max(math.floor(share * last + 0.5), 0), last)] if math.isfinite(share) else " "
        for share in shares
    )


def bar(value: float, most: float) -> str:
    """Return a bar from the middle: to the right if the value is positive, else to the left.

    Example:
        >>> from nearzero.report.render.sparkline import bar
        >>> bar(5.0, 10.0), bar(-10.0, 10.0)
        ('          │█████     ', '██████████│          ')
    """
    share = min(abs(value) / most, 1.0) if most > 0 and math.isfinite(value) else 0.0
    whole = "█" * round(share * HALF)
    left, right = ("", whole) if value >= 0 else (whole, "")
    return f"{left:>{HALF}}│{right:<{HALF}}"


def curves_table(
    curves: Mapping[tuple[str, str], tuple[Floats, Floats]],
    labels: tuple[str, str],
    title: str,
    *,
    unit: str = "percent",
    ends: tuple[float, float] | None = None,
) -> Table:
    """Return curves as a table with a sparkline each, its first and last level, and its least and greatest value.

    Args:
        curves: by two labels, the levels of a curve, ascending, and its values.
        labels: the headers of the two labels.
        title: of the table.
        unit: of the values.
        ends: the values at the bottom and the top of the sparklines; those of all curves if None.
    """
    known = [values[np.isfinite(values)] for _, values in curves.values()]
    finite = np.concatenate(known) if known else np.empty(0)
    if ends is None:
        ends = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    rows = []
    for names, (levels, values) in curves.items():
        if not levels.size:
            continue
        shown = np.unique(np.linspace(0, len(levels) - 1, min(POINTS, len(levels))).round().astype(int))
        own = values[np.isfinite(values)]
        extremes = (Number.of(float(own.min())), Number.of(float(own.max()))) if own.size else (None, None)
        plot = sparkline(values[shown], *ends)
        rows.append((*names, f"{levels[0]:.3g}", plot, f"{levels[-1]:.3g}", *extremes))
    sign = " %" if unit == "percent" else ""
    return Table(
        name="curves",
        title=title,
        caption=f"From the lowest to the highest level; heights from {ends[0]:.4g}{sign} to {ends[1]:.4g}{sign}.",
        columns=(
            Column(labels[0], labels[0], kind="text"),
            Column(labels[1], labels[1], kind="text"),
            Column("first_level", "from"),
            Column("curve", "curve", kind="text"),
            Column("last_level", "to", kind="text"),
            Column("least", "least", unit=unit),
            Column("greatest", "greatest", unit=unit, spare=1),
        ),
        rows=tuple(rows),
        group=labels[0],
    )
