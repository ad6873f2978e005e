"""A progress bar with the time left, in a terminal or a notebook."""

from __future__ import annotations

import html
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from nearzero.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Report", "in_notebook", "progress_bar", "python_progress"]

EVERY = 0.1  # seconds between two states of a bar in a notebook, each of which is a message to the browser
Report = Callable[[int, int | None], None]  # takes the amount of work that is done, and the whole, if known


@contextmanager
def progress_bar(
    console: Console, description: str, total: int | None = None, *, vanishes: bool = False
) -> Iterator[Report]:
    """Yield a function that sets a progress bar.

    Args:
        console: where the bar is drawn; in a notebook, the bar is an output of the cell.
        description: the words beside it.
        total: the whole amount of work; None if it isn't known yet.
        vanishes: whether the bar is removed at the end. A notebook keeps a line that says how much was done.
    """
    if in_notebook():
        with _notebook_bar(description, total) as report:
            yield report
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    name, left = TextColumn("{task.description:<28}", markup=False), TextColumn("left")
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), left, Remaining())
    # what a user's own code prints must stay on its stream
    with Progress(
        *columns, console=console, transient=vanishes, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task(description, total=total)

        def report(completed: int, total: int | None) -> None:
            bar.update(task, completed=completed, total=total)

        yield report


def in_notebook() -> bool:
    """Return whether this process runs the cells of a notebook."""
    ipython = sys.modules.get("IPython")  # which a notebook has imported
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


@contextmanager
def _notebook_bar(description: str, total: int | None) -> Iterator[Report]:
    """Yield a function that sets a bar below the cell; the bar ends as a line with the work done and the time.

    rich would need ipywidgets for this.
    """
    from IPython.display import display

    began = shown = time.monotonic()
    completed = 0

    def state(words: str = "", *, running: bool = False) -> dict[str, str]:
        seconds = time.monotonic() - began
        size = f' value="{completed}" max="{total}"' if total else ""
        bar = f'<progress{size} aria-label="{html.escape(description)}"></progress> ' if running else ""
        done = f"{completed:,} of {total:,}, " if total else f"{completed:,}, " if completed else ""
        left = f", {_clock(seconds / completed * (total - completed))} left" if total and completed else ""
        text = f"{words}{done}{_clock(seconds)}{left if running else ''}"
        return {
            "text/plain": f"{description}: {text}",
            "text/html": f"<div>{html.escape(description)}: {bar}{text}</div>",
        }

    handle = display(state(running=True), raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def report(now: int, of: int | None) -> None:
        nonlocal completed, total, shown
        completed, total = now, of
        if time.monotonic() - shown >= EVERY:
            shown = time.monotonic()
            handle.update(state(running=True), raw=True)

    try:
        yield report
    except BaseException:
        handle.update(state("stopped, "), raw=True)
        raise
    handle.update(state(), raw=True)


def _clock(seconds: float) -> str:
    """Format a duration as minutes and seconds, 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


@contextmanager
def python_progress(description: str, shown: bool | None) -> Iterator[Report]:
    """Yield a function that sets the progress bar of a long call from Python.

    The bar is drawn on standard error and removed at the end; in a notebook it is an output, see `progress_bar`.

    Args:
        description: the words beside the bar.
        shown: None to show it in a terminal or a notebook; True to show it anywhere, such as in the console of an
            editor; False for none.
    """
    if shown not in (True, False, None):
        raise InputError(f"progress must be True, False or None; got {shown!r}")
    if shown is None:
        shown = sys.stderr.isatty() or in_notebook()
    if not shown:
        yield lambda completed, total: None
        return
    with ExitStack() as stack:
        before = random.getstate()  # which rich draws from while it is imported and the bar is made
        from rich.console import Console

        console = Console(stderr=True, force_terminal=True)
        report = stack.enter_context(progress_bar(console, description, vanishes=True))
        random.setstate(before)
        yield report
