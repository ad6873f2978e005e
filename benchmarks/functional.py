"""The PyTorch engine against one made of `torch.func` alone, which needs less code and allows any depth.

`FunctionalEngine` stacks modules by `stack_module_state`, and applies `vmap` to `grad_and_value`. On the CPU
a run must not depend on other runs, so the package's engine gives each run products of its own.
`FunctionalEngine` is measured both ways, "together" and "apart". Times are per network-step: a full-batch
step with its loss and accuracy, and a mini-batch step; on the CPU they are processor time, on which other
load of a machine has less effect. Rounds alternate; the ratios are the median of the rounds, with quartiles.
The last column says whether run 0 has the same bits alone as among the others.

    python benchmarks/functional.py [--examples 60000] [--runs 4] [--activation abs] [--batch-size 256]
        [--threads N]
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

import timing
from nearzero.networks import Stack, initial_stack
from nearzero.training.engine import Examples, Measurement, Precision, epoch_order, steps_per_epoch
from nearzero.training.products import products_in
from nearzero.training.stacked import StackedEngine

LEARNING_RATE = 0.001
STEPS = 20  # of mini-batches, timed together
Weights = dict[str, Tensor]


class FunctionalEngine:
    """Stochastic gradient descent on a stack of modules.

    Args:
        stack, train, test, seeds, learning_rate, batch_size, device, precision: as for `StackedEngine`.
        chunk: examples of a whole set that are processed at the same time.
        apart: whether each run has products of its own, so that it doesn't depend on the others.
    """

    def __init__(
        self,
        stack: Stack,
        train: Examples,
        test: Examples,
        *,
        seeds: Sequence[int],
        learning_rate: float,
        batch_size: int | None,
        device: str | torch.device = "cpu",
        precision: Precision = "float32",
        chunk: int = 4096,
        apart: bool = False,
    ) -> None:
        self._device, self._precision = torch.device(device), precision
        modules = [stack[run].to_module().to(self._device) for run in range(len(stack))]
        self._weights: Weights = {
            name: each.detach().clone() for name, each in stack_module_state(modules)[0].items()
        }
        self._module = copy.deepcopy(modules[0]).to("meta")
        self._activations = stack.activations
        self._sets = {
            name: (
                torch.from_numpy(each.pixels.dense()).to(self._device),
                torch.from_numpy(each.labels).to(self._device),
            )
            for name, each in (("train", train), ("test", test))
        }
        self._seeds, self._rate, self._batch = list(seeds), learning_rate, batch_size
        self._chunk, self._apart = chunk, apart
        self._gradient: Weights | None = None
        self._epoch: tuple[int, Tensor] | None = None
        self.active = np.ones(len(stack), dtype=np.bool_)

    def measure(self, which: str) -> Measurement:
        """Measure loss and correct predictions; keep a full batch's gradients for the update."""
        loss, correct = self._pass(which, gradients=which == "train" and self._batch is None)
        finite = torch.stack([each.flatten(1).isfinite().all(1) for each in self._weights.values()]).all(0)
        good = self.active & finite.cpu().numpy()
        mean = loss.cpu().numpy() / len(self._sets[which][1])
        return Measurement(np.where(good, mean, np.nan), np.where(self.active, correct.cpu().numpy(), 0))

    def advance(self, step: int, stop: int) -> None:
        """Apply updates step, step + 1, ..., stop - 1 to every active run."""
        for number in range(step, stop):
            if self._batch is None:
                if self._gradient is None:
                    self._pass("train", gradients=True)
                assert self._gradient is not None
                gradient, examples = self._gradient, len(self._sets["train"][1])
            else:
                rows = self._rows(number)
                (x, y), examples = self._sets["train"], rows.shape[1]
                parts = [
                    self._call(group, x[rows[group]], y[rows[group]], gradients=True)[0]
                    for group in self._groups
                ]
                gradient = {name: torch.cat([part[name] for part in parts]) for name in self._weights}
            self._update(gradient, examples)

    def stack(self) -> Stack:
        """Return a copy of the current weights."""
        w1, b1, w2, b2 = (each.cpu().numpy().copy() for each in self._weights.values())
        return Stack(w1, b1, w2, b2, self._activations)

    def _pass(self, which: str, *, gradients: bool) -> tuple[Tensor, Tensor]:
        (x, y), runs = self._sets[which], len(self.active)
        loss = torch.zeros(runs, dtype=torch.float64, device=self._device)
        correct = torch.zeros(runs, dtype=torch.int64, device=self._device)
        if gradients:
            self._gradient = {name: torch.zeros_like(each) for name, each in self._weights.items()}
        for group in self._groups:
            for rows in (slice(first, first + self._chunk) for first in range(0, len(y), self._chunk)):
                found, (value, hits) = self._call(group, x[rows], y[rows], gradients=gradients)
                loss[group] += value
                correct[group] += hits
                for name, each in found.items():
                    assert self._gradient is not None
                    self._gradient[name][group] += each
        return loss, correct

    @property
    def _groups(self) -> list[slice]:
        """The runs that share products."""
        return [slice(run, run + 1) for run in range(len(self.active))] if self._apart else [slice(None)]

    def _call(
        self, group: slice, x: Tensor, y: Tensor, *, gradients: bool
    ) -> tuple[Weights, tuple[Tensor, Tensor]]:
        """Return gradients, if wanted, and summed loss and correct predictions of each run.

        x: (n, D) for all runs, or (R, n, D).
        """

        def loss_of(weights: Weights, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            logits = functional_call(self._module, weights, (x,)).float()
            return F.cross_entropy(logits, y, reduction="sum"), (logits.argmax(1) == y).sum()

        weights = {name: each[group] for name, each in self._weights.items()}
        dims = (0, None, None) if x.ndim == 2 else (0, 0, 0)
        rounded = torch.autocast(
            self._device.type, dtype=torch.bfloat16, enabled=self._precision == "bfloat16"
        )
        with products_in(self._precision), rounded:
            if not gradients:
                with torch.no_grad():
                    return {}, vmap(loss_of, in_dims=dims)(weights, x, y)
            return vmap(grad_and_value(loss_of, has_aux=True), in_dims=dims)(weights, x, y)  # type: ignore[no-any-return]

    def _rows(self, step: int) -> Tensor:
        """Return the places of the examples of each run's mini-batch, (R, n)."""
        count = len(self._sets["train"][1])
        assert self._batch is not None
        epoch, place = divmod(step, steps_per_epoch(count, self._batch))
        if self._epoch is None or self._epoch[0] != epoch:
            orders = np.stack([epoch_order(seed, epoch, count) for seed in self._seeds])
            self._epoch = epoch, torch.from_numpy(orders).to(self._device)
        return self._epoch[1][:, place * self._batch : (place + 1) * self._batch]

    def _update(self, gradient: Weights, examples: int) -> None:
        active = torch.from_numpy(self.active).to(self._device)
        for name, each in self._weights.items():
            moved = each.sub(gradient[name], alpha=self._rate / examples)
            mask = active.view(-1, *[1] * (each.ndim - 1))
            self._weights[name] = torch.where(mask, moved, each)
        self._gradient = None


# --- measuring ----------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[..., Any]] = {
    "nearzero": StackedEngine,
    "torch.func, together": FunctionalEngine,
    "torch.func, apart": partial(FunctionalEngine, apart=True),
}


def same_alone(make: Callable[[int], Any]) -> bool:
    """Return whether run 0 alone has the same weights as among others, to the last bit, after a few steps."""
    alone, among = (make(runs) for runs in (1, 4))
    for engine in (alone, among):
        engine.advance(0, 3)
    return bool((alone.stack().w1[0] == among.stack().w1[0]).all())


def compare(make: Callable[..., Any], options: argparse.Namespace, batch: int | None) -> None:
    """Print a line for each engine: milliseconds per network-step, ratio, independence of runs."""
    engines = {name: make(way, options.runs, batch) for name, way in WAYS.items()}
    steps = 1 if batch is None else STEPS
    place = dict.fromkeys(engines, 0)

    def step(name: str) -> None:
        if batch is None:
            engines[name].measure("train")
        engines[name].advance(place[name], place[name] + steps)
        place[name] += steps
        if options.device != "cpu":
            engines[name].stack()  # waits for the device

    def seconds(name: str) -> float:
        clock = time.process_time if options.device == "cpu" else time.perf_counter
        begin = clock()
        step(name)
        return clock() - begin

    rounds = [{name: seconds(name) for name in engines} for _ in range(options.rounds + 1)][1:]
    print(f"  {'full batch' if batch is None else f'batches of {batch}'}")
    for name in engines:
        low, ratio, high = np.quantile(
            [times[name] / times["nearzero"] for times in rounds], [0.25, 0.5, 0.75]
        )
        same = same_alone(lambda runs, name=name: make(WAYS[name], runs, batch))  # type: ignore[misc]
        bits = "same bits" if same else "other bits"
        time_ = 1e3 * float(np.median([times[name] for times in rounds])) / steps / options.runs
        print(f"    {name:<24}{time_:>10.3f} ms{ratio:>8.2f} ({low:.2f} to {high:.2f})  {bits}", flush=True)


def main() -> None:
    parser = timing.options_for(__doc__.splitlines()[0], rounds=20)
    parser.add_argument("--runs", type=int, default=4, help="networks trained at once (4)")
    parser.add_argument("--examples", type=int, default=60_000, help="training images to take (60000)")
    parser.add_argument("--batch-size", type=int, default=256, help="of the mini-batch case (256)")
    parser.add_argument("--activation", default="abs", help="abs, relu, ... (abs)")
    parser.add_argument("--threads", type=int, help="of PyTorch (as many as nearzero takes)")
    parser.add_argument("--device", default="cpu", help="a PyTorch device (cpu)")
    parser.add_argument("--precision", nargs="+", default=["float32"], help="float32, tf32, bfloat16")
    options = parser.parse_args()
    train, test = timing.begin(options)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    train = timing.first_examples(train, options.examples)
    inputs, classes = train.pixels.values.shape[1], int(train.labels.max()) + 1
    for precision in options.precision:

        def make(way: Callable[..., Any], runs: int, batch: int | None, precision: str = precision) -> Any:
            stack = initial_stack(range(runs), options.activation, inputs=inputs, units=128, classes=classes)
            where = {"device": options.device, "precision": precision}
            recipe = {"learning_rate": LEARNING_RATE, "batch_size": batch}
            return way(stack, train, test, seeds=range(runs), **recipe, **where)

        sizes = f"{len(train):,} images, {options.runs} runs, {torch.get_num_threads()} threads"
        print(f"{options.activation}, {precision}, {sizes}")
        for batch in (None, options.batch_size):
            compare(make, options, batch)


if __name__ == "__main__":
    main()
