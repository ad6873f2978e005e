"""How fast networks train, against plain PyTorch in the same process and minute.

The baseline does what the published study does: one network at a time through autograd, the whole training
set as one batch, train accuracy from the same logits, test accuracy at every step. The engine does the same
for one run and for several. Rounds alternate between them, and the best time of each counts.

    python benchmarks/training.py [--data-dir DIR] [--steps 5] [--runs 4] [--growth]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from nearzero.datasets import load
from nearzero.networks import TwoLayer, initial_stack
from nearzero.pixels import Pixels
from nearzero.threads import thread_count
from nearzero.training.engine import Examples
from nearzero.training.fused import FusedEngine

LEARNING_RATE = 0.001


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="a data set's name (mnist)")
    parser.add_argument("--data-dir", type=Path, help="the folder of its files")
    parser.add_argument("--steps", type=int, default=5, help="rounds of timing (5)")
    parser.add_argument("--runs", type=int, default=4, help="runs in the stacked case (4)")
    parser.add_argument("--batch-size", type=int, default=256, help="of the mini-batch case (256)")
    parser.add_argument("--activation", default="abs", help="abs, relu, ... (abs)")
    parser.add_argument(
        "--growth", action="store_true", help="also time other numbers of runs, units and examples"
    )
    return parser.parse_args()


def seconds(function: Callable[[], object]) -> float:
    time.sleep(0.25)  # PyTorch's threads go on spinning for a while after their work
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def best(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The best time of each, the rounds alternating between them; a first round warms up."""
    for function in functions.values():
        function()
    times = [{name: seconds(function) for name, function in functions.items()} for _ in range(rounds)]
    return {name: min(each[name] for each in times) for name in functions}


class Plain:
    """One network in plain PyTorch."""

    def __init__(self, network: TwoLayer, train: Examples, test: Examples) -> None:
        self.x, self.y = torch.from_numpy(train.pixels.dense()), torch.from_numpy(train.labels)
        self.test_x, self.test_y = torch.from_numpy(test.pixels.dense()), torch.from_numpy(test.labels)
        self.module = network.to_module()
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=LEARNING_RATE)

    def full_step(self) -> None:
        """As in the published study: a step, and accuracy on both sets."""
        self.optimizer.zero_grad()
        logits = self.module(self.x)
        loss = torch.nn.functional.cross_entropy(logits, self.y)
        loss.backward()
        self.optimizer.step()
        (logits.argmax(1) == self.y).float().mean().item()
        loss.item()
        with torch.no_grad():
            (self.module(self.test_x).argmax(1) == self.test_y).float().mean().item()

    def batch_steps(self, size: int, steps: int) -> None:
        order = torch.randperm(len(self.y))
        for step in range(steps):
            rows = order[step * size : (step + 1) * size]
            self.optimizer.zero_grad()
            torch.nn.functional.cross_entropy(self.module(self.x[rows]), self.y[rows]).backward()
            self.optimizer.step()


class Fused:
    """The engine, a step at a time."""

    def __init__(
        self,
        train: Examples,
        test: Examples,
        activation: str,
        *,
        runs: int = 1,
        units: int = 128,
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        inputs, classes = train.pixels.values.shape[1], int(train.labels.max()) + 1
        self.engine = FusedEngine(
            initial_stack(range(runs), activation, inputs=inputs, units=units, classes=classes),
            train,
            test,
            seeds=range(runs),
            learning_rate=LEARNING_RATE,
            batch_size=batch_size,
            threads=threads,
        )
        self.step = 0

    def full_step(self) -> None:
        self.engine.measure("train")
        self.engine.measure("test")
        self.batch_steps(1)

    def batch_steps(self, steps: int) -> None:
        self.engine.advance(self.step, self.step + steps)
        self.step += steps


def products_rate() -> float:
    """GFLOP/s of PyTorch's float32 matrix product, all threads."""
    a = torch.randn(2048, 2048)
    return 2 * 2048**3 / best({"product": lambda: a @ a}, 5)["product"] / 1e9


def flops(train: Examples, test: Examples, units: int = 128) -> tuple[float, float]:
    """Of one network's full-batch step with its measurements: (dense, on non-zeros)."""
    classes = int(train.labels.max()) + 1
    readout = 2 * units * classes * (3 * len(train) + len(test))
    dense = 2 * units * (2 * train.pixels.values.size + test.pixels.values.size) + readout
    sparse = (
        2 * units * (2 * np.count_nonzero(train.pixels.values) + np.count_nonzero(test.pixels.values))
        + readout
    )
    return float(dense), float(sparse)


def row(name: str, time_: float, plain: float, note: str = "") -> None:
    print(f"  {name:<34}{1e3 * time_:>10.2f} ms{plain / time_:>8.2f} x  {note}")


def full_batch(train: Examples, test: Examples, options: argparse.Namespace) -> None:
    plain = Plain(initial_stack([0], options.activation)[0], train, test)
    one = Fused(train, test, options.activation, runs=1)
    many = Fused(train, test, options.activation, runs=options.runs)
    cases = {"plain": plain.full_step, "one": one.full_step, "many": many.full_step}
    times = best(cases, options.steps)
    per_network = times["many"] / options.runs
    dense, sparse = flops(train, test)
    rate = products_rate()

    def rates(time_: float) -> str:
        return f"{dense / time_ / 1e9:.0f} GFLOP/s dense, {sparse / time_ / 1e9:.0f} on non-zeros"

    print(f"full batch, {len(train):,} images: one network, one step, both accuracies")
    row("plain PyTorch", times["plain"], times["plain"], rates(times["plain"]))
    row("nearzero, 1 run", times["one"], times["plain"], rates(times["one"]))
    row(f"nearzero, {options.runs} runs, per network", per_network, times["plain"], rates(per_network))
    print(f"  this machine's matrix product: {rate:.0f} GFLOP/s; at that rate the non-zeros take", end=" ")
    print(f"{1e3 * sparse / rate / 1e9:.1f} ms, {times['plain'] * rate * 1e9 / sparse:.1f} x")
    print(f"  network-steps per second: plain {1 / times['plain']:.1f}, nearzero {1 / per_network:.1f}")


def mini_batches(train: Examples, test: Examples, options: argparse.Namespace) -> None:
    size, steps = options.batch_size, min(100, len(train) // options.batch_size)
    plain = Plain(initial_stack([0], options.activation)[0], train, test)
    one = Fused(train, test, options.activation, runs=1, batch_size=size)
    many = Fused(train, test, options.activation, runs=options.runs, batch_size=size)
    times = best(
        {
            "plain": lambda: plain.batch_steps(size, steps),
            "one": lambda: one.batch_steps(steps),
            "many": lambda: many.batch_steps(steps),
            "measure": lambda: many.engine.measure("train"),
        },
        options.steps,
    )
    print(f"batches of {size}: one network, one step")
    row("plain PyTorch", times["plain"] / steps, times["plain"] / steps)
    row("nearzero, 1 run", times["one"] / steps, times["plain"] / steps)
    row(
        f"nearzero, {options.runs} runs, per network",
        times["many"] / steps / options.runs,
        times["plain"] / steps,
    )
    print(
        f"  loss and accuracy on all {len(train):,}: {1e3 * times['measure'] / options.runs:.1f} ms per network"
    )


def growth(train: Examples, test: Examples, options: argparse.Namespace) -> None:
    """Time per step and network for other numbers of runs, units, examples and threads."""
    print("how cost grows (full batch, per network and step)")
    sizes = [len(train) // 4, len(train) // 2, len(train)]
    subsets = {n: Examples(Pixels(train.pixels.values[:n]), train.labels[:n]) for n in sizes}
    threads = thread_count()
    cases: dict[str, tuple[Fused, int]] = {}
    for runs in (1, 2, 4, 8):
        cases[f"{runs} runs"] = Fused(train, test, options.activation, runs=runs), runs
    for units in (64, 256, 512):
        cases[f"{units} units"] = Fused(train, test, options.activation, runs=1, units=units), 1
    for n in sizes:
        cases[f"{n:,} examples"] = Fused(subsets[n], test, options.activation, runs=1), 1
    for count in sorted({1, threads}):
        cases[f"{count} threads"] = Fused(train, test, options.activation, runs=1, threads=count), 1
    times = best({name: fused.full_step for name, (fused, _) in cases.items()}, options.steps)
    for name, (_, runs) in cases.items():
        print(f"  {name:<34}{1e3 * times[name] / runs:>10.2f} ms")


def main() -> None:
    options = arguments()
    data = load(options.data, data_dir=options.data_dir)
    train, test = (Examples(Pixels(each.pixels), each.labels) for each in (data.train, data.test))
    torch.set_num_threads(thread_count())
    print(f"{data.name}; {thread_count()} threads; activation {options.activation}")
    full_batch(train, test, options)
    mini_batches(train, test, options)
    if options.growth:
        growth(train, test, options)
    unit = 1 if sys.platform == "darwin" else 1024
    print(
        f"memory at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB, PyTorch's included"
    )


if __name__ == "__main__":
    main()
