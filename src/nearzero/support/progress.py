"""Show what is being done, and how much of it: a bar in a terminal or a notebook, and elsewhere a line now and then.

Of displays within each other, the innermost is shown. Only commands print lines (`printing_lines`), on standard
error: a script that calls nearzero from Python has none.
"""

from __future__ import annotations

import html
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Protocol

from nearzero.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Report", "activity", "in_notebook", "printing_lines", "progress_bar", "python_progress"]

EVERY = 0.1  # seconds between two states of a bar in a notebook, each of which is a message to the browser
SAY_FIRST = 0.6  # seconds until the first line: imports can hold the interpreter for a second more
SAY_EVERY = 1.0  # seconds between two lines
Report = Callable[[int, int | None], None]  # takes the amount of work that is done, and the whole, if known


class _Display(Protocol):
    """A display of work in progress."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


_displays: list[_Display] = []  # the innermost is the last
_prints_lines = False


@contextmanager
def printing_lines() -> Iterator[None]:
    """Let all displays be lines on standard error while the block runs, if there is no terminal for them."""
    global _prints_lines
    before, _prints_lines = _prints_lines, True
    _Lines.said = time.monotonic() + SAY_FIRST - SAY_EVERY
    try:
        yield
    finally:
        _prints_lines = before


def _terminal(console: Console) -> Console | None:
    """Return the console on which a bar is drawn: if it is no terminal, a command draws on standard error's."""
    if console.is_terminal:
        return console
    from rich.console import Console as ErrorConsole

    return ErrorConsole(stderr=True) if _prints_lines and sys.stderr.isatty() else None


@contextmanager
def _shown(display: _Display) -> Iterator[None]:
    """Show a display until the block ends, in the place of the one around it."""
    if _displays:
        _displays[-1].stop()
    _displays.append(display)
    try:
        display.start()
        yield
    finally:
        display.stop()
        _displays.pop()
        if _displays:
            _displays[-1].start()


class _Lines:
    """Lines on standard error, from a thread.

    Attributes:
        description: the words of the lines.
        completed, total: the amount of work that is done, and the whole; None if it isn't known.
    """

    said = 0.0  # when the last line was printed; at a command's beginning, such that the first comes soon

    def __init__(self, description: str, total: int | None = None) -> None:
        self.description, self.completed, self.total = description, 0, total
        self._began, self._ended, self._thread = time.monotonic(), Event(), Thread()

    def report(self, completed: int, total: int | None) -> None:
        """Set the amount of work that is done."""
        self.completed, self.total = completed, total

    def start(self) -> None:
        """Begin to print; where the system has no thread left, nothing is printed."""
        self._ended = Event()
        self._thread = Thread(target=self._say, args=(self._ended,), daemon=True)
        with suppress(RuntimeError):
            self._thread.start()

    def stop(self) -> None:
        """Print no more."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _say(self, ended: Event) -> None:
        while not ended.wait(max(_Lines.said + SAY_EVERY - time.monotonic(), 0.0)):
            amount = _amount(self.completed, self.total)
            line = f"{self.description}: {amount}{_clock(time.monotonic() - self._began)}"
            with suppress(OSError, ValueError):  # standard error may be full or closed
                print(line, file=sys.stderr, flush=True)
            _Lines.said = time.monotonic()


@contextmanager
def activity(console: Console, description: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done, and for how long; yield a function that changes the description.

    Args:
        console: where a spinner is drawn; in a notebook it isn't.
        description: what is being done.
    """
    terminal = None if in_notebook() else _terminal(console)
    if terminal is None:
        with _lines(description) as lines:
            yield lambda words: setattr(lines, "description", words)
        return
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with _drawn(terminal, columns, vanishes=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda words: bar.update(task, description=words)


@contextmanager
def _lines(description: str, total: int | None = None) -> Iterator[_Lines]:
    """Yield lines, which are printed if lines are wanted at all."""
    lines = _Lines(description, total)
    with _shown(lines) if _prints_lines else nullcontext():
        yield lines


@contextmanager
def _drawn(console: Console, columns: tuple[Any, ...], *, vanishes: bool) -> Iterator[Any]:
    """Yield rich's bar."""
    from rich.progress import Progress

    # what a user's own code prints must stay on its stream
    bar = Progress(
        *columns, console=console, transient=vanishes, redirect_stdout=False, redirect_stderr=False
    )
    with _shown(bar):
        yield bar


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
    if (terminal := _terminal(console)) is None:
        with _lines(description, total) as lines:
            yield lines.report
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    name, left = TextColumn("{task.description:<28}", markup=False), TextColumn("left")
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), left, Remaining())
    with _drawn(terminal, columns, vanishes=vanishes) as bar:
        task = bar.add_task(description, total=total)
        yield lambda completed, total: bar.update(task, completed=completed, total=total)


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
        done = _amount(completed, total)
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


def _amount(completed: int, total: int | None) -> str:
    """Format how much is done, 3 of 4; nothing if it isn't counted."""
    return f"{completed:,} of {total:,}, " if total else f"{completed:,}, " if completed else ""


def _clock(seconds: float) -> str:
    """Format a duration as minutes and seconds, 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


@contextmanager
def python_progress(description: str, shown: bool | None) -> Iterator[Report]:
    """Yield a function that sets the progress bar of a long call from Python.

    The bar is drawn on standard error and removed at the end; in a notebook it is an output, see `progress_bar`.

    Args:
        description: the words beside the bar.
        shown: None to show it in a terminal or a notebook, or as lines in a command; True to show it anywhere,
             such as in the console of an editor; False for none.
    """
    if shown not in (True, False, None):
        raise InputError(f"progress must be True, False or None; got {shown!r}")
    drawn = bool(shown) or sys.stderr.isatty()
    if shown is False or not (drawn or in_notebook() or _prints_lines):
        yield lambda completed, total: None
        return
    with ExitStack() as stack:
        before = random.getstate()  # which rich draws from while it is imported and the bar is made
        from rich.console import Console

        console = Console(stderr=True, force_terminal=drawn)
        report = stack.enter_context(progress_bar(console, description, vanishes=True))
        random.setstate(before)
        yield report
