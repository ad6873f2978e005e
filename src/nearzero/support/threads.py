"""Threads for compiled loops that release the interpreter lock.

The division of work into parts depends on the task and never on the number of threads. So the number of
threads changes the time that a result takes and nothing else.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from nearzero.errors import InputError

__all__ = ["limited_threads", "one_blas_thread", "one_torch_thread", "parallel", "thread_count"]

Item = TypeVar("Item")
Result = TypeVar("Result")
POOL = "nearzero-worker"
_allowed: ContextVar[int | None] = ContextVar("threads", default=None)


def thread_count(requested: int | None = None) -> int:
    """Return the requested number of threads, else that of `limited_threads`, else the number of processors.

    Only processors that this process may use count.

    Raises:
        InputError: the request isn't a whole number of at least 1.

    Example:
        >>> from nearzero.support.threads import thread_count
        >>> thread_count(2)
        2
        >>> thread_count(0)
        Traceback (most recent call last):
        nearzero.errors.InputError: threads must be a whole number, at least 1; got 0
    """
    if requested is None and (allowed := _allowed.get()) is not None:
        return allowed
    if requested is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not isinstance(requested, int) or requested < 1:
        raise InputError(f"threads must be a whole number, at least 1; got {requested!r}")
    return requested


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Let `thread_count` return this number within the block; None changes nothing.

    Example:
        >>> from nearzero.support.threads import limited_threads, thread_count
        >>> with limited_threads(3):
        ...     thread_count()
        3
    """
    before = _allowed.set(_allowed.get() if threads is None else thread_count(threads))
    try:
        yield
    finally:
        _allowed.reset(before)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run PyTorch on one thread within the block.

    PyTorch would divide small operations among threads, which wait for each other on a busy machine.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _blas() -> ThreadpoolController:
    import numpy  # noqa: F401 (loads the library that is to be found)

    return ThreadpoolController()  # reads the list of loaded libraries, which takes milliseconds


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run NumPy's products on one thread within the block.

    With small products, more threads would only wait for each other.
    """
    with _blas().limit(limits=1, user_api="blas"):
        yield


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix=POOL)


if hasattr(os, "register_at_fork"):  # a forked child has the pools and not their threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def parallel(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> list[Result]:
    """Apply `function` to every item on `threads` threads, and return the results in the order of the items.

    If a call raises an exception, pending items are cancelled and the exception is raised here. A nested call
    of `parallel` processes its items on its own thread, because threads of the pool that wait for each other
    could deadlock.

    Example:
        >>> from nearzero.support.threads import parallel
        >>> parallel(abs, [-1, 2, -3], threads=2)
        [1, 2, 3]
    """
    if threads == 1 or threading.current_thread().name.startswith(POOL):
        return [function(item) for item in items]
    context = copy_context()  # with the limits of the caller

    def call(item: Item) -> Result:
        return context.copy().run(function, item)

    return list(_pool(threads).map(call, items))  # `map` cancels pending items if one raises
