"""Ctrl-C: it's neither lost nor followed by other messages.

Python drops an exception that is raised in a finalizer or in a callback from C: it prints "Exception ignored in" and
goes on. An interruption that falls there would be lost. One that falls into the making of an object leaves an
object half made, whose finalizer then fails and prints the same.
"""

from __future__ import annotations

import _thread
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["noticing_interruptions"]

SOON = 0.05  # seconds after which an interruption that Python dropped is raised again


@contextmanager
def noticing_interruptions() -> Iterator[list[bool]]:
    """Within the block, Ctrl-C raises KeyboardInterrupt outside of finalizers, and silences errors in them.

    Yields:
        A list that is empty until the first interruption. Libraries may turn the exception into one of their own.
    """
    interrupted: list[bool] = []

    def interrupt(*_: object) -> None:
        interrupted.append(True)
        raise KeyboardInterrupt

    def ignore(dropped: Any) -> None:
        if isinstance(dropped.exc_value, KeyboardInterrupt):
            _thread.start_new_thread(_interrupt_soon, ())  # `threading` may hold locks where a finalizer runs
        elif not interrupted:
            shown(dropped)

    before, shown = signal.signal(signal.SIGINT, interrupt), sys.unraisablehook
    sys.unraisablehook = ignore
    try:
        yield interrupted
    finally:
        sys.unraisablehook = shown
        signal.signal(signal.SIGINT, before)


def _interrupt_soon() -> None:
    """Interrupt the main thread when its finalizer has ended."""
    time.sleep(SOON)
    _thread.interrupt_main()
