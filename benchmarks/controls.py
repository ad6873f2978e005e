"""Networks trained on digits, whose architecture fixes what small and large activations mean: what do they cost?

What was expected of each is in docs/controls.md, written and committed before any of them was trained. Each run
is a function of its control and its number, so the command can be stopped at any time and resumed: weights and
responses are kept in the folder of `--state`, then the responses of all runs in results/controls.nc. Verdicts are
made from these, by the default rules of the package as it is, whenever tables are made (`controls_tables`). After a
change of the package, remove the responses from the folder (*.nc) to measure the same networks again.

    python benchmarks/controls.py [--state runs/controls] [--workers 2]   # train and measure
    python benchmarks/controls.py --table                                 # print the tables of what is kept
    python benchmarks/controls.py --write                                 # write them to docs/controls.md
"""

from __future__ import annotations

import argparse
import hashlib
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import nn

import controls_tables
import nearzero as nz
import validation_tables
from nearzero.analysis.verdict import gathered
from nearzero.mechanisms.trained import Winner, fixed_readout_network, offset_l2_network, train_by_adam
from nearzero.support.files import atomic
from nearzero.training.engine import Examples
from nearzero.training.train import Recipe

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "results" / "controls.nc"
RUNS = 10
CLASSES, UNITS_PER_CLASS = 10, 8
BATCH, STEPS = 128, 7035  # 15 epochs
MEASURED = 10_000  # images of each set
FAMILIES = ("signed_shift", "shift", "gains", "cap", "noise")


@dataclass(frozen=True)
class Control:
    """One architecture and its recipe.

    Attributes:
        name: the name in tables.
        activation, winner: of a network with a fixed readout; None for OffsetL2.
        learning_rate: of Adam, at the first step; it falls linearly to 0. Chosen for the accuracy on test images
            alone, of a run (seed 100) that isn't measured.
    """

    name: str
    activation: str | None = None
    winner: Winner | None = None
    learning_rate: float = 0.003

    def untrained(self, seed: int) -> nn.Sequential:
        """Return the network with its initial weights."""
        sizes = {"inputs": 784, "classes": CLASSES, "seed": seed}
        if self.activation is None or self.winner is None:
            return offset_l2_network(units=CLASSES * UNITS_PER_CLASS, **sizes)
        return fixed_readout_network(self.activation, self.winner, units_per_class=UNITS_PER_CLASS, **sizes)

    @property
    def recipe(self) -> Recipe:
        """Return the recipe."""
        return Recipe(learning_rate=self.learning_rate, steps=STEPS, batch_size=BATCH)


CONTROLS = (
    Control("smallest wins, Abs", "abs", "smallest"),
    Control("smallest wins, ReLU", "relu", "smallest"),
    Control("largest wins, Abs", "abs", "largest"),
    Control("largest wins, ReLU", "relu", "largest"),
    Control("OffsetL2", learning_rate=0.1),
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
    torch.set_num_threads(1)
    network = control.untrained(run)
    if path.exists():
        with np.load(path) as kept:
            network.load_state_dict({name: torch.from_numpy(kept[name]) for name in kept.files})
        return network
    train_by_adam(network, digits()["training"], control.recipe, seed=run)
    with atomic(path) as part, part.open("wb") as file:
        np.savez(file, **{name: weights.numpy() for name, weights in network.state_dict().items()})
    return network


def measured(control: Control, run: int, network: nn.Sequential) -> xr.Dataset:
    """Return the responses of one run: levels from training images, responses of training and held-out images."""
    first = {
        name: (
            nz.Pixels(each.pixels.values[:MEASURED], each.pixels.gain, each.pixels.shift),
            each.labels[:MEASURED],
        )
        for name, each in digits().items()
    }
    design = nz.Design(families=FAMILIES, first_draw=run * nz.Design().draws)
    place = {"layer": "0"} if control.activation is None else {}
    responses = nz.matched(
        network, *first["training"], design=design, held_out=first["held-out"], threads=1, **place
    )
    for name, examples in digits().items():
        with torch.no_grad():
            predicted = network(torch.from_numpy(examples.pixels.dense())).argmax(dim=1).numpy()
        responses[f"{name.replace('-', '_')}_accuracy"] = float(np.mean(predicted == examples.labels))
    return responses


class State:
    """The kept runs: a file with the weights and a file with the responses of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def weights(self, control: Control, run: int) -> Path:
        """Return the file of a run's weights, named by a digest of all settings that they depend on."""
        settings = control.activation, control.winner, CLASSES, UNITS_PER_CLASS, asdict(control.recipe)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        name = control.name.replace(", ", "_").replace(" ", "-").lower()
        return self.folder / f"{name}-{digest}-{run}.npz"

    def responses(self, control: Control, run: int) -> Path:
        """Return the file of a run's responses, named by a digest of the design too."""
        digest = hashlib.sha256(json.dumps([MEASURED, FAMILIES]).encode()).hexdigest()[:8]
        return self.weights(control, run).with_suffix(f".{digest}.nc")

    def complete(self, control: Control, run: int) -> xr.Dataset:
        """Return the responses of a run, which is trained and measured if they aren't kept."""
        path = self.responses(control, run)
        if not path.exists():
            responses = measured(control, run, trained(control, run, self.weights(control, run)))
            with atomic(path) as part:
                responses.to_netcdf(part, engine="h5netcdf")
        with xr.open_dataset(path, engine="h5netcdf") as kept:
            return kept.load()


def complete_all(state: State, workers: int) -> xr.Dataset:
    """Train and measure what is missing, and return all responses on (network, run, ...)."""
    runs = [(control, run) for run in range(RUNS) for control in CONTROLS]
    with ProcessPoolExecutor(workers) as pool:
        jobs = {pool.submit(state.complete, *each): each for each in runs}
        for done, job in enumerate(as_completed(jobs), 1):
            control, run = jobs[job]
            accuracy = float(job.result().held_out_accuracy)
            print(f"{control.name}, run {run}: {done} of {len(jobs)}, {accuracy:.4f}", flush=True)
    parts = [[state.complete(control, run) for run in range(RUNS)] for control in CONTROLS]
    activations = [control.activation or "none" for control in CONTROLS]
    responses = gathered(parts, [control.name for control in CONTROLS])
    return responses.assign_coords(activation=("network", activations))


def keep(responses: xr.Dataset) -> None:
    """Write the responses, compressed."""
    packed = {
        str(name): {"zlib": True} for name, each in responses.items() if each.ndim and each.dtype.kind == "f"
    }
    with atomic(KEPT) as part:
        responses.to_netcdf(part, engine="h5netcdf", encoding=packed)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--state", type=Path, default=ROOT / "runs" / "controls", help="(runs/controls)")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument(
        "--table", action="store_true", help="print the tables of what is kept, train and measure nothing"
    )
    parser.add_argument("--write", action="store_true", help="put them into docs/controls.md")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if not options.table and not options.write:
        keep(complete_all(State(options.state), options.workers))
    with xr.open_dataset(KEPT, engine="h5netcdf") as kept:
        tables = controls_tables.tables(kept.load())
    if options.write:
        validation_tables.write(tables, "controls.md")
    else:
        print("\n\n".join(tables.values()))


if __name__ == "__main__":
    main()
