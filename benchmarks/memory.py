"""The peak memory of sweeps and trainings, each in a process of its own, without PyTorch.

The memory that the other benchmarks print includes PyTorch and the baseline's data. Here it's that of
nearzero alone; the first line is the memory of Python and the data before anything is computed.

    python benchmarks/memory.py [--data-dir DIR]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

import nearzero as nz
from nearzero.networks import Stack
from nearzero.training.engine import Examples
from nearzero.training.fused import FusedEngine

WORK = ("nothing", "sweep", "training", "mini-batches")
CASES: tuple[tuple[str, dict[str, int]], ...] = (
    ("nothing", {}),
    *(("sweep", {"units": units}) for units in (128, 512)),
    *(("sweep", {"levels": levels}) for levels in (650, 1300)),
    *(("training", {"runs": runs}) for runs in (1, 4, 20)),
    ("training", {"units": 512}),
    ("mini-batches", {"runs": 20}),
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="a data set's name (mnist)")
    parser.add_argument("--data-dir", type=Path, help="the folder of its files")
    parser.add_argument("--only", choices=WORK, help="do this in the present process, and print its memory")
    parser.add_argument("--levels", type=int, help="of clip alone, instead of the paper's 325")
    parser.add_argument("--units", type=int, default=128, help="hidden units (128)")
    parser.add_argument("--runs", type=int, default=1, help="networks trained at a time (1)")
    return parser.parse_args()


def random_stack(options: argparse.Namespace, data: nz.datasets.Dataset) -> Stack:
    """Return a stack of random weights, drawn by NumPy, since PyTorch's initialisation would import it."""
    rng = np.random.default_rng(0)
    runs, units, inputs, classes = options.runs, options.units, data.train.pixels.shape[1], data.classes
    shapes = (runs, units, inputs), (runs, units), (runs, classes, units), (runs, classes)
    w1, b1, w2, b2 = (rng.normal(0, 0.01, shape).astype(np.float32) for shape in shapes)
    return Stack(w1, b1, w2, b2, ("abs",) * len(w1))


def sweep(options: argparse.Namespace, data: nz.datasets.Dataset) -> None:
    network = random_stack(options, data)[0]
    if options.levels is None:
        nz.sweep(network, data.train.pixels, data.train.labels)
    else:
        levels = np.logspace(-2, 1, options.levels)
        nz.sweep(network, data.train.pixels, data.train.labels, family="clip", levels=levels)


def train(options: argparse.Namespace, data: nz.datasets.Dataset, batch_size: int | None) -> None:
    """Measure on both sets, and apply two updates."""
    sets = [Examples(nz.Pixels(split.pixels), split.labels) for split in (data.train, data.test)]
    stack, seeds = random_stack(options, data), range(options.runs)
    engine = FusedEngine(stack, *sets, seeds=seeds, learning_rate=1e-6, batch_size=batch_size)
    for which in ("train", "test"):
        engine.measure(which)
    engine.advance(0, 2)


def peak() -> int:
    """Return the peak memory of this process in bytes.

    It's read from /proc if possible, since a child's resource usage begins with its parent's.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def work(options: argparse.Namespace) -> None:
    data = nz.datasets.load(options.data, data_dir=options.data_dir)
    if options.only == "sweep":
        sweep(options, data)
    elif options.only != "nothing":
        train(options, data, 256 if options.only == "mini-batches" else None)
    assert "torch" not in sys.modules
    print(peak())


def memory_of(name: str, sizes: dict[str, int], options: argparse.Namespace) -> int:
    """Return the peak memory of some work in bytes, in a process of its own."""
    command = [sys.executable, __file__, f"--only={name}", f"--data={options.data}"]
    command += [f"--data-dir={options.data_dir}"] if options.data_dir else []
    command += [f"--{option}={size}" for option, size in sizes.items()]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    options = arguments()
    if options.only:
        work(options)
        return
    print("memory at most, of nearzero alone")
    for name, sizes in CASES:
        words = ", ".join(f"{option} {size:,}" for option, size in sizes.items())
        print(f"  {name:<14}{words:<14}{memory_of(name, sizes, options) / 1e9:>6.2f} GB", flush=True)


if __name__ == "__main__":
    main()
