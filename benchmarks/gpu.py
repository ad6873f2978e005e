"""The time of training the paper's networks on a GPU, and the loss curves in each precision.

The baseline does what the published study does, on the same device: one network at a time through autograd,
the whole training set as one batch, train accuracy from the same logits, test accuracy at every step. The
engine trains all runs at once, through the same driver as a study: loss and train accuracy at every step,
test accuracy at every tenth. Each is trained twice: first for its loss curve, which also warms up; then for
its time.

    python benchmarks/gpu.py [--device cuda] [--runs 20] [--steps 50] [--precision float32 tf32 bfloat16]

Loss curves are compared with the engine's in float32, and that of run 0 with plain PyTorch's: by the greatest
difference, and by that at the last step. In the first steps, where training overshoots, any rounding grows to
a visible difference; plain PyTorch with its pixels in reverse shows the effect of another order of float32
sums.

To try the script on the CPU: --device cpu --examples 2000 --runs 2 --steps 5.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from nearzero.datasets import load
from nearzero.networks import Stack, TwoLayer, initial_stack
from nearzero.networks.pixels import Pixels
from nearzero.training.engine import Examples, Precision
from nearzero.training.stacked import StackedEngine
from nearzero.training.train import History, Progress, Recipe, train

LEARNING_RATE = 0.001
STUDY_STEPS = 2 * 5000  # two networks
PRECISIONS = get_args(Precision)


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="a PyTorch device (cuda)")
    parser.add_argument("--runs", type=int, default=20, help="networks trained at once (20)")
    parser.add_argument("--units", type=int, default=128, help="hidden units of each (128)")
    parser.add_argument("--activation", default="abs", help="abs, relu, ... (abs)")
    parser.add_argument("--steps", type=int, default=50, help="steps to compare, and to time (50)")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="which (all)")
    parser.add_argument("--data", default="mnist", help="a data set's name or folder (mnist)")
    parser.add_argument("--data-dir", type=Path, help="the folder of its files")
    parser.add_argument("--examples", type=int, help="how many training images to take (all)")
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Result:
    """The measurements of one way to train.

    Attributes:
        curves: (runs, steps) loss before each step.
        seconds: of a step of one network.
        memory: peak bytes on the device, or on the CPU those of the whole process.
        kernel: whether the second layer was computed in one kernel.
        waits: how often the host waited for the device in one call of `advance_and_measure`; None if unknown.
    """

    curves: np.ndarray
    seconds: float
    memory: int
    kernel: bool = False
    waits: int | None = None


def wait_for(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def plain(
    network: TwoLayer, sets: dict[str, Examples], steps: int, device: torch.device, *, reverse: bool = False
) -> Result:
    """Train one network in plain PyTorch, as in the published study; in reverse, sums have another order."""
    forget_peak(device)
    (x, y), (test_x, test_y) = (
        (torch.from_numpy(each.pixels.dense()).to(device), torch.from_numpy(each.labels).to(device))
        for each in (sets["train"], sets["test"])
    )
    module = network.to_module().to(device)
    if reverse:
        x, test_x = x.flip(1), test_x.flip(1)
        weight = module.get_parameter("0.weight")
        weight.data = weight.data.flip(1)
    optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE)

    def step() -> float:
        optimizer.zero_grad()
        logits = module(x)
        loss = torch.nn.functional.cross_entropy(logits, y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        (logits.argmax(1) == y).float().mean().item()
        with torch.no_grad():
            (module(test_x).argmax(1) == test_y).float().mean().item()
        return loss.item()

    curve = [step() for _ in range(steps)]
    wait_for(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    wait_for(device)
    return Result(np.array([curve]), (time.perf_counter() - began) / steps, peak(device))


def stacked(stack: Stack, sets: dict[str, Examples], steps: int, **options: Any) -> Result:
    """Train all networks in the engine, through the driver of a study."""
    device = torch.device(options["device"])
    forget_peak(device)
    engine = StackedEngine(
        stack,
        sets["train"],
        sets["test"],
        seeds=range(len(stack)),
        learning_rate=LEARNING_RATE,
        batch_size=None,
        **options,
    )
    history = trained(engine, sets, steps)
    wait_for(device)
    began = time.perf_counter()
    trained(engine, sets, steps)
    wait_for(device)
    seconds = (time.perf_counter() - began) / steps / len(stack)
    memory, waited = peak(device), waits(engine) if device.type == "cuda" else None
    return Result(history.loss[:, :-1], seconds, memory, engine.kernel, waited)


def trained(engine: StackedEngine, sets: dict[str, Examples], steps: int) -> History:
    """Train for some more steps, and return the history."""
    recipe = Recipe(learning_rate=LEARNING_RATE, steps=steps, evaluate_every=1, test_every=10)
    history = History.empty(len(engine.active), recipe)
    train(engine, recipe, Progress(0, history), examples=(len(sets["train"]), len(sets["test"])))
    return history


def waits(engine: StackedEngine) -> int:
    """Return how often the host waits for the device in one call of the engine; once is as it should be."""
    plan = [(step, step % 10 == 0) for step in range(1, engine.most_deferred + 1)]
    engine.advance_and_measure(0, plan)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            engine.advance_and_measure(0, plan)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(each.message) for each in caught)


def apart(result: Result, other: Result) -> str:
    """Return the greatest difference of loss curves, and that at the last step, in nats, over common runs."""
    runs = min(len(result.curves), len(other.curves))
    difference = np.abs(result.curves[:runs] - other.curves[:runs])
    return f"{difference.max():.1e}, {difference[:, -1].max():.1e}"


def print_row(name: str, result: Result, plain: Result, runs: int, exact: Result | None = None) -> None:
    """Print the time per step and network, the study's time at that rate, and differences of curves."""
    waits = "" if result.waits is None else str(result.waits)
    print(
        f"  {name:<26}{1e3 * result.seconds:>9.3f} ms{plain.seconds / result.seconds:>8.2f} x"
        f"{result.seconds * runs * STUDY_STEPS:>9.1f} s{result.memory / 1e9:>8.2f} GB{waits:>7}"
        f"{apart(result, exact) if exact else '':>18}{apart(result, plain):>18}",
        flush=True,
    )


def examples_from(options: argparse.Namespace) -> tuple[str, int, dict[str, Examples]]:
    """The data's name, how many classes it has, and both sets, cut to as many examples as were asked for."""
    data = load(options.data, data_dir=options.data_dir)
    count = min(options.examples or len(data.train), len(data.train))
    test = max(1, count * len(data.test) // len(data.train))
    splits = {"train": (data.train, count), "test": (data.test, test)}
    sets = {name: Examples(Pixels(each.pixels[:n]), each.labels[:n]) for name, (each, n) in splits.items()}
    return data.name, data.classes, sets


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_from(arguments)
    device, runs, steps = torch.device(options.device), options.runs, options.steps
    name, classes, sets = examples_from(options)
    inputs = sets["train"].pixels.values.shape[1]
    stack = initial_stack(
        range(runs), options.activation, inputs=inputs, units=options.units, classes=classes
    )
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"{card}, PyTorch {torch.__version__}; {name}, {len(sets['train']):,} images; {options.activation}")
    print(f"  {runs} runs of {options.units} units, full batch; curves over {steps} steps")
    heads = f"{'network-step':>12}{'ratio':>10}{'study':>11}{'memory':>11}{'waits':>7}"
    print(f"  {'':<26}{heads}{'off float32':>18}{'off plain':>18}")

    baseline = plain(stack[0], sets, steps, device)
    print_row("plain PyTorch", baseline, baseline, runs)
    print_row("plain, pixels in reverse", plain(stack[0], sets, steps, device, reverse=True), baseline, runs)
    exact = stacked(stack, sets, steps, device=device, precision="float32")
    print_row("float32", exact, baseline, runs, exact)
    for precision in (each for each in options.precision if each != "float32"):
        result = stacked(stack, sets, steps, device=device, precision=precision)
        print_row(precision + (", one kernel" if result.kernel else ""), result, baseline, runs, exact)
        if result.kernel:
            result = stacked(stack, sets, steps, device=device, precision=precision, kernel=False)
            print_row(f"{precision}, PyTorch alone", result, baseline, runs, exact)


if __name__ == "__main__":
    main()
