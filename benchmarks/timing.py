"""Functions that benchmarks share: options and data, timing, the machine's rate, and printing.

Programs that are compared are timed in one process, in alternating rounds, so that other load on the machine
affects all of them. The best round counts.
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
    """Return a parser with the options that all timings have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", default="mnist", help="a data set's name (mnist)")
    parser.add_argument("--data-dir", type=Path, help="the folder of its files")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds of timing ({rounds})")
    parser.add_argument("--growth", action="store_true", help="also time other sizes, to see how cost grows")
    return parser


def begin(options: argparse.Namespace) -> tuple[Examples, Examples]:
    """Return training and test set, and set PyTorch's threads to those of nearzero."""
    data = load(options.data, data_dir=options.data_dir)
    torch.set_num_threads(thread_count())
    print(f"{data.name}; {thread_count()} threads; best of {options.rounds} rounds", flush=True)
    train, test = (Examples(Pixels(split.pixels), split.labels) for split in (data.train, data.test))
    return train, test


def best(cases: Mapping[Case, Callable[[], object]], rounds: int) -> dict[Case, float]:
    """Return the seconds of each case in its best round. Rounds alternate, after one that isn't timed."""
    for case in cases.values():
        case()
    times = [{name: seconds(case) for name, case in cases.items()} for _ in range(rounds)]
    return {name: min(round_[name] for round_ in times) for name in cases}


def seconds(case: Callable[[], object]) -> float:
    """Return the seconds that a case takes."""
    time.sleep(0.25)  # PyTorch's threads keep spinning for a while after their work
    start = time.perf_counter()
    case()
    return time.perf_counter() - start


def first_examples(examples: Examples, count: int) -> Examples:
    return Examples(Pixels(examples.pixels.values[:count]), examples.labels[:count])


def print_row(name: str, time_: float, plain: float, note: str = "") -> None:
    """Print a time, and the ratio of plain PyTorch's time to it."""
    print(f"  {name:<34}{1e3 * time_:>10.2f} ms{plain / time_:>8.2f} x  {note}", flush=True)


def print_machine(operations: float, plain: float) -> None:
    """Print the time of nearzero's operations at the rate of PyTorch's float32 matrix product."""
    a = torch.randn(2048, 2048)
    rate = 2 * 2048**3 / best({"product": lambda: a @ a}, 5)["product"]
    print(
        f"  this machine's matrix product: {rate / 1e9:.0f} GFLOP/s; at that rate nearzero's operations",
        end=" ",
    )
    print(f"take {1e3 * operations / rate:.1f} ms, {plain * rate / operations:.1f} x", flush=True)


def print_growth(cases: Mapping[tuple[str, int], Callable[[], object]], rounds: int) -> None:
    """Time cases, whose names are (quantity that grows, its size), and print a table for each quantity."""
    times = best(cases, rounds)
    for quantity in dict.fromkeys(quantity for quantity, _ in cases):
        sized = {size: time_ for (name, size), time_ in times.items() if name == quantity}
        (_print_threads if quantity == "threads" else _print_sizes)(quantity, sized)


def _print_sizes(quantity: str, times: Mapping[int, float]) -> None:
    """Print a line for each size: time, time divided by size, time per unit beyond the line above.

    If cost is linear, the last column is constant; a constant part of the cost affects the first two columns
    only.
    """
    print(f"  {quantity:>12}{'total':>14}{'for each':>14}{'each more':>14}")
    sizes = sorted(times)
    for before, size in zip([None, *sizes], sizes, strict=False):
        more = "" if before is None else _duration((times[size] - times[before]) / (size - before))
        print(f"  {size:>12,}{_duration(times[size]):>14}{_duration(times[size] / size):>14}{more:>14}")


def _print_threads(quantity: str, times: Mapping[int, float]) -> None:
    """Print a line for each number of threads: the time, and the ratio of one thread's time to it."""
    print(f"  {quantity:>12}{'total':>14}")
    for threads, time_ in sorted(times.items()):
        print(f"  {threads:>12,}{_duration(time_):>14}{times[1] / time_:>12.2f} x")


def _duration(seconds: float) -> str:
    scale, unit = (1e3, "ms") if abs(seconds) >= 1e-4 else (1e6, "us")
    return f"{scale * seconds:.2f} {unit}"


def print_memory() -> None:
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(f"memory at most {peak / 1e9:.2f} GB, with PyTorch and its data")
