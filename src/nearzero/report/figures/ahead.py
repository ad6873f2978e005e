"""Figures 2 and 3 as files. No study changes them, so a process draws them once, on request while it still trains.

Drawing is a third of what a report takes, and the interpreter is idle while kernels run.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from threading import Lock, Thread

from nearzero.report.figures.peaks import activations_figure, offsets_figure
from nearzero.report.figures.style import pdf_bytes, png_bytes

__all__ = ["computed_figures", "draw_ahead"]

_drawing = Lock()


def computed_figures() -> Mapping[str, bytes]:
    """Name and content of figures 2 and 3, PNG and PDF each; waits for a thread that draws them already."""
    with _drawing:  # matplotlib's settings are the process's
        return _drawn()


def draw_ahead() -> None:
    """Begin to draw them on a thread. What goes wrong there goes wrong, and is told, where they are needed."""

    def draw() -> None:
        with suppress(Exception):
            computed_figures()

    Thread(target=draw, name="nearzero-figures", daemon=True).start()


@cache
def _drawn() -> Mapping[str, bytes]:
    files = {}
    for name, figure in (
        ("figure2_activations", activations_figure()),
        ("figure3_offsets", offsets_figure()),
    ):
        files[f"{name}.png"], files[f"{name}.pdf"] = png_bytes(figure), pdf_bytes(figure)
    return files
