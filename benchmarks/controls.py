"""Networks trained on digits, whose architecture fixes what small and large activations mean: what do they cost?

What was expected of each is in docs/validation.md, written and committed before any of them was trained. Each run
is a function of its control and its number, so the command can be stopped at any time and resumed: weights and
costs are kept in the folder of `--state`, then the costs of all runs in results/controls.json. Verdicts are made
from these, by the rules of the package as they are, whenever tables are made.

    python benchmarks/controls.py [--state runs/controls] [--workers 2]   # train and measure
    python benchmarks/controls.py --table                                 # print the tables of what is kept
    python benchmarks/controls.py --write                                 # write them to docs/validation.md
"""

from __future__ import annotations

import argparse
import hashlib
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

import controls_tables
import nearzero as nz
import validation_tables
from nearzero.analysis.verdict import costs
from nearzero.mechanisms.trained import Winner, fixed_readout_network, offset_l2_network, train_by_adam
from nearzero.support.files import atomic, write_text
from nearzero.training.engine import Examples
from nearzero.training.train import Recipe

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "results" / "controls.json"
RUNS = 10
CLASSES, UNITS_PER_CLASS = 10, 8
BATCH, STEPS = 128, 7035  # 15 epochs
MEASURED = 10_000  # images of each set
FAMILIES = ("signed_shift", "shift", "gains", "cap", "noise")
MEASURES = ("accuracy", "centred_accuracy")
DISTANCE, INTENSITY, UNDECIDED = "distance costs more", "intensity costs more", "undecided"
LARGE = (0.3, 0.5)


@dataclass(frozen=True)
class Expected:
    """The expected finding of one comparison: a direction at some displacements, or none at any."""

    finding: str
    targets: tuple[float, ...] = LARGE


@dataclass(frozen=True)
class Control:
    """One architecture, its recipe, and what was expected of it.

    Attributes:
        name: the name in tables.
        activation, winner: of a network with a fixed readout; None for OffsetL2.
        learning_rate: the learning rate at the first step; chosen for the accuracy on test images alone, of a run
            (seed 100) that isn't measured.
        expected: the expected verdict on the network; "undecided" for none in a direction.
        gains, cap: what was expected of them against a signed shift.
    """

    name: str
    expected: str
    gains: Expected
    cap: Expected
    activation: str | None = None
    winner: Winner | None = None
    learning_rate: float = 0.003

    def untrained(self, seed: int) -> nn.Sequential:
        """Return the network with its initial weights."""
        if self.activation is None or self.winner is None:
            return offset_l2_network(inputs=784, units=CLASSES * UNITS_PER_CLASS, classes=CLASSES, seed=seed)
        return fixed_readout_network(
            self.activation,
            self.winner,
            inputs=784,
            units_per_class=UNITS_PER_CLASS,
            classes=CLASSES,
            seed=seed,
        )

    @property
    def recipe(self) -> Recipe:
        """Return the recipe, for Adam with a linearly falling learning rate."""
        return Recipe(learning_rate=self.learning_rate, steps=STEPS, batch_size=BATCH)


CONTROLS = (
    Control("smallest wins, Abs", DISTANCE, Expected(DISTANCE), Expected(DISTANCE), "abs", "smallest"),
    Control("smallest wins, ReLU", DISTANCE, Expected(DISTANCE), Expected(DISTANCE), "relu", "smallest"),
    Control("largest wins, Abs", INTENSITY, Expected(UNDECIDED), Expected(INTENSITY), "abs", "largest"),
    Control("largest wins, ReLU", INTENSITY, Expected(INTENSITY), Expected(INTENSITY), "relu", "largest"),
    Control(
        "OffsetL2", DISTANCE, Expected(UNDECIDED), Expected(DISTANCE, (0.05, 0.1, 0.2)), learning_rate=0.1
    ),
)


# --- training and measuring ---------------------------------------------------------------------------------


@cache
def digits() -> dict[str, Examples]:
    """Return MNIST with normalised pixels: training and held-out images."""
    data = nz.datasets.load("mnist")
    gain, shift = 1 / (data.white * data.std), -data.mean / data.std
    splits = {"training": data.train, "held-out": data.test}
    return {
        name: Examples(nz.Pixels(split.pixels, gain, shift), split.labels) for name, split in splits.items()
    }


def trained(control: Control, run: int, path: Path) -> nn.Sequential:
    """Return one trained network; its weights are kept in a file."""
    network = control.untrained(run)
    if path.exists():
        with np.load(path) as kept:
            network.load_state_dict({name: torch.from_numpy(kept[name]) for name in kept.files})
        return network
    train_by_adam(network, digits()["training"], control.recipe, seed=run)
    with atomic(path) as part, part.open("wb") as file:
        np.savez(file, **{name: weights.numpy() for name, weights in network.state_dict().items()})
    return network


def measured(control: Control, run: int, weights: Path) -> dict[str, Any]:
    """Train and measure one run: return its accuracies and its costs (family, target), by images and measure."""
    torch.set_num_threads(1)
    network = trained(control, run, weights)
    design = nz.Design(families=FAMILIES, first_draw=run * nz.Design().draws)
    place = {"layer": "0"} if control.activation is None else {}
    record: dict[str, Any] = {"run": run}
    for name, examples in digits().items():
        with torch.no_grad():
            predicted = network(torch.from_numpy(examples.pixels.dense())).argmax(dim=1).numpy()
        pixels = nz.Pixels(examples.pixels.values[:MEASURED], examples.pixels.gain, examples.pixels.shift)
        responses = nz.matched(network, pixels, examples.labels[:MEASURED], design=design, threads=1, **place)
        record[name] = {
            "all": float(np.mean(predicted == examples.labels)),
            "unperturbed": float(responses.unperturbed_accuracy),
            **{measure: rounded(costs(responses, measure)) for measure in MEASURES},
        }
    return record


def rounded(values: xr.DataArray) -> list[list[float | None]]:
    """Return costs (family, target), to 1e-4 points; None where a displacement isn't reached."""
    rows = values.transpose("family", "target").values.round(4)
    return [[None if np.isnan(cost) else float(cost) for cost in row] for row in rows]


class State:
    """The kept runs: a file with weights and a file with costs for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, control: Control, run: int, suffix: str) -> Path:
        """Return the file of a run, named by a digest of all settings that it depends on."""
        architecture = control.activation, control.winner, CLASSES, UNITS_PER_CLASS
        settings = [architecture, asdict(control.recipe), MEASURED, FAMILIES]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        name = control.name.replace(", ", "_").replace(" ", "-").lower()
        return self.folder / f"{name}-{digest}-{run}.{suffix}"

    def complete(self, control: Control, run: int) -> dict[str, Any]:
        """Return the record of a run, which is made if it isn't kept."""
        path = self.path(control, run, "json")
        if not path.exists():
            record = measured(control, run, self.path(control, run, "npz"))
            write_text(path, json.dumps(record))
        return dict(json.loads(path.read_text()))


def complete_all(state: State, workers: int) -> dict[str, Any]:
    """Train and measure what is missing, and return the results to keep."""
    runs = [(control, run) for run in range(RUNS) for control in CONTROLS]
    with ProcessPoolExecutor(workers) as pool:
        jobs = {pool.submit(state.complete, *each): each for each in runs}
        for done, job in enumerate(as_completed(jobs), 1):
            control, run = jobs[job]
            print(
                f"{control.name}, run {run}: {done} of {len(jobs)}, {job.result()['held-out']['all']:.4f}",
                flush=True,
            )
    return {
        "command": "python benchmarks/controls.py",
        "data": "mnist",
        "recipe": {
            "optimiser": "Adam, learning rate falling linearly to 0",
            "steps": STEPS,
            "batch_size": BATCH,
        },
        "images": MEASURED,
        "families": FAMILIES,
        "targets": nz.Design().targets,
        "controls": [
            asdict(control) | {"runs": [state.complete(control, run) for run in range(RUNS)]}
            for control in CONTROLS
        ],
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--state", type=Path, default=ROOT / "runs" / "controls", help="(runs/controls)")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument(
        "--table", action="store_true", help="print the tables of what is kept, train and measure nothing"
    )
    parser.add_argument("--write", action="store_true", help="put them into docs/validation.md")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if not options.table and not options.write:
        KEPT.write_text(json.dumps(complete_all(State(options.state), options.workers)) + "\n")
    tables = controls_tables.tables(json.loads(KEPT.read_text()))
    if options.write:
        validation_tables.write(tables)
    else:
        print("\n\n".join(tables.values()))


if __name__ == "__main__":
    main()
