"""Work on executors: all of it is done once or again, with limits, and errors are one line that names the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import work_items

import nearzero as nz
from nearzero.support.memory import LEAST, memory_limit
from nearzero.support.threads import limited_threads, parallel, thread_count
from nearzero.support.workers import HERE, Workers, dask_executor, do_all, executors, local_processes, tasks
from nearzero.support.workers.workers import Limits


def results(
    function: Callable[[Any], Any], items: list[Any], workers: Workers, *, keeps: bool = True
) -> list[tuple[Any, Any]]:
    """Return the items and their results, in the order in which they are done."""
    found: list[tuple[Any, Any]] = []
    options: dict[str, Any] = {
        "name": lambda item: f"item {item}",
        "finished": lambda *pair: found.append(pair),
        "keeps": keeps,
    }
    do_all(function, items, workers, **options)
    return found


def processes(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"))


def test_without_an_executor_items_are_done_here() -> None:
    assert results(work_items.square, [3, 1, 2], HERE) == [(3, 9), (1, 1), (2, 4)]


def test_all_items_are_done() -> None:
    with ThreadPoolExecutor(3) as pool:
        assert sorted(results(work_items.square, list(range(50)), Workers(pool))) == [
            (n, n * n) for n in range(50)
        ]


def test_items_are_taken_as_workers_become_free() -> None:
    taken, done = 0, 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number
            assert taken <= done + tasks.WAITING_PER_WORKER * 2

    def finished(item: int, result: int) -> None:
        nonlocal done
        done += 1

    with ThreadPoolExecutor(2) as pool:
        do_all(work_items.square, items(), Workers(pool), name=str, finished=finished, keeps=True)
    assert done == taken == 100


def test_each_job_has_its_share_of_the_machine() -> None:
    """Whatever is nested in it has the same limits."""
    with ThreadPoolExecutor(2) as pool:
        workers = Workers(pool)
        (_, (threads, memory, _)), *_ = results(work_items.limits, [0], workers)
        assert threads == max(1, thread_count() // 2)
        assert memory == memory_limit() // 2
        (_, (threads, memory, _)), *_ = results(
            work_items.limits, [0], Workers(pool, threads=3, memory="70 MB")
        )
        assert (threads, memory) == (3, 70_000_000)

        def nested(number: int) -> list[tuple[int, int, int]]:
            return parallel(work_items.limits, [0, 1], threads=2)

        (_, found), *_ = results(nested, [0], Workers(pool, threads=5, memory="70 MB"))
        assert [each[:2] for each in found] == [(5, 70_000_000)] * 2
    with limited_threads(4), Limits(None, 1).applied():
        assert (thread_count(), memory_limit()) == (1, LEAST)


def test_the_work_of_a_process_that_was_killed_is_done_again(tmp_path: Path) -> None:
    items = [(number, str(tmp_path)) for number in range(6)]
    with processes(2) as pool:
        assert sorted(results(work_items.die_once, items, Workers(pool))) == [
            (item, item[0] ** 2) for item in items
        ]
        # the pool can't be used any more, and another one takes its place
        assert sorted(results(work_items.square, [1, 2], Workers(pool))) == [(1, 1), (2, 4)]
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize(
    ("keeps", "kept"), [(True, "what is done is kept"), (False, "what is done isn't kept")]
)
def test_work_that_kills_its_process_again_and_again_is_named(keeps: bool, kept: str, tmp_path: Path) -> None:
    items = [(number, str(tmp_path)) for number in range(5)]
    with (
        processes(2) as pool,
        pytest.raises(nz.InputError, match=r"item \(3, .*its worker was lost 3 times; was it") as error,
    ):
        results(work_items.die, items, Workers(pool, retries=2), keeps=keeps)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(f"give each more memory ({kept})")
    assert (tmp_path / "deaths").read_text() == "xxx"


def test_work_that_is_lost_while_others_end_counts_as_lost() -> None:
    """Work that has a result isn't what a process was at, though it was handed out first."""
    handed_out = []

    class Losing(Executor):
        _max_workers = 2

        def submit(self, call: Any, /, *_: object, **__: object) -> Future[Any]:
            number = call.args[1]
            handed_out.append(number)
            future = Future[Any]()
            if number == 3:
                future.set_exception(BrokenExecutor("lost"))
            else:
                future.set_result(number)
            return future

    with pytest.raises(nz.InputError, match="3: its worker was lost 3 times"):
        do_all(abs, range(4), Workers(Losing(), retries=2), name=str, finished=lambda *_: None, keeps=True)
    assert handed_out.count(3) == 3


def test_errors_name_the_work() -> None:
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(nz.InputError, match=r"^item 2: two can't be used$"):
            results(work_items.refuse, [1, 2], Workers(pool))
        with pytest.raises(KeyError) as error:
            results(work_items.fail, [1, 2], Workers(pool))
        assert error.value.__notes__ == ["in item 2"]


def test_an_interruption_cancels_what_waits() -> None:
    begun = []

    def finished(item: int, result: None) -> None:
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(KeyboardInterrupt):
            do_all(begun.append, range(100), Workers(pool), name=str, finished=finished, keeps=True)
        pool.shutdown()
    assert len(begun) <= tasks.WAITING_PER_WORKER


def test_an_executor_that_takes_no_work() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(nz.InputError, match="item 1: the executor takes no more work"):
        results(work_items.square, [1], Workers(pool))


def test_a_broken_executor_of_another_kind() -> None:
    with (
        ThreadPoolExecutor(1, initializer=work_items.lost) as pool,
        pytest.raises(nz.InputError, match=r"make a new one, and run again \(what is done isn't kept\)$"),
    ):
        results(work_items.square, [1, 2], Workers(pool), keeps=False)


def test_another_version_on_a_worker() -> None:
    with pytest.raises(
        nz.InputError, match=r"^item 1: the worker has nearzero .* and this process 0\.0; install"
    ):
        tasks._attempt(work_items.square, 1, "item 1", Limits(1, None), "0.0")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"executor": 3}, "executor must be a concurrent.futures.Executor; got int"),
        ({"threads": 0}, "threads must be a whole number, at least 1; got 0"),
        ({"memory": "much"}, "memory must be a number of bytes or a text like \"2 GB\"; got 'much'"),
        ({"retries": -1}, "retries must be a whole number, at least 0; got -1"),
    ],
)
def test_workers_that_cant_be_used(given: dict[str, Any], message: str) -> None:
    with pytest.raises(nz.InputError, match=f"^{message}"):
        Workers(**given)


def test_no_scheduler_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "ANSWERS_IN", 0.5)
    with (
        pytest.raises(
            nz.InputError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 .*give the address"
        ),
        dask_executor("tcp://127.0.0.1:1"),
    ):
        pass
    with (
        pytest.raises(nz.InputError, match="no Dask scheduler answers at nowhere://"),
        dask_executor("nowhere://x"),
    ):
        pass


PARENT = """
import os, signal, time
from nearzero.support.workers import local_processes
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may ignore it
    with local_processes(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(number: int, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.send_signal(number)
        parent.wait(timeout=300)
        for _ in range(3000):
            if not Path(f"/proc/{worker}").exists():
                return
            time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker went on")


def test_the_processes_of_a_block_end_with_it() -> None:
    with local_processes(1) as pool:
        assert pool.submit(work_items.square, 3).result() == 9
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(work_items.square, 3)
    executor: Executor = pool
    assert executors.renewed(executor) is not None
    assert executors.renewed(ThreadPoolExecutor(1)) is None
