"""How every figure looks, and how it becomes a file.

One set of colours, safe for the colour-blind; one font, shipped with matplotlib, so that a figure is the same
bytes on every machine with that matplotlib; no date in the file. What is drawn lives in the other modules.
"""

import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

__all__ = [
    "INK",
    "PALE",
    "add_notices",
    "colours",
    "figure_files",
    "pdf_bytes",
    "png_bytes",
    "signed",
    "styled",
]

INK = "#222222"
PALE = "#9A9A9A"
DOTS_PER_INCH = 300

# Paul Tol's "vibrant" scheme: blue and red stay apart for every kind of colour vision.
_OWN = {"abs": "#0077BB", "relu": "#CC3311"}
_OTHERS = ("#009988", "#EE7733", "#AA3377", "#33BBEE", "#777777", "#DDAA33")

_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 7.0,
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 7.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 5.0,
    "axes.labelsize": 7.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.5,
    "text.color": INK,
    "lines.linewidth": 1.2,
    "lines.solid_capstyle": "round",
    "legend.frameon": True,
    "legend.facecolor": "white",
    "legend.edgecolor": "none",
    "legend.framealpha": 1.0,
    "legend.fancybox": False,
    "legend.fontsize": 6.5,
    "legend.handlelength": 2.2,
    "legend.borderaxespad": 0.2,
    "legend.labelspacing": 0.35,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
    "axes.unicode_minus": True,
}


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's defaults with this style on them, whatever the user has set; undone on leaving."""
    with mpl.rc_context():
        mpl.rcdefaults()
        settings: Any = mpl.rcParams
        settings.update(_STYLE)
        yield


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


def figure_files(name: str, figure: Figure) -> dict[str, bytes]:
    """The figure as files of that name, PNG and PDF."""
    return {f"{name}.png": png_bytes(figure), f"{name}.pdf": pdf_bytes(figure)}


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG, 300 dots per inch."""
    return _bytes(figure, "png", {})


def pdf_bytes(figure: Figure) -> bytes:
    """The figure as PDF with its fonts inside (TrueType) and no date."""
    return _bytes(figure, "pdf", {"CreationDate": None})


def _bytes(figure: Figure, kind: str, metadata: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
        figure.set_layout_engine("none")  # laid out once, the same in every format
    return buffer.getvalue()
