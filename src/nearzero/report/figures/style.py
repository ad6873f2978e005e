"""The common style of all figures, and figures as files.

The colours are safe for colour-blind readers. The font is shipped with matplotlib and files carry no date, so
that a figure has the same bytes on every machine with the same matplotlib. Sizes and lines are in
`style.mplstyle`. The other modules draw.
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
    "SCHEME",
    "ShownFigure",
    "add_notices",
    "colours",
    "figure_bytes",
    "figure_files",
    "network_keys",
    "points",
    "screen_picture",
    "signed",
    "styled",
]

INK = "#222222"
PALE = "#9A9A9A"
DOTS_PER_INCH = 300
SCREEN_DOTS = 144  # per inch in notebooks: two for each point of the screen
MOST_DOTS = 60_000  # along a side; matplotlib refuses 65,536

# Paul Tol's "vibrant" scheme: blue and red are distinct for every kind of colour vision.
_OWN = {"abs": "#0077BB", "relu": "#CC3311"}
SCHEME = ("#009988", "#EE7733", "#AA3377", "#33BBEE", "#777777", "#DDAA33")

SHEET = Path(__file__).with_suffix(".mplstyle")


class ShownFigure(Figure):
    """A figure that notebooks display as a picture, also where pyplot isn't imported."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """Return the figure as PNG, and its size on the screen."""
        return screen_picture(self)


def styled() -> AbstractContextManager[None]:
    """Return a context in which matplotlib has its defaults and this style, and none of the user's settings."""
    return style.context(SHEET, after_reset=True)


def colours(networks: Iterable[str]) -> dict[str, str]:
    """Return a colour for each network: Abs blue and ReLU red as published, the others from a cycle, in order."""
    names = tuple(networks)
    others = [name for name in names if name not in _OWN]
    return {name: _OWN.get(name) or SCHEME[others.index(name) % len(SCHEME)] for name in names}


def signed(value: float) -> str:
    """Format a number with a plus or a true minus sign: +25, −0.5."""
    return f"{value:+.3g}".replace("-", "−") if value else "0"


def add_notices(figure: Figure, notices: Sequence[str]) -> None:
    """Write the notices above the whole figure; its layout makes room for them."""
    if not notices:
        return
    characters = int(figure.get_figwidth() * 16)
    lines = [line for notice in notices for line in textwrap.wrap(f"Notice: {notice}", characters)]
    figure.suptitle("\n".join(lines), fontsize=7.5, fontweight="bold", color="#A34700")


def network_keys(networks: Iterable[str]) -> list[Line2D]:
    """Return keys of a legend: a line in each network's colour."""
    return [
        Line2D([], [], color=colour, label=display_name(name)) for name, colour in colours(networks).items()
    ]


def points(marker: str, size: float, colour: str, face: str, edge: float = 0.7) -> dict[str, Any]:
    """Return the settings of a line of which only the points are drawn: marker, size, outline and face colour."""
    return {
        "color": colour,
        "linestyle": "none",
        "marker": marker,
        "markersize": size,
        "markeredgewidth": edge,
        "markerfacecolor": face,
    }


def figure_files(name: str, figure: Figure) -> dict[str, bytes]:
    """Return a figure as PNG and PDF files: contents by file name."""
    return {f"{name}.{kind}": figure_bytes(figure, kind) for kind in ("png", "pdf")}


def figure_bytes(figure: Figure, kind: str, dots: int = DOTS_PER_INCH) -> bytes:
    """Return a figure as "png", `dots` per inch, or as "pdf", with embedded TrueType fonts and no date.

    A figure of very many panels has fewer dots per inch.
    """
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {}
    resolution = min(dots, MOST_DOTS / max(figure.get_size_inches()))
    with styled():
        figure.savefig(buffer, format=kind, dpi=resolution, metadata=metadata)
        figure.set_layout_engine("none")  # the first file fixes the layout, so that all formats have the same
    return buffer.getvalue()


def screen_picture(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """Return a figure as PNG for the screen, and its width and height there; its layout may still change."""
    layout = figure.get_layout_engine()
    content = figure_bytes(figure, "png", SCREEN_DOTS)
    figure.set_layout_engine(layout)
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return content, {"width": width, "height": height}
