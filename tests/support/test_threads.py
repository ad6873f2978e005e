"""Work on threads: exceptions, cancelled items, nested calls."""

import subprocess
import sys
import threading

import pytest

from nearzero.support.threads import parallel


def test_an_exception_is_raised_and_pending_items_are_cancelled():
    begun, released = [], threading.Event()

    def work(item):
        begun.append(item)
        if item == 0:
            raise ValueError("the first")
        released.wait(30)

    with pytest.raises(ValueError, match="the first"):
        parallel(work, range(200), 2)
    released.set()
    parallel(lambda _: None, range(4), 2)  # returns after all items that were left on these threads
    assert set(begun) <= {0, 1, 2}


def test_nested_calls_do_not_wait_for_each_other():
    done = []

    def inner(item):
        done.append((item, threading.current_thread().name))

    def outer(item):
        parallel(lambda k: inner((item, k)), range(3), 2)

    waiting = threading.Thread(target=lambda: parallel(outer, range(4), 2), daemon=True)
    waiting.start()
    waiting.join(20)
    assert not waiting.is_alive()
    assert sorted(item for item, _ in done) == [(item, k) for item in range(4) for k in range(3)]


@pytest.mark.parametrize("threads", [1, 2])
def test_results_come_in_the_order_of_the_items(threads):
    assert parallel(lambda item: 2 * item, range(5), threads) == [0, 2, 4, 6, 8]


def test_a_forked_child_has_threads_of_its_own():
    code = (
        "import os, signal\n"
        "from nearzero.support.threads import parallel\n"
        "parallel(abs, range(4), 2)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(20)  # ends it if it waits for threads that it doesn't have\n"
        "    os._exit(parallel(abs, [-1, -2], 2) != [1, 2])\n"
        "raise SystemExit(os.waitpid(child, 0)[1])\n"
    )
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
