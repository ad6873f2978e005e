"""What the user sees while a study runs: bars with the time left, and a few lines that also go into its log."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Bar", "Journal"]


class Bar(Protocol):
    """Where a stretch of work stands."""

    def __call__(self, completed: int) -> None:
        """Say how much is done."""
        ...


@dataclass(frozen=True)
class Journal:
    """Lines for a console (None: quiet) and for a log file (None: no log)."""

    console: Console | None = None
    log: Path | None = None

    def say(self, line: str, *, style: str | None = None) -> None:
        """Print a line and log it."""
        if self.console is not None:
            self.console.print(line, style=style, highlight=False, markup=False)
        self.note(line)

    def warn(self, line: str) -> None:
        """Print a notice that nobody can miss, and log it."""
        if self.console is not None:
            from rich.panel import Panel

            self.console.print(Panel(line, title="NOTICE", style="bold yellow"))
        self.note(f"NOTICE: {line}")

    def note(self, line: str) -> None:
        """Log a line."""
        if self.log is None:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with (
            suppress(OSError),
            self.log.open("a", encoding="utf-8") as file,
        ):  # a full disk mustn't end a study here
            file.write(f"{now}  {line}\n")

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

        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, TextColumn("left"), Remaining(), console=self.console) as progress:
            task = progress.add_task(description, total=total)
            yield lambda completed: progress.update(task, completed=completed)
