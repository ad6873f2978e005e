"""A progress bar with the time left, in a terminal or a notebook."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from nearzero.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Report", "progress_bar", "python_progress"]

Report = Callable[[int, int | None], None]  # takes the amount of work that is done, and the whole, if known


@contextmanager
def progress_bar(
    console: Console, description: str, total: int | None = None, *, vanishes: bool = False
) -> Iterator[Report]:
    """Yield a function that sets a progress bar.

    Args:
        console: where the bar is drawn.
        description: the words beside it.
        total: the whole amount of work; None if it isn't known yet.
        vanishes: whether the bar is removed at the end.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    name, left = TextColumn("{task.description:<28}"), TextColumn("left")
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), left, Remaining())
    # what a user's own code prints must stay on its stream
    with Progress(
        *columns, console=console, transient=vanishes, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task(description, total=total)

        def report(completed: int, total: int | None) -> None:
            bar.update(task, completed=completed, total=total)

        yield report


@contextmanager
def python_progress(description: str, shown: bool | None) -> Iterator[Report]:
    """Yield a function that sets the progress bar of a long call from Python.

    The bar is drawn on standard error and removed at the end.

    Args:
        description: the words beside the bar.
        shown: None to show it in a terminal or a notebook; True to show it anywhere, such as in the console of an
            editor; False for none.
    """
    if shown not in (True, False, None):
        raise InputError(f"progress must be True, False or None; got {shown!r}")
    if shown is None:
        shown = sys.stderr.isatty() or "ipykernel" in sys.modules
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
