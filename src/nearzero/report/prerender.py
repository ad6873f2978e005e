"""Figures 2 and 3 as files. No study changes them, so a process draws them once, on request while it still trains.

Drawing them is half of what a report takes, and the interpreter has little to do while kernels run.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread

__all__ = ["computed_figures", "drawn_ahead"]

INTERVAL = 1e-4  # seconds
_drawing = Lock()  # matplotlib's settings are the process's
_drawn: dict[str, bytes] = {}


def computed_figures() -> Mapping[str, bytes]:
    """Path in a report and content of figures 2 and 3, PNG and PDF each; waits for a thread that is at them already."""
    _draw(Event())
    return dict(_drawn)


@contextmanager
def drawn_ahead() -> Iterator[None]:
    """Draw them on a thread meanwhile; after an error or an interrupt the figure in work is the last.

    The thread isn't a daemon: one that is in C++ when the interpreter ends takes the process down with it. Meanwhile
    threads hand the interpreter over more often: a kernel that returns would wait for 5 ms each time.
    """
    stop, interval = Event(), sys.getswitchinterval()

    def draw() -> None:
        with suppress(Exception):  # it will be raised again, and told, where the figures are needed
            _draw(stop)

    sys.setswitchinterval(INTERVAL)
    Thread(target=draw, name="nearzero-figures").start()
    try:
        yield
    except BaseException:
        stop.set()
        raise
    finally:
        sys.setswitchinterval(interval)


def _draw(stop: Event) -> None:
    """Draw what isn't drawn yet, until told to stop."""
    from nearzero.report.figures import peaks, style  # imports matplotlib, on this thread

    with _drawing:
        for name, figure_of in (
            ("figures/figure2_activations", peaks.activations_figure),
            ("figures/figure3_offsets", peaks.offsets_figure),
        ):
            if f"{name}.pdf" not in _drawn and not stop.is_set():
                _drawn.update(style.figure_files(name, figure_of()))
