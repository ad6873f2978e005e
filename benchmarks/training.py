"""The time of training, against plain PyTorch in the same process.

The baseline does what the published study does: one network at a time through autograd, the whole training
set as one batch, train accuracy from the same logits, test accuracy at every step. The engine does the same
for one run and for several.

    python benchmarks/training.py [--data-dir DIR] [--rounds 5] [--runs 4] [--after 0] [--growth]

During training, more and more examples have a loss of 0 in float32 and add nothing to the gradient; `--after`
is the number of steps before the timed ones. Operations are counted as if no example were left out.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch

import timing
from nearzero.networks import TwoLayer, initial_stack
from nearzero.support.threads import thread_count
from nearzero.training.engine import Examples
from nearzero.training.fused import FusedEngine

LEARNING_RATE = 0.001


def arguments() -> argparse.Namespace:
    parser = timing.options_for(__doc__.splitlines()[0], rounds=5)
    parser.add_argument("--runs", type=int, default=4, help="runs in the stacked case (4)")
    parser.add_argument("--batch-size", type=int, default=256, help="of the mini-batch case (256)")
    parser.add_argument("--activation", default="abs", help="abs, relu, ... (abs)")
    parser.add_argument(
        "--after", type=int, default=0, help="full-batch steps before those that are timed (0)"
    )
    return parser.parse_args()


class Plain:
    """One network in plain PyTorch."""

    def __init__(self, network: TwoLayer, train: Examples, test: Examples) -> None:
        self.x, self.y = torch.from_numpy(train.pixels.dense()), torch.from_numpy(train.labels)
        self.test_x, self.test_y = torch.from_numpy(test.pixels.dense()), torch.from_numpy(test.labels)
        self.module = network.to_module()
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=LEARNING_RATE)

    def full_step(self) -> None:
        """Do one step, and compute accuracy on both sets, as in the published study."""
        self.optimizer.zero_grad()
        logits = self.module(self.x)
        loss = torch.nn.functional.cross_entropy(logits, self.y)
        loss.backward()  # type: ignore[no-untyped-call]
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
            loss = torch.nn.functional.cross_entropy(self.module(self.x[rows]), self.y[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()


class Fused:
    """The engine, one step at a time."""

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


def flops(train: Examples, test: Examples, units: int = 128) -> tuple[float, float]:
    """Return the operations of one network's full-batch step and measurements: dense, and on non-zeros."""
    classes = int(train.labels.max()) + 1
    readout = 2 * units * classes * (3 * len(train) + len(test))
    dense = 2 * units * (2 * train.pixels.values.size + test.pixels.values.size) + readout
    sparse = (
        2 * units * (2 * np.count_nonzero(train.pixels.values) + np.count_nonzero(test.pixels.values))
        + readout
    )
    return float(dense), float(sparse)


def without_loss(network: TwoLayer, examples: Examples) -> float:
    """Return the share of examples whose loss is 0 in float32."""
    with torch.no_grad():
        logits = network.to_module()(torch.from_numpy(examples.pixels.dense()))
        losses = torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(examples.labels), reduction="none"
        )
    return float((losses == 0).float().mean())


def full_batch(train: Examples, test: Examples, options: argparse.Namespace) -> None:
    plain = Plain(initial_stack([0], options.activation)[0], train, test)
    one = Fused(train, test, options.activation, runs=1)
    many = Fused(train, test, options.activation, runs=options.runs)
    for engine in (one, many):
        engine.batch_steps(options.after)
    cases = {"plain": plain.full_step, "one": one.full_step, "many": many.full_step}
    times = timing.best(cases, options.rounds)
    per_network = times["many"] / options.runs
    dense, sparse = flops(train, test)

    def rates(time_: float) -> str:
        return f"{dense / time_ / 1e9:.0f} GFLOP/s dense, {sparse / time_ / 1e9:.0f} on non-zeros"

    print(
        f"{options.activation}, full batch, {len(train):,} images, after {options.after} steps: one network, one step, "
        "both accuracies"
    )
    timing.print_row("plain PyTorch", times["plain"], times["plain"], rates(times["plain"]))
    timing.print_row("nearzero, 1 run", times["one"], times["plain"], rates(times["one"]))
    timing.print_row(
        f"nearzero, {options.runs} runs, per network", per_network, times["plain"], rates(per_network)
    )
    timing.print_machine(sparse, times["plain"])
    print(f"  network-steps per second: plain {1 / times['plain']:.1f}, nearzero {1 / per_network:.1f}")
    left_out = without_loss(one.engine.stack()[0], train)
    print(f"  examples without a loss, left out of gradients: {100 * left_out:.0f} %")


def mini_batches(train: Examples, test: Examples, options: argparse.Namespace) -> None:
    size, steps = options.batch_size, min(100, len(train) // options.batch_size)
    plain = Plain(initial_stack([0], options.activation)[0], train, test)
    one = Fused(train, test, options.activation, runs=1, batch_size=size)
    many = Fused(train, test, options.activation, runs=options.runs, batch_size=size)
    times = timing.best(
        {
            "plain": lambda: plain.batch_steps(size, steps),
            "one": lambda: one.batch_steps(steps),
            "many": lambda: many.batch_steps(steps),
            "measure": lambda: many.engine.measure("train"),
        },
        options.rounds,
    )
    print(f"{options.activation}, batches of {size}: one network, one step")
    timing.print_row("plain PyTorch", times["plain"] / steps, times["plain"] / steps)
    timing.print_row("nearzero, 1 run", times["one"] / steps, times["plain"] / steps)
    timing.print_row(
        f"nearzero, {options.runs} runs, per network",
        times["many"] / steps / options.runs,
        times["plain"] / steps,
    )
    print(
        f"  loss and accuracy on all {len(train):,}: {1e3 * times['measure'] / options.runs:.1f} ms per network"
    )


def growth(train: Examples, test: Examples, options: argparse.Namespace) -> None:
    """Print the growth of a step's time with runs, units and examples, and the gain from more threads."""
    fused = partial(Fused, test=test, activation=options.activation)
    sizes = [len(train) // 4, len(train) // 2, len(train)]
    engines = {
        **{("runs", runs): fused(train, runs=runs) for runs in (1, 2, 4, 8)},
        **{("units", units): fused(train, units=units) for units in (64, 128, 256, 512)},
        **{("examples", size): fused(timing.first_examples(train, size)) for size in sizes},
        **{("threads", threads): fused(train, threads=threads) for threads in {1, thread_count()}},
    }
    print(f"how a full-batch step's cost grows, from 1 run, 128 units and {len(train):,} examples")
    timing.print_growth({name: engine.full_step for name, engine in engines.items()}, options.rounds)


def main() -> None:
    options = arguments()
    train, test = timing.begin(options)
    full_batch(train, test, options)
    mini_batches(train, test, options)
    if options.growth:
        growth(train, test, options)
    timing.print_memory()


if __name__ == "__main__":
    main()
