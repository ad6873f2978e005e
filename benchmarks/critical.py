"""The time and memory of critical levels, against a search of all levels in steps of 1e-4 in plain PyTorch.

The networks are those of the kept study; leaky ReLU and others are trained here for a few seconds. The search
does without the algebra: z once, then for each level of the family's declared range, in steps of 1e-4, the
activation and the output layer in float64, and the first class with the greatest logit. It has one thread,
and its processor seconds on a few examples are scaled to all. The time of nearzero includes everything from
pixels to intervals; its processor seconds are those of all threads together. The ratio is that of processor
seconds.

    python benchmarks/critical.py [--data-dir DIR] [--rounds 2] [--activations relu abs leaky_relu]
        [--searched 20] [--check 300] [--figures FOLDER]

With --check N the intervals of N examples are compared with that search, level by level: how many predictions
differ, and how many intervals lie between two of its levels; these windows are listed. All examples are
compared with a sweep at the family's own levels, in float64 and in float32 (`nz.sweep`): how many predictions
differ; where they do in float32, the widest gap between the two logits, as a share of the greatest; and by
how many examples the accuracies differ, summed over levels. With --figures the two figures are drawn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import nearzero as nz
import timing
from nearzero.networks.modules import activation_module
from nearzero.support.threads import thread_count
from nearzero.training.engine import Examples
from sweep import trained

FAMILIES = ("scale", "clip", "offset", "shift")
RESOLUTION = 1e-4
DOTS_PER_INCH = 200  # of the figures
BATCH_BYTES = 2**22  # of the activations of one batch of the search

Doubles = npt.NDArray[np.float64]
Classes = npt.NDArray[np.integer]


def arguments() -> argparse.Namespace:
    parser = timing.options_for(__doc__.splitlines()[0], rounds=2)
    parser.add_argument(
        "--activations", nargs="+", default=["relu", "abs", "leaky_relu"], help="(relu abs leaky_relu)"
    )
    parser.add_argument(
        "--study", type=Path, default=Path("results/paper"), help="the kept study (results/paper)"
    )
    parser.add_argument("--run", type=int, default=0, help="which of its runs (0)")
    parser.add_argument("--searched", type=int, default=20, help="examples of the plain search (20)")
    parser.add_argument(
        "--check", type=int, default=0, metavar="N", help="compare N examples with that search"
    )
    parser.add_argument("--figures", type=Path, help="a folder to draw the figures into")
    return parser.parse_args()


class Search:
    """A search of a family's levels in plain PyTorch and float64; parameters are affine in the level."""

    def __init__(
        self, network: nz.TwoLayer, pixels: npt.NDArray[np.uint8], family: nz.Family, ranges: nz.Ranges
    ) -> None:
        module = network.to_module().double()
        self.act, self.output = activation_module(network.activation), module[2]
        zero, one = (family.at(level, ranges) for level in (0.0, 1.0))
        self.after = zero.side == "post"
        self.begin, self.step = {}, {}
        for name in ("scale", "offset", "clip"):
            begin, end = (np.broadcast_to(getattr(each, name), network.units).copy() for each in (zero, one))
            self.begin[name] = torch.from_numpy(begin)
            end[~np.isfinite(begin)] = 0.0  # no clip, at any level
            self.step[name] = torch.from_numpy(end - np.where(np.isfinite(begin), begin, 0.0))
        with torch.no_grad():
            self.z = module[0](torch.from_numpy(pixels).double())

    def levels(self, low: float, high: float) -> Doubles:
        return low + np.arange(round((high - low) / RESOLUTION) + 1) / round(1 / RESOLUTION)

    @torch.no_grad()
    def logits(self, levels: Doubles) -> torch.Tensor:
        """Return the logits at some levels, (L, n, K)."""
        p = torch.from_numpy(levels)[:, None, None]
        scale, offset, clip = (self.begin[name] + p * self.step[name] for name in ("scale", "offset", "clip"))
        x = self.act(self.z) if self.after else self.z
        y = torch.minimum(scale * x + offset, clip)
        return self.output(y if self.after else self.act(y))

    def predictions(self, levels: Doubles) -> Classes:
        """Return the predictions at some levels, (L, n)."""
        size = max(1, BATCH_BYTES // (8 * self.z.numel()))
        parts = np.split(levels, range(size, len(levels), size))
        return np.concatenate([self.logits(part).argmax(dim=2).numpy() for part in parts])


class Case:
    """A network and a family."""

    def __init__(self, network: nz.TwoLayer, examples: Examples, ranges: nz.Ranges, family: str) -> None:
        self.network, self.examples, self.ranges, self.name = network, examples, ranges, family
        self.conduct = nz.Conduct.default([network.activation])
        self.family = nz.make_family(family, self.conduct)

    def find(self, **bounds: float) -> nz.CriticalLevels:
        return nz.critical_levels(
            self.network, self.examples.pixels, family=self.name, conduct=self.conduct, **bounds
        )

    def search(self, rows: slice | Classes) -> Search:
        return Search(self.network, self.examples.pixels.values[rows], self.family, self.ranges)


def timed(case: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return the seconds, and the processor seconds of all threads, of the best rounds."""
    times = []
    for _ in range(rounds):
        time.sleep(0.25)  # PyTorch's threads keep spinning for a while after their work
        start, before = time.perf_counter(), time.process_time()
        case()
        times.append((time.perf_counter() - start, time.process_time() - before))
    return min(wall for wall, _ in times), min(cpu for _, cpu in times)


def stored_bytes(found: nz.CriticalLevels) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return found.save(Path(folder) / "levels.npz").stat().st_size


def measure(case: Case, rounds: int, searched: int) -> nz.CriticalLevels:
    """Print a line with time and memory, and return the critical levels."""
    count = len(case.examples)
    found = case.find()
    plain = case.search(slice(0, searched))
    levels = plain.levels(found.low, found.high)
    wall, cpu = timed(case.find, rounds)
    search = timed(lambda: plain.predictions(levels), rounds)[1] * count / searched
    held = found.first.nbytes + found.starts.nbytes + found.classes.nbytes + found.unperturbed.nbytes
    print(
        f"  {case.name:<8}{wall:>8.2f} s{cpu:>8.2f} s{search:>11,.0f} s{search / cpu:>8,.0f} x"
        f"{len(found.starts) / count:>11.2f}{held / count:>8.1f}{stored_bytes(found) / count:>10.1f}",
        flush=True,
    )
    return found


def check_search(case: Case, found: nz.CriticalLevels, count: int) -> list[str]:
    """Print a line that compares evenly spaced examples with the search at every level.

    Returns a description of each window, an interval between two levels of the search, which is checked in
    its middle.
    """
    rows = np.linspace(0, len(found) - 1, count).astype(int)
    plain = case.search(rows)
    levels = plain.levels(found.low, found.high)
    searched = plain.predictions(levels)
    different = 0
    windows = []
    for column, n in enumerate(rows):
        part = slice(found.first[n], found.first[n + 1])
        starts, ends, classes = found.starts[part], found.ends[part], found.classes[part]
        places = np.searchsorted(starts, levels, side="right") - 1
        different += int((classes[places] != searched[:, column]).sum())
        for unseen in np.setdiff1d(np.arange(len(starts)), places):
            middle = (starts[unseen : unseen + 1] + ends[unseen]) / 2
            held = case.search(np.array([n])).predictions(middle)[0, 0] == classes[unseen]
            windows.append(
                f"{case.name}, example {n}: {classes[unseen]} from {starts[unseen]:.9f} to {ends[unseen]:.9f}, "
                f"{'confirmed' if held else 'NOT CONFIRMED'} in its middle"
            )
    print(f"  {case.name:<8}{count:>10,}{searched.size:>14,}{different:>9}{len(windows):>11}", flush=True)
    return windows


def check_sweep(case: Case) -> None:
    """Print a line that compares all examples with the sweep at its levels, and with the same in float64."""
    labels, grid = case.examples.labels, case.family.levels
    found = case.find(low=grid[0], high=grid[-1])
    pixels = case.examples.pixels
    sweep = nz.sweep(
        case.network, pixels, labels, family=case.name, conduct=case.conduct, keep_predictions=True
    )
    plain = case.search(slice(None))
    different, exact, widest = 0, 0, 0.0
    for place, level in enumerate(grid):
        mine, theirs = found.predict(level), sweep.predictions.values[place]
        logits = plain.logits(np.array([level]))[0].numpy()
        exact += int((logits.argmax(axis=1) != mine).sum())
        rows = np.flatnonzero(mine != theirs)
        different += len(rows)
        gaps = (logits[rows].max(axis=1) - logits[rows, theirs[rows]]) / np.abs(logits[rows]).max(axis=1)
        widest = max(widest, float(gaps.max(initial=0.0)))
    curve = np.abs(found.accuracy(grid, labels) - sweep.accuracy.values) * len(labels)
    gap = f"{widest:.1e}" if different else "-"
    print(
        f"  {case.name:<8}{len(labels):>10,}{len(grid) * len(labels):>14,}{exact:>9}{different:>11}{gap:>12}"
        f"{curve.sum():>10.0f}",
        flush=True,
    )


def check(cases: list[Case], found: dict[str, nz.CriticalLevels], count: int) -> None:
    """Print two tables: the comparison with the search and its windows, and that with the sweep."""
    print(f"  {'search':<8}{'examples':>10}{'predictions':>14}{'differ':>9}{'windows':>11}")
    windows = [line for case in cases for line in check_search(case, found[case.name], count)]
    print(*(f"    {line}" for line in windows), sep="\n", end="\n" if windows else "")
    print(
        f"  {'sweep':<8}{'examples':>10}{'predictions':>14}{'float64':>9}{'float32':>11}{'gap':>12}", end=""
    )
    print(f"{'accuracy':>10}")
    for case in cases:
        check_sweep(case)


def network_of(
    activation: str, options: argparse.Namespace, train: Examples, test: Examples
) -> tuple[nz.TwoLayer, str]:
    kept = options.study / "networks" / f"{activation}-{options.run:02}.safetensors"
    if options.data == "mnist" and kept.exists():
        network = nz.Study.open(options.study).network(activation, options.run)
        return network, f"run {options.run} of {options.study}"
    return trained(train, test, activation), "trained here"


def draw(folder: Path, found: dict[str, dict[str, nz.CriticalLevels]], examples: Examples) -> None:
    from nearzero.report.figures.critical import breaking_figure, critical_figure

    folder.mkdir(parents=True, exist_ok=True)
    critical_figure(found).savefig(folder / "critical_levels.png", dpi=DOTS_PER_INCH)
    for activation, each in found.items():
        figure = breaking_figure(each, examples.pixels.values, examples.labels)
        figure.savefig(folder / f"first_to_break_{activation}.png", dpi=DOTS_PER_INCH)


def main() -> None:
    options = arguments()
    train, test = timing.begin(options)
    torch.set_num_threads(1)
    cases: dict[str, list[Case]] = {}
    found: dict[str, dict[str, nz.CriticalLevels]] = {}
    for activation in options.activations:
        network, source = network_of(activation, options, train, test)
        ranges = nz.unit_ranges(network, train.pixels)
        cases[activation] = [Case(network, train, ranges, family) for family in FAMILIES]
        print(f"{activation} ({source}), {len(train):,} examples, {thread_count()} threads")
        print(f"  {'':<8}{'time':>10}{'CPU':>10}{'search, CPU':>13}{'ratio':>10}", end="")
        print(f"{'intervals':>11}{'bytes':>8}{'on disk':>10}  an example")
        found[activation] = {
            case.name: measure(case, options.rounds, options.searched) for case in cases[activation]
        }
    timing.print_memory()
    for activation in options.activations if options.check else ():
        print(f"{activation}, checked")
        check(cases[activation], found[activation], options.check)
    if options.figures:
        draw(options.figures, found, train)


if __name__ == "__main__":
    main()
