"""What the benchmarks share: options and data, the best time of alternating rounds, the machine's own rate, and how
lines are printed.

Whatever is compared is timed in one process, the rounds alternating, so that a busy minute or a slow machine is the
same for all; the best round counts.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

from nearzero.datasets import load
from nearzero.networks.pixels import Pixels
from nearzero.support.threads import thread_count
from nearzero.training.engine import Examples

Case = TypeVar("Case", bound=Hashable)


def options_for(description: str, *, rounds: int) -> argparse.ArgumentParser:
    """The options that all timings have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", default="mnist", help="a data set's name (mnist)")
    parser.add_argument("--data-dir", type=Path, help="the folder of its files")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds of timing ({rounds})")
    parser.add_argument("--growth", action="store_true", help="also time other sizes, to see how cost grows")
    return parser


def begin(options: argparse.Namespace) -> tuple[Examples, Examples]:
    """Training and test set; PyTorch gets the threads that nearzero has."""
    data = load(options.data, data_dir=options.data_dir)
    torch.set_num_threads(thread_count())
    print(f"{data.name}; {thread_count()} threads; best of {options.rounds} rounds", flush=True)
    train, test = (Examples(Pixels(each.pixels), each.labels) for each in (data.train, data.test))
    return train, test


def best(cases: Mapping[Case, Callable[[], object]], rounds: int) -> dict[Case, float]:
    """Seconds that each case takes at best, the rounds alternating between them; a first round warms up."""
    for case in cases.values():
        case()
    times = [{name: seconds(case) for name, case in cases.items()} for _ in range(rounds)]
    return {name: min(each[name] for each in times) for name in cases}


def seconds(case: Callable[[], object]) -> float:
    """Seconds that a case takes."""
    time.sleep(0.25)  # PyTorch's threads go on spinning for a while after their work
    start = time.perf_counter()
    case()
    return time.perf_counter() - start


def first_examples(examples: Examples, count: int) -> Examples:
    return Examples(Pixels(examples.pixels.values[:count]), examples.labels[:count])


def print_row(name: str, time_: float, plain: float, note: str = "") -> None:
    """A time, and how many times shorter it is than plain PyTorch's."""
    print(f"  {name:<34}{1e3 * time_:>10.2f} ms{plain / time_:>8.2f} x  {note}", flush=True)


def print_machine(operations: float, plain: float) -> None:
    """What could be had at the rate of PyTorch's float32 matrix product, all threads, against a plain time."""
    a = torch.randn(2048, 2048)
    rate = 2 * 2048**3 / best({"product": lambda: a @ a}, 5)["product"]
    print(
        f"  this machine's matrix product: {rate / 1e9:.0f} GFLOP/s; at that rate nearzero's operations",
        end=" ",
    )
    print(f"take {1e3 * operations / rate:.1f} ms, {plain * rate / operations:.1f} x", flush=True)


def print_growth(cases: Mapping[tuple[str, int], Callable[[], object]], rounds: int) -> None:
    """Time cases called (what grows, its size), and print a table for each of what grows."""
    times = best(cases, rounds)
    for what in dict.fromkeys(what for what, _ in cases):
        sized = {size: time_ for (each, size), time_ in times.items() if each == what}
        (_print_threads if what == "threads" else _print_sizes)(what, sized)


def _print_sizes(what: str, times: Mapping[int, float]) -> None:
    """A line for each size: the whole time, its share for each, and what each beyond the line above has cost.

    Where cost is linear the last column stays as it is; a part that doesn't grow shows in the first two alone.
    """
    print(f"  {what:>12}{'total':>14}{'for each':>14}{'each more':>14}")
    sizes = sorted(times)
    for before, size in zip([None, *sizes], sizes, strict=False):
        more = "" if before is None else _duration((times[size] - times[before]) / (size - before))
        print(f"  {size:>12,}{_duration(times[size]):>14}{_duration(times[size] / size):>14}{more:>14}")


def _print_threads(what: str, times: Mapping[int, float]) -> None:
    """A line for each number of threads: the time, and how many times shorter it is than one thread's."""
    print(f"  {what:>12}{'total':>14}")
    for threads, time_ in sorted(times.items()):
        print(f"  {threads:>12,}{_duration(time_):>14}{times[1] / time_:>12.2f} x")


def _duration(seconds: float) -> str:
    scale, unit = (1e3, "ms") if abs(seconds) >= 1e-4 else (1e6, "us")
    return f"{scale * seconds:.2f} {unit}"


def print_memory() -> None:
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(f"memory at most {peak / 1e9:.2f} GB, with PyTorch and its data")
