"""`Journal`: progress bars and lines for the user while a study runs, and the study's log file.

The log uses the standard library. Each log file has its own logger below the logger "nearzero", so that the
log of a grid and those of its studies are separate. A logger has a handler only while a step runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nearzero.support.progress import activity, progress_bar

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Bar", "Journal"]


Bar = Callable[[int], None]  # takes the amount of work that is done so far


class _LogFile(logging.FileHandler):
    """A log file that ignores errors: a full disk must neither stop a study nor report each line."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # when the file can't be opened
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@dataclass(frozen=True)
class Journal:
    """Lines for a console and a log.

    Attributes:
        console: a rich console; None prints nothing.
        logger: writes to the log.
    """

    console: Console | None
    logger: logging.Logger

    @classmethod
    @contextmanager
    def opened(cls, console: Console | None, log: Path) -> Iterator[Journal]:
        """Yield a journal that appends its lines to a log file."""
        name = str(log.absolute()).replace(".", ":")  # since a dot separates the names of nested loggers
        logger = logging.getLogger(f"nearzero.{name}")
        logger.setLevel(logging.INFO)
        # the user's own handlers get these lines only if the user has set this level
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

    @classmethod
    def unlogged(cls, console: Console | None) -> Journal:
        """Return a journal for a console that keeps no log."""
        logger = logging.Logger("nearzero")  # its own, so that it has no handler but this
        logger.addHandler(logging.NullHandler())
        return cls(console, logger)

    def say(self, line: str) -> None:
        """Print and log a line."""
        if self.console is not None:
            self.console.print(line, highlight=False, markup=False)
        self.note(line)

    def warn(self, line: str) -> None:
        """Print a notice in a frame, and log it as a warning."""
        if self.console is not None:
            from rich.panel import Panel
            from rich.text import Text

            self.console.print(Panel(Text(line), title="NOTICE", style="bold yellow"))
        self.logger.warning("NOTICE: %s", line)

    def note(self, line: str) -> None:
        """Log a line."""
        self.logger.info("%s", line)

    @contextmanager
    def timed(self, did: str, doing: str = "") -> Iterator[None]:
        """Log the duration of the block after the words `did`; meanwhile show what is being done, if it is given."""
        began = time.monotonic()
        with nullcontext() if self.console is None or not doing else activity(self.console, doing):
            yield
        self.note(f"{did}: {time.monotonic() - began:.1f} s")

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[Bar]:
        """Yield the setter of a progress bar, see `progress_bar`."""
        if self.console is None:
            yield lambda completed: None
            return
        with progress_bar(self.console, description, total) as report:
            yield lambda completed: report(completed, total)
