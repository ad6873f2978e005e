"""`Workers`: an executor, and what each piece of work on it may take."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from nearzero.errors import InputError
from nearzero.support.memory import limited_memory, memory_limit
from nearzero.support.threads import limited_threads, thread_count

__all__ = ["HERE", "Limits", "Workers", "is_dask"]

DASK_SHARE = 0.5  # of a Dask worker's memory; the rest is for Python, PyTorch, data and kernels


@dataclass(frozen=True)
class Limits:
    """The limits of one piece of work; None is decided by the worker.

    Attributes:
        threads: the number of threads.
        memory: bytes, for arrays that grow with examples, units and levels.
    """

    threads: int | None
    memory: int | None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Apply the limits to the work in the block; on a Dask worker, its share of the worker is the limit."""
        share = _dask_share()
        memory = self.memory
        if share is not None:
            memory = min(memory or memory_limit(), int(DASK_SHARE * share))
        with limited_threads(self.threads or 1), limited_memory(memory):
            yield


@dataclass(frozen=True)
class Workers:
    """The place where jobs are done: the workers of an executor, or in this process.

    Any `concurrent.futures.Executor` will do: threads, processes, `dask.distributed.Client.get_executor()`, loky,
    mpi4py. Results don't depend on it.

    Attributes:
        executor: the executor; None for this process.
        threads: of each job. If None, the processors divided by the workers of a pool on this machine; 1 elsewhere.
        memory: that each job may take beyond the data, "500 MB" say. If None, `NEARZERO_MEMORY` divided by the
            workers of a pool; on Dask, half of its share of the worker's memory if that is less.
        retries: how often a job is done again after its worker was lost.

    Raises:
        InputError: a value that can't be used.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> import nearzero as nz
        >>> with ThreadPoolExecutor(2) as pool:
        ...     workers = nz.Workers(pool, threads=1, memory="500 MB")
        >>> workers.limits.threads, workers.limits.memory
        (1, 500000000)
    """

    executor: Executor | None = None
    threads: int | None = None
    memory: int | str | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        if self.executor is not None and not callable(getattr(self.executor, "submit", None)):
            raise InputError(
                f"executor must be a concurrent.futures.Executor; got {type(self.executor).__name__}. With Dask, "
                "give client.get_executor()"
            )
        if self.threads is not None:
            thread_count(self.threads)
        if self.memory is not None:
            memory_limit(self.memory)
        if not isinstance(self.retries, int) or self.retries < 0:
            raise InputError(f"retries must be a whole number, at least 0; got {self.retries!r}")

    @classmethod
    def of(cls, executor: Executor | Workers | None) -> Workers:
        """Return the workers of an executor, or those that were given.

        Raises:
            InputError: it isn't an executor.
        """
        return executor if isinstance(executor, Workers) else cls(executor)

    @property
    def are_here(self) -> bool:
        """Return whether jobs are done in this process, and so share its objects."""
        return self.executor is None or isinstance(self.executor, ThreadPoolExecutor)

    @property
    def count(self) -> int | None:
        """Return the number of workers of a pool; None if it isn't known."""
        count = getattr(self.executor, "_max_workers", None)  # of concurrent.futures and of loky
        return count if isinstance(count, int) else None

    @property
    def at_once(self) -> int:
        """Return the number of jobs at the same time: 1 if it isn't known."""
        if is_dask(self.executor):
            return max(1, sum(self.executor._client.nthreads().values()))  # type: ignore[union-attr]
        return self.count or 1

    def memory_of(self, jobs: int) -> int:
        """Return the bytes that each of a number of jobs at the same time may take, a Dask worker's limit aside."""
        return memory_limit() // jobs if self.executor is None else self.limits.memory or memory_limit()

    @property
    def limits(self) -> Limits:
        """Return the limits of each job."""
        memory = None if self.memory is None else memory_limit(self.memory)
        if self.count is None:
            return Limits(self.threads, memory)
        threads = self.threads or max(1, thread_count() // self.count)
        return Limits(threads, memory or memory_limit() // self.count)


HERE = Workers()


def is_dask(executor: object) -> bool:
    """Return whether an executor is that of a client of Dask."""
    return type(executor).__module__.partition(".")[0] == "distributed"


def _dask_share() -> int | None:
    """Return the bytes of memory of one thread of the Dask worker that this is; None elsewhere or without a limit."""
    import sys

    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        return None
    limit = worker.memory_manager.memory_limit
    return int(limit) // max(1, worker.state.nthreads) if limit else None
