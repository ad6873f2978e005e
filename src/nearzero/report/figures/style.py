"""How every figure looks, and how it becomes a file.

One set of colours, safe for the colour-blind; one font, shipped with matplotlib, so that a figure is the same
bytes on every machine with that matplotlib; no date in the file. Sizes and lines are in `style.mplstyle`. What is
drawn lives in the other modules.
"""

import io
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nearzero.report.results import display_name

__all__ = [
    "INK",
    "PALE",
    "add_notices",
    "colours",
    "figure_bytes",
    "figure_files",
    "network_keys",
    "points",
    "signed",
    "styled",
]

INK = "#222222"
PALE = "#9A9A9A"
DOTS_PER_INCH = 300

# Paul Tol's "vibrant" scheme: blue and red stay apart for every kind of colour vision.
_OWN = {"abs": "#0077BB", "relu": "#CC3311"}
_OTHERS = ("#009988", "#EE7733", "#AA3377", "#33BBEE", "#777777", "#DDAA33")

SHEET = Path(__file__).with_suffix(".mplstyle")


def styled() -> AbstractContextManager[None]:
    """Matplotlib's defaults with this style on them, whatever the user has set; undone on leaving."""
    return style.context(SHEET, after_reset=True)


def colours(networks: Iterable[str]) -> dict[str, str]:
    """A colour for each network: Abs blue and ReLU red as published, the others in order, round and round."""
    names = tuple(networks)
    others = [name for name in names if name not in _OWN]
    return {name: _OWN.get(name) or _OTHERS[others.index(name) % len(_OTHERS)] for name in names}


def signed(value: float) -> str:
    """A number with the sign of mathematics, and a plus where it is positive: +25, −0.5."""
    return f"{value:+.3g}".replace("-", "−") if value else "0"


def add_notices(figure: Figure, notices: Sequence[str]) -> None:
    """Write the notices over the whole figure, in room that its layout keeps for them."""
    if not notices:
        return
    signs = int(figure.get_figwidth() * 16)
    lines = [line for notice in notices for line in textwrap.wrap(f"Notice: {notice}", signs)]
    figure.suptitle("\n".join(lines), fontsize=7.5, fontweight="bold", color="#A34700")


def network_keys(networks: Iterable[str]) -> list[Line2D]:
    """Keys of a legend: a line in each network's colour."""
    return [
        Line2D([], [], color=colour, label=display_name(name)) for name, colour in colours(networks).items()
    ]


def points(marker: str, size: float, colour: str, face: str, edge: float = 0.7) -> dict[str, Any]:
    """Settings of a line of which only the points are drawn: their form, size, outline and inside."""
    return {
        "color": colour,
        "linestyle": "none",
        "marker": marker,
        "markersize": size,
        "markeredgewidth": edge,
        "markerfacecolor": face,
    }


def figure_files(name: str, figure: Figure) -> dict[str, bytes]:
    """The figure as files of that name, PNG and PDF."""
    return {f"{name}.{kind}": figure_bytes(figure, kind) for kind in ("png", "pdf")}


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as "png", 300 dots per inch, or as "pdf" with its fonts inside (TrueType) and no date."""
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {}
    with styled():
        figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
        figure.set_layout_engine("none")  # laid out once, the same in every format
    return buffer.getvalue()
