"""Threads for compiled loops that let go of the interpreter lock.

Work is cut into parts by what is to be computed and never by how many threads there are, so the number of
threads changes how long a result takes and nothing else.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

from nearzero.errors import InputError

__all__ = ["one_torch_thread", "parallel", "thread_count"]

Item = TypeVar("Item")
Result = TypeVar("Result")
POOL = "nearzero-worker"


def thread_count(requested: int | None = None) -> int:
    """How many threads to use: as requested, else as many as there are processors for this process.

    Raises:
        InputError: fewer than one was requested.
    """
    if requested is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not isinstance(requested, int) or requested < 1:
        raise InputError(f"threads must be a whole number, at least 1; got {requested!r}")
    return requested


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep PyTorch from spreading small operations over threads, which on a busy machine wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix=POOL)


def parallel(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> list[Result]:
    """Return what `function` gives for every item, on `threads` threads; an exception in one of them is raised here.

    What wasn't begun by then never is. Where such a function calls this in turn, its items stay on its thread: to
    wait for others that wait as well could take for ever.
    """
    if threads == 1 or threading.current_thread().name.startswith(POOL):
        return [function(item) for item in items]
    return list(_pool(threads).map(function, items))  # which cancels the others where one raises
