"""What the user sees while a study runs: bars with the time left, and a few lines that also go into its log.

The log is the standard library's: below the logger "nearzero" each log file has a logger of its own, so that the log of
a grid and those of its studies stay apart. It has a handler only while work is done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Bar", "Journal"]


Bar = Callable[[int], None]  # is told how much of a stretch of work is done


class _LogFile(logging.FileHandler):
    """A log file; a full disk mustn't end a study here, nor be told line by line."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # of the file being opened
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@dataclass(frozen=True)
class Journal:
    """Lines for a console (None: quiet) and for a log."""

    console: Console | None
    logger: logging.Logger

    @classmethod
    @contextmanager
    def opened(cls, console: Console | None, log: Path) -> Iterator[Journal]:
        """A journal whose lines go to the end of a log file until the block is left."""
        name = str(log.absolute()).replace(".", ":")  # a dot would begin another logger's name
        logger = logging.getLogger(f"nearzero.{name}")
        logger.setLevel(logging.INFO)
        # the user's own handlers get these lines if the user asked for lines of this level
        logger.propagate = logging.getLogger("nearzero").isEnabledFor(logging.INFO)
        handler = _LogFile(log, encoding="utf-8", delay=True)
        formatter = logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%dT%H:%M:%S+00:00")
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
        logger.addHandler(handler)
        try:
            yield cls(console, logger)
        finally:
            logger.removeHandler(handler)
            with suppress(OSError):
                handler.close()

    def say(self, line: str) -> None:
        """Print a line and log it."""
        if self.console is not None:
            self.console.print(line, highlight=False, markup=False)
        self.note(line)

    def warn(self, line: str) -> None:
        """Print a notice that nobody can miss, and log it."""
        if self.console is not None:
            from rich.panel import Panel

            self.console.print(Panel(line, title="NOTICE", style="bold yellow"))
        self.logger.warning("NOTICE: %s", line)

    def note(self, line: str) -> None:
        """Log a line."""
        self.logger.info("%s", line)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Log how long a step took."""
        began = time.monotonic()
        yield
        self.note(f"{what}: {time.monotonic() - began:.1f} s")

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[Bar]:
        """A progress bar with the time left, on a terminal; elsewhere nothing."""
        if self.console is None or not self.console.is_terminal:
            yield lambda completed: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        name, left = TextColumn("{task.description:<28}"), TextColumn("left")
        columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), left, Remaining())
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(description, total=total)
            yield lambda completed: progress.update(task, completed=completed)
