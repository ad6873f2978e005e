"""Figures 2 and 3 as files, prerendered on a thread while a study trains.

They show the five-peak model and no study, so they are always the same, and a process draws them once.
Drawing them takes half the time of a report, and the interpreter is mostly idle while compiled kernels run.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread

__all__ = ["peak_figures", "prerender_peak_figures"]

SWITCH_INTERVAL = 1e-4  # seconds
_drawing = Lock()  # matplotlib's settings are global, so only one thread draws at a time
_files: dict[str, bytes] = {}


def peak_figures() -> Mapping[str, bytes]:
    """Return figures 2 and 3, PNG and PDF each: their paths in a report and their contents.

    Draws what isn't drawn yet. If another thread is drawing them, waits for it.
    """
    _draw(Event())
    return dict(_files)


@contextmanager
def prerender_peak_figures() -> Iterator[None]:
    """Draw figures 2 and 3 on another thread while the body runs.

    After an error or an interrupt in the body, the thread finishes the figure that it is drawing and stops.
    The thread isn't a daemon: a daemon thread that is in C++ code when the interpreter exits crashes the
    process. While the body runs, threads hand over the interpreter more often; otherwise a kernel that
    returns would wait for it for up to 5 ms.
    """
    stop, interval = Event(), sys.getswitchinterval()

    def draw() -> None:
        with suppress(Exception):  # `peak_figures` draws again and raises it
            _draw(stop)

    try:
        sys.setswitchinterval(SWITCH_INTERVAL)
        Thread(target=draw, name="nearzero-figures").start()
        yield
    except BaseException:
        stop.set()
        raise
    finally:
        sys.setswitchinterval(interval)


def _draw(stop: Event) -> None:
    """Draw the figures that aren't drawn yet, until `stop` is set."""
    from nearzero.report.figures import peaks, style  # imports matplotlib, on this thread

    with _drawing:
        for name, draw in (
            ("figures/figure2_activations", peaks.activations_figure),
            ("figures/figure3_offsets", peaks.offsets_figure),
        ):
            if f"{name}.pdf" not in _files and not stop.is_set():
                _files.update(style.figure_files(name, draw()))
