"""Executors for the command line: processes on this machine, and the workers of a Dask scheduler."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from nearzero.errors import InputError
from nearzero.support.threads import thread_count

__all__ = ["dask_executor", "local_processes", "renewed", "stop"]

ANSWERS_IN = 10  # seconds for a scheduler to answer


@contextmanager
def local_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Yield an executor with worker processes on this machine, which end with the block or with this process.

    The processes are started afresh ("spawn"): a forked one would wait for threads that it doesn't have.

    Raises:
        InputError: the count isn't a whole number of at least 1.
    """
    pool = _pool(thread_count(count))
    try:
        yield pool
    except BaseException:
        stop(pool)
        raise
    pool.shutdown()


def _pool(count: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=context, initializer=_begin_worker)


def _begin_worker() -> None:
    """Leave interruptions to the parent process, and end when it has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, name="nearzero-parent", daemon=True).start()


def renewed(executor: Executor) -> Executor | None:
    """Return an executor like one that lost a process, which can't be used any more; None if that isn't possible."""
    names = ("_max_workers", "_mp_context", "_initializer", "_initargs")
    if not isinstance(executor, ProcessPoolExecutor) or not all(hasattr(executor, name) for name in names):
        return None
    count, context, initializer, arguments = (getattr(executor, name) for name in names)
    return ProcessPoolExecutor(count, mp_context=context, initializer=initializer, initargs=arguments)


def stop(pool: Executor) -> None:
    """End the processes of a pool now. Files are whole or absent, so nothing is lost but what they are at."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    manager = getattr(pool, "_executor_manager_thread", None)
    pool.shutdown(wait=False, cancel_futures=True)
    # The pool's thread drops cancelled work now; if a process ended before, it would print an error for each.
    last = time.monotonic() + 1.0
    while _cancelled(manager) and time.monotonic() < last:
        time.sleep(0.005)
    for process in processes:
        with suppress(OSError, ValueError, AttributeError):  # it has ended already
            process.terminate()
    pool.shutdown(wait=True)


def _cancelled(manager: Any) -> bool:
    """Return whether the thread of a pool still holds work that is cancelled."""
    return any(item.future.cancelled() for item in list(getattr(manager, "pending_work_items", {}).values()))


@contextmanager
def dask_executor(address: str) -> Iterator[tuple[Executor, int]]:
    """Yield an executor on the workers of a Dask scheduler, and their number now.

    Raises:
        InputError: Dask isn't installed, or no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            f"a Dask scheduler needs the package distributed ({error}); pip install 'nearzero[cluster]'"
        ) from error
    try:
        client = Client(address, timeout=ANSWERS_IN, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"no Dask scheduler answers at {address} ({reason}); give the address that `dask scheduler` prints, "
            "tcp://HOST:8786 say"
        ) from error
    with client:
        yield client.get_executor(), len(client.nthreads())
