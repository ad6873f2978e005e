"""Do pieces of work on an executor: a bounded number at a time, again where a worker was lost, until all are done."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from functools import cache, partial
from typing import Any, Generic, TypeVar

from nearzero.errors import InputError
from nearzero.support.memory import is_out_of_memory
from nearzero.support.threads import one_blas_thread
from nearzero.support.versions import versions_of
from nearzero.support.workers.executors import renewed, stop
from nearzero.support.workers.workers import Limits, Workers, is_dask

__all__ = ["do_all"]

Item = TypeVar("Item")
Result = TypeVar("Result")
WAITING = 256  # pieces of work that an executor of unknown size has at a time
WAITING_PER_WORKER = 4
ALONE = 2  # a piece of work whose worker was lost so often is done alone, to know whether it is the cause


def do_all(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: Workers,
    *,
    name: Callable[[Item], str],
    finished: Callable[[Item, Result], None],
    keeps: bool,
    device: Callable[[Item], str] = lambda item: "cpu",
) -> None:
    """Apply a function to all items on the workers of an executor, in any order.

    Items are taken as workers become free. If the call is interrupted or fails, pending work is cancelled.

    Args:
        function: can be pickled, as the items can.
        items: the items.
        workers: where it is applied; without an executor, here, to one item after the other.
        name: of an item, for messages.
        finished: called here with each item and its result, in the order in which they are done.
        keeps: whether a later call goes on from what this one did, for messages.
        device: the device on which an item computes; on Dask, one that isn't the processor takes a `GPU` resource.

    Raises:
        InputError: the function raised one, a worker was lost again and again, or the executor can't be used; the
            message names the item.
    """
    if workers.executor is None:
        for item in items:
            finished(item, function(item))
        return
    tasks = _Tasks(function, iter(items), workers, name, keeps, device)
    try:
        with one_blas_thread():  # for an executor in this process, whose threads set and restore it
            while done := tasks.wait():
                for item, result in done:
                    finished(item, result)
    except BaseException:
        tasks.close(at_once=True)
        raise
    tasks.close(at_once=False)


class _Tasks(Generic[Item, Result]):
    """Items that wait for a worker or are with one; an item has a number, in the order in which it was taken."""

    def __init__(
        self,
        function: Callable[[Item], Result],
        items: Any,
        workers: Workers,
        name: Callable[[Item], str],
        keeps: bool,
        device: Callable[[Item], str],
    ) -> None:
        assert workers.executor is not None
        self._function, self._source, self._workers = function, items, workers
        self._name, self._device = name, device
        self._kept = "what is done is kept" if keeps else "what is done isn't kept"
        self._executor: Executor = workers.executor
        self._window = WAITING if workers.count is None else WAITING_PER_WORKER * workers.count
        self._items: dict[int, Item] = {}
        self._waiting: dict[Future[Result], int] = {}
        self._again: deque[int] = deque()
        self._losses = Counter[int]()
        self._number = 0

    def wait(self) -> list[tuple[Item, Result]]:
        """Return some items that are done, and their results; none if all are done."""
        done: list[tuple[Item, Result]] = []
        while not done:
            self._fill()
            if not self._waiting:
                return done
            futures, _ = wait(self._waiting, return_when=FIRST_COMPLETED)
            if any(future.done() and _broken(future) for future in futures):
                futures, _ = wait(self._waiting)  # all of them are lost, or done
            # a pool takes work in order, so these are the ones that its processes were at
            left = [number for future, number in self._waiting.items() if not _succeeded(future)]
            at_work = set(left[: self._workers.count])
            for future in futures:
                number = self._waiting.pop(future)
                try:
                    done.append((self._items[number], self._result(future, number)))
                    del self._items[number]
                except _WorkerLost as error:
                    self._lose(number, error, number in at_work)
        return done

    def close(self, *, at_once: bool) -> None:
        """Cancel what waits, and end an executor that took the place of a broken one."""
        for future in self._waiting:
            future.cancel()
        if self._executor is not self._workers.executor:
            if at_once:
                stop(self._executor)
            else:
                self._executor.shutdown()

    def _fill(self) -> None:
        """Hand items to the executor while it has few of them."""
        while len(self._waiting) < self._window:
            alone = any(self._losses[number] >= ALONE for number in self._waiting.values())
            suspect = self._again and self._losses[self._again[0]] >= ALONE
            if alone or (suspect and self._waiting):
                return
            if self._again:
                self._submit(self._again.popleft())
                continue
            try:
                item = next(self._source)
            except StopIteration:
                return
            self._items[self._number] = item
            self._number += 1
            self._submit(self._number - 1)

    def _submit(self, number: int) -> None:
        item = self._items[number]
        name, limits = self._name(item), self._workers.limits
        call = partial(_attempt, self._function, item, name, limits, _version())
        options = self._dask_options(self._device(item)) if is_dask(self._executor) else {}
        try:
            future = self._executor.submit(call, **options)
        except BrokenExecutor:  # it lost a process before this call
            self._renew()
            future = self._executor.submit(call)
        except RuntimeError as error:
            raise InputError(f"{name}: the executor takes no more work ({error}); make a new one") from error
        self._waiting[future] = number

    def _dask_options(self, device: str) -> dict[str, Any]:
        """Return how Dask does a task: anew each time, and with a GPU of its own if workers say that they have some."""
        client = self._executor._client  # type: ignore[attr-defined]
        if device == "cpu":
            return {"pure": False}
        known = client.scheduler_info(n_workers=-1)["workers"].values()
        has_gpus = any("GPU" in worker["resources"] for worker in known)
        return {"pure": False} | ({"resources": {"GPU": 1}} if has_gpus else {})

    def _result(self, future: Future[Result], number: int) -> Result:
        """Return the result of a task.

        Raises:
            InputError: the task failed, and the user can do something about it.
            _WorkerLost: its worker did.
        """
        name = self._name(self._items[number])
        try:
            return future.result()
        except BrokenExecutor as error:
            raise _WorkerLost(str(error)) from error
        except CancelledError as error:
            raise InputError(
                f"{name} was cancelled by the executor: is its scheduler still there? ({self._kept})"
            ) from error
        except InputError:
            raise
        except ModuleNotFoundError as error:
            raise InputError(
                f"{name}: {error} on a worker; install the same packages for all workers"
            ) from error
        except Exception as error:
            if type(error).__name__ == "KilledWorker":  # of dask.distributed, which tried it several times
                raise _WorkerLost(str(error)) from error
            error.add_note(f"in {name}")
            raise

    def _lose(self, number: int, error: _WorkerLost, at_work: bool) -> None:
        """Put an item back whose worker was lost, and count this if a worker was at it.

        Raises:
            InputError: that happened too often.
        """
        self._losses[number] += at_work
        if self._losses[number] > self._workers.retries:
            raise InputError(
                f"{self._name(self._items[number])}: its worker was lost {self._losses[number]} times; was it killed "
                f"because memory ran out? Take fewer workers, or give each more memory ({self._kept})"
            ) from error
        self._again.append(number)

    def _renew(self) -> None:
        """Take a new executor in the place of a broken one.

        Raises:
            InputError: that isn't possible.
        """
        fresh = renewed(self._executor)
        if fresh is None:
            raise InputError(
                f"the {type(self._executor).__name__} lost a worker and can't be used any more; make a new one, and "
                f"run again ({self._kept})"
            )
        if self._executor is not self._workers.executor:
            stop(self._executor)
        self._executor = fresh


def _broken(future: Future[Any]) -> bool:
    """Return whether a task ended with its executor."""
    return not future.cancelled() and isinstance(future.exception(), BrokenExecutor)


def _succeeded(future: Future[Any]) -> bool:
    """Return whether a task has a result."""
    return future.done() and not future.cancelled() and future.exception() is None


class _WorkerLost(Exception):
    """The worker of a task was lost."""


def _attempt(
    function: Callable[[Item], Result], item: Item, name: str, limits: Limits, version: str
) -> Result:
    """Apply a function to an item in a worker.

    Raises:
        InputError: the function raised one, or there is no memory for it; the message names the item.
    """
    if version != _version():
        raise InputError(
            f"{name}: the worker has nearzero {_version()} and this process {version}; install the same one"
        )
    try:
        with limits.applied(), one_blas_thread():
            if "torch" in sys.modules and limits.threads:
                _limit_torch(limits.threads)
            return function(item)
    except InputError as error:
        raise error if name in str(error) else InputError(f"{name}: {error}") from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"{name}: memory is used up; take fewer workers, or give each less to do") from None


@cache
def _version() -> str:
    return versions_of(["nearzero"])["nearzero"]


@cache
def _limit_torch(threads: int) -> None:
    """Set the threads of PyTorch in a worker process, once."""
    import multiprocessing

    if multiprocessing.parent_process() is not None:
        import torch

        torch.set_num_threads(threads)
