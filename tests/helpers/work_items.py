"""Functions for worker processes, which import them by name."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from nearzero.errors import InputError
from nearzero.support.memory import memory_limit
from nearzero.support.threads import thread_count


def square(number: int) -> int:
    return number * number


def limits(number: int) -> tuple[int, int, int]:
    """Return the threads and the memory that work here may take, and the process."""
    return thread_count(), memory_limit(), os.getpid()


def die_once(item: tuple[int, str]) -> int:
    """Return the square of a number; number 3 ends its process the first time."""
    number, folder = item
    marker = Path(folder) / "died"
    if number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def die(item: tuple[int, str]) -> int:
    """Return the square of a number; number 3 ends its process each time."""
    number, folder = item
    if number == 3:
        with (Path(folder) / "deaths").open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def refuse(number: int) -> int:
    if number == 2:
        raise InputError("two can't be used")
    return number


def fail(number: int) -> int:
    if number == 2:
        raise KeyError("two")
    return number


def lost() -> None:
    """Begin a worker that is lost at once."""
    raise RuntimeError


def kill_in_training() -> None:
    """Let this process kill itself when its next training has made networks, before their state is saved."""
    from nearzero.study.store import Store

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    Store.save_progress = die  # type: ignore[method-assign]


def kill_in_writing() -> None:
    """Let this process kill itself when half of its next file is written."""
    from nearzero.support import checksums

    def write_and_die(path: Path, content: bytes) -> None:
        path.with_name(f".{path.name}-0.part").write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    checksums.write_bytes = write_and_die
