"""The common style of all figures, and figures as files.

The colours are safe for colour-blind readers. The font is shipped with matplotlib and files carry no date, so
that a figure has the same bytes on every machine with the same matplotlib. Sizes and lines are in
`style.mplstyle`. The other modules draw.
"""

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D

from nearzero.report.figures.content import KEYWORD, drawn
from nearzero.report.results import display_name

__all__ = [
    "FAMILY_MARKERS",
    "INK",
    "LINE",
    "MARKERS",
    "OTHER_MARKERS",
    "PALE",
    "ROLES",
    "SHADE",
    "ShownFigure",
    "add_notices",
    "colours",
    "figure_bytes",
    "figure_files",
    "markers",
    "network_keys",
    "points",
    "screen_picture",
    "signed",
    "styled",
]

INK = "#222222"
PALE = "#9A9A9A"
LINE = "#E3E3E3"  # of grids, and of what wasn't measured
SHADE = "#EEEEEE"  # of a margin
DOTS_PER_INCH = 300
SCREEN_DOTS = 144  # per inch in notebooks: two for each point of the screen
MOST_DOTS = 60_000  # along a side; matplotlib refuses 65,536

# Every colour has one role in all figures, and in the interactive page. Blue and red are distinct for every kind of
# colour vision; whatever a colour tells apart, a marker, dashes, hatching or a letter tells apart too.
ROLES: Mapping[str, tuple[str, ...]] = {
    "distance": ("#0077BB",),  # families that change distance, with dashes of their own
    "intensity": ("#CC3311",),
    "neither": ("#777777",),  # noise, and families that aren't read
    "networks": ("#009988", "#AA3377"),  # Abs and ReLU
    "other networks": ("#DDAA33", "#33BBEE", "#885522", "#88AA22", "#EE88BB", "#667799"),
    "displacements": ("#D4A373", "#A35F22", "#4D2600"),  # from the smallest to the largest
    "layers": ("#B5CF6B", "#8CA252", "#637939", "#3F5522", "#24330F"),  # from the first to the last
    "mechanisms": ("#8C8C8C", "#BDBDBD"),  # planted distance and planted templates, hatched
    "peaks": ("#332288", "#117733", "#999933", "#882255", "#BB7700"),
    "notice": ("#A34700",),
}
# Abs and ReLU also differ by these; other networks take them in turn.
_OWN = dict(zip(("abs", "relu"), ROLES["networks"], strict=True))
MARKERS = {"abs": "o", "relu": "^"}
OTHER_MARKERS = ("s", "D", "v", "P", "X", "*")
FAMILY_MARKERS = ("o", "s", "D", "^", "v", "P")  # of the families that decide, those of distance first

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
    """Return a colour for each network: Abs and ReLU have their own, the others one from a cycle, in order."""
    return _by_network(networks, _OWN, ROLES["other networks"])


def markers(networks: Iterable[str]) -> dict[str, str]:
    """Return a marker for each network, as `colours`."""
    return _by_network(networks, MARKERS, OTHER_MARKERS)


def _by_network(networks: Iterable[str], own: Mapping[str, str], cycle: Sequence[str]) -> dict[str, str]:
    names = tuple(networks)
    others = [name for name in names if name not in own]
    return {name: own.get(name) or cycle[others.index(name) % len(cycle)] for name in names}


def signed(value: float) -> str:
    """Format a number with a plus or a true minus sign: +25, −0.5."""
    return f"{value:+.3g}".replace("-", "−") if value else "0"


def add_notices(figure: Figure, notices: Sequence[str]) -> None:
    """Write the notices above the whole figure; its layout makes room for them.

    If the figure has a legend of its own, which is above it too, they are the title of this legend.
    """
    if not notices:
        return
    characters = int(figure.get_figwidth() * 16)
    lines = [line for notice in notices for line in textwrap.wrap(f"Notice: {notice}", characters)]
    words, colour = "\n".join(lines), ROLES["notice"][0]
    if figure.legends:
        figure.legends[0].set_title(words, prop=FontProperties(size=7.5, weight="bold"))
        figure.legends[0].get_title().set_color(colour)
    else:
        figure.suptitle(words, fontsize=7.5, fontweight="bold", color=colour)


def network_keys(networks: Iterable[str], *, marked: bool = True) -> list[Line2D]:
    """Return keys of a legend: a line in each network's colour, with its marker unless markers mean something else."""
    names = tuple(networks)
    marks = markers(names) if marked else dict.fromkeys(names, "")
    return [
        Line2D([], [], color=colour, marker=marks[name], markersize=3.2, label=display_name(name))
        for name, colour in colours(names).items()
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

    A figure of very many panels has fewer dots per inch. A PNG carries what the figure draws, see `content`.
    """
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {KEYWORD: drawn(figure)}
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
