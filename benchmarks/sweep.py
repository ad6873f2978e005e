"""The time of a sweep of one network over the paper's 325 levels, against plain PyTorch in the same process.

The baseline does what the published study does: for every level a full forward pass over all training images,
with the perturbation as a layer of the network, and the accuracy. By default it does so at some evenly spaced
levels of each family, and its time is scaled to all levels, since every pass takes the same time. The time of
nearzero includes everything from pixels and weights to the accuracies at all levels.

    python benchmarks/sweep.py [--data-dir DIR] [--rounds 3] [--levels-timed 13 | --whole] [--growth]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

import nearzero as nz
import timing
from nearzero.networks import Stack, initial_stack
from nearzero.networks.modules import PerturbationLayer
from nearzero.support.threads import thread_count
from nearzero.training.engine import Examples
from nearzero.training.fused import FusedEngine

LEVELS = {name: nz.make_family(name, nz.Conduct()).levels for name in ("offset", "scale", "clip")}
ALL_LEVELS = sum(len(levels) for levels in LEVELS.values())
TRAINING_STEPS = 2000  # of 256 images, a few seconds: enough for the units of a trained network
NEAR = 1e-5  # near ties: the two greatest logits differ by less than this share of the greatest in size

Levels = npt.NDArray[np.float64]
Predictions = npt.NDArray[np.int32]


def arguments() -> argparse.Namespace:
    parser = timing.options_for(__doc__.splitlines()[0], rounds=3)
    parser.add_argument("--activations", nargs="+", default=["abs", "relu"], help="(abs relu)")
    parser.add_argument("--levels-timed", type=int, default=13, help="of a family, in plain PyTorch (13)")
    parser.add_argument("--whole", action="store_true", help="time plain PyTorch at every level")
    return parser.parse_args()


def initial(train: Examples, activation: str, units: int = 128) -> nz.TwoLayer:
    inputs, classes = train.pixels.values.shape[1], int(train.labels.max()) + 1
    return initial_stack([0], activation, inputs=inputs, units=units, classes=classes)[0]


def trained(train: Examples, test: Examples, activation: str) -> nz.TwoLayer:
    stack = Stack.of([initial(train, activation)])
    engine = FusedEngine(stack, train, test, seeds=[0], learning_rate=0.001, batch_size=256)
    engine.advance(0, TRAINING_STEPS)
    return engine.stack()[0]


class Plain:
    """The sweep in plain PyTorch: a forward pass for each perturbation."""

    def __init__(self, network: nz.TwoLayer, examples: Examples) -> None:
        self.x, self.y = torch.from_numpy(examples.pixels.dense()), torch.from_numpy(examples.labels)
        self.hidden, self.act, self.output = network.to_module()
        self.units = network.units

    def perturbed(self, perturbation: nz.Perturbation) -> torch.nn.Sequential:
        layer = PerturbationLayer(perturbation, self.units)
        middle = [layer, self.act] if perturbation.side == "pre" else [self.act, layer]
        return torch.nn.Sequential(self.hidden, *middle, self.output)

    @torch.no_grad()
    def accuracies(self, perturbations: list[nz.Perturbation]) -> list[float]:
        passes = (self.perturbed(each)(self.x) for each in perturbations)
        return [(logits.argmax(1) == self.y).float().mean().item() for logits in passes]

    @torch.no_grad()
    def differences(self, perturbation: nz.Perturbation, predictions: Predictions) -> tuple[int, int]:
        """Return the number of predictions that differ from PyTorch's, and how many of them are near ties."""
        module = self.perturbed(perturbation)
        different = np.flatnonzero(module(self.x).argmax(1).numpy() != predictions)
        exact = copy.deepcopy(module).double()(self.x[different].double())
        top = exact.topk(2, dim=1).values
        near = (top[:, 0] - top[:, 1]) < NEAR * exact.abs().amax(dim=1)
        return len(different), int(near.sum())


class Case:
    """One network, and the evenly spaced levels at which plain PyTorch is timed."""

    def __init__(self, network: nz.TwoLayer, examples: Examples, count: int | None) -> None:
        self.network, self.examples = network, examples
        self.plain = Plain(network, examples)
        ranges, conduct = nz.unit_ranges(network, examples.pixels), nz.Conduct.default([network.activation])
        self.levels = {name: evenly(levels, count or len(levels)) for name, levels in LEVELS.items()}
        self.perturbations = {
            name: [nz.make_family(name, conduct).at(level, ranges) for level in levels]
            for name, levels in self.levels.items()
        }

    def times(self, rounds: int) -> dict[tuple[str, str], float]:
        """Return the seconds of both programs for each family, and of nearzero for all families at once.

        Those of plain PyTorch are scaled to all levels.
        """
        sweep = partial(nz.sweep, self.network, self.examples.pixels, self.examples.labels)
        cases: dict[tuple[str, str], Callable[[], object]]
        cases = {("nearzero", name): partial(sweep, family=name) for name in LEVELS}
        cases["nearzero", "all"] = partial(sweep, family=list(LEVELS))
        for name, each in self.perturbations.items():
            cases["plain", name] = partial(self.plain.accuracies, each)
        times = timing.best(cases, rounds)
        for name, levels in self.levels.items():
            times["plain", name] *= len(LEVELS[name]) / len(levels)
        return times

    def operations(self, names: Iterable[str]) -> float:
        """Return the multiplications and additions of a sweep: z on nonzero pixels, and the readouts.

        Abs and ReLU pass a common scale of all units on to the logits, so there is one readout for all levels
        of scale. The same holds for the levels of clip above 100 %, which no example reaches. The other
        levels are on affine paths: each unit is added twice, in two pieces of two sums, and a level takes one
        product per class.
        """
        units, own = self.network.units, {name: LEVELS[name] for name in names}
        if self.network.act.homogeneous:
            lines = [len([level for level in own[name] if level <= 1]) for name in own if name != "scale"]
            each = units + sum(4 * units + levels for levels in lines)
        else:
            each = units * (1 + sum(map(len, own.values())))
        readouts = len(self.examples) * self.network.classes * each
        return 2.0 * (units * np.count_nonzero(self.examples.pixels.values) + readouts)

    def dense_operations(self) -> float:
        """Return the operations of a full forward pass at every level."""
        network = self.network
        return 2.0 * len(self.examples) * network.units * (network.inputs + network.classes) * ALL_LEVELS

    def compare(self) -> None:
        """Compare the predictions at these levels with those of plain PyTorch."""
        differences: list[tuple[int, int]] = []
        sweep = partial(nz.sweep, self.network, self.examples.pixels, keep_predictions=True)
        for name, levels in self.levels.items():
            predictions = sweep(family=name, levels=levels).predictions.values
            differences += map(self.plain.differences, self.perturbations[name], predictions)
        different, near = (sum(column) for column in zip(*differences, strict=True))
        count = len(differences) * len(self.examples)
        print(f"  {count:,} predictions compared: {different} differ, {near} of these near ties", flush=True)


def evenly(levels: Levels, count: int) -> Levels:
    places = np.linspace(0, len(levels) - 1, min(count, len(levels)))
    return np.asarray(levels[places.round().astype(int)])


def against_plain(case: Case, rounds: int) -> None:
    times = case.times(rounds)
    plain = {name: times["plain", name] for name in LEVELS}
    plain["all"] = sum(plain.values())
    timed = sum(len(levels) for levels in case.levels.values())
    note = "" if timed == ALL_LEVELS else f", timed at {timed} levels and scaled"
    print(
        f"{case.network.activation}, {len(case.examples):,} images, {ALL_LEVELS} levels: one network, all accuracies"
    )
    dense = f"{case.dense_operations() / plain['all'] / 1e9:.0f} GFLOP/s"
    timing.print_row("plain PyTorch", plain["all"], plain["all"], dense + note)
    for name, title in {"all": "nearzero", **{name: f"nearzero, {name} alone" for name in LEVELS}}.items():
        time_ = times["nearzero", name]
        rate = case.operations(LEVELS if name == "all" else [name]) / time_
        timing.print_row(title, time_, plain[name], f"{rate / 1e9:.0f} GFLOP/s")
    timing.print_machine(case.operations(LEVELS), plain["all"])


def growth(train: Examples, activation: str, rounds: int) -> None:
    """Print the growth of a sweep's time with levels, units, examples and networks, and the gain of threads."""
    network = initial(train, activation)

    def levels(count: int) -> None:
        nz.sweep(network, train.pixels, train.labels, family="clip", levels=np.logspace(-2, 0, count))

    def units(count: int) -> None:
        nz.sweep(wide[count], train.pixels, train.labels)

    def examples(count: int) -> None:
        part = timing.first_examples(train, count)
        nz.sweep(network, part.pixels, part.labels)

    def networks(count: int) -> None:
        for _ in range(count):
            nz.sweep(network, train.pixels, train.labels)

    def threads(count: int) -> None:
        nz.sweep(network, train.pixels, train.labels, threads=count)

    wide = {count: initial(train, activation, count) for count in (64, 128, 256, 512)}
    sizes = {
        levels: (41, 81, 162, 325, 650),
        units: tuple(wide),
        examples: (len(train) // 4, len(train) // 2, len(train)),
        networks: (1, 2, 4),
        threads: tuple({1, thread_count()}),
    }
    print(
        f"how a sweep's cost grows, from 1 network, 128 units, {ALL_LEVELS} levels and {len(train):,} examples"
    )
    print("(other numbers of levels: of clip alone, up to 100 %)")
    timing.print_growth(
        {(case.__name__, size): partial(case, size) for case, counts in sizes.items() for size in counts},
        rounds,
    )


def main() -> None:
    options = arguments()
    train, test = timing.begin(options)
    for activation in options.activations:
        case = Case(trained(train, test, activation), train, None if options.whole else options.levels_timed)
        against_plain(case, options.rounds)
        case.compare()
    if options.growth:
        growth(train, options.activations[0], options.rounds)
    timing.print_memory()


if __name__ == "__main__":
    main()
