"""The networks of a grid: trained where they aren't there yet, read, and measured.

Those of a study's own shape are trained by that study, in a folder named by its spec's digest, so that grids with a
study in common train it once. Deeper ones lie beside it, a file each. The measurements of all networks become one
Dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from nearzero.analysis.matched import Design, matched
from nearzero.analysis.verdict import gathered
from nearzero.errors import InputError
from nearzero.evaluators.base import HALVES
from nearzero.grid.spec import GridSpec, Point
from nearzero.networks import TwoLayer
from nearzero.study import Study
from nearzero.study.data import DataSource
from nearzero.study.jobs import Job, MeasureJob, Results, digest, gather, missing, run
from nearzero.study.journal import Journal
from nearzero.study.spec import Spec, spec_digest
from nearzero.study.store import Store
from nearzero.support.files import make_folder, write_bytes
from nearzero.support.threads import one_torch_thread, thread_count
from nearzero.training.deep import deep_network, train_deep
from nearzero.training.engine import Examples
from nearzero.training.train import NEVER

__all__ = ["DeepJob", "GridJob", "Networks", "assembled", "grid_jobs", "measured"]

KEPT = ("level", "displacement", "accuracy", "agreement", "unperturbed_accuracy", "dead_units")
BATCH = 2000  # examples of a deep network at a time


@dataclass(frozen=True)
class DeepJob(Job):
    """The training of one network of several hidden layers, which leaves its file.

    Attributes:
        point: of the grid.
        data: of the point's study.
    """

    point: Point
    data: DataSource

    @property
    def path(self) -> Path:
        """Return the path of the network."""
        folder = f"{spec_digest(self.point.spec)[:12]}-{self.point.layers}-layers"
        return self.folder / folder / f"{self.network}-{self.run:02d}.safetensors"

    @property
    def done(self) -> bool:
        """Return whether the file is there; `read` refuses a damaged one."""
        return self.path.exists()

    def do(self) -> None:
        """Train, and write the network."""
        spec, network = self.point.spec, self._initial()
        examples = self.data.examples(spec)["train"]
        with one_torch_thread():
            train_deep(network, examples, spec.recipe, seed=spec.seeds[self.run], device=spec.device)
        make_folder(self.path.parent)
        write_bytes(self.path, save_tensors(network.state_dict()))

    def read(self) -> nn.Sequential | None:
        """Return the trained network; None if it diverged.

        Raises:
            InputError: its file isn't one.
        """
        network = self._initial()
        try:
            network.load_state_dict(load_tensors(self.path.read_bytes()))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise InputError(
                f"{self.path} isn't a network of this grid ({str(error).splitlines()[0]}); delete it and run again"
            ) from error
        finite = all(bool(weights.isfinite().all()) for weights in network.parameters())
        return network if finite else None

    def _initial(self) -> nn.Sequential:
        assert self.point.layers is not None
        spec, data = self.point.spec, self.data.load()
        shape = {"inputs": data.train.pixels.shape[1], "units": spec.units, "classes": data.classes}
        return deep_network(self.network, self.point.layers, seed=spec.seeds[self.run], **shape)


@dataclass(frozen=True)
class Networks:
    """Where the networks of grids lie."""

    folder: Path

    def train(self, point: Point, data: DataSource, journal: Journal) -> None:
        """Train what isn't there yet of a point."""
        if point.layers is None:
            self._study(point.spec).train(data_dir=data.data_dir, console=journal.console)
            return
        spec = point.spec
        for name in spec.activations:
            jobs = missing(DeepJob(self.folder, name, number, point, data) for number in range(spec.runs))
            if not jobs:
                continue
            journal.say(f"training {name}, {point.label}: {len(jobs)} runs, {spec.steps:,} steps")
            with one_torch_thread():  # before there are threads, each of which sets it and sets it back
                what = f"trained {name}, {point.label}"
                run(jobs, journal, doing=point.label, did=what, threads=thread_count())

    def read(self, point: Point, name: str, run: int, data: DataSource) -> TwoLayer | nn.Sequential | None:
        """Return a network of a point; None if it diverged or never reached the checkpoint.

        Raises:
            InputError: its file isn't one.
        """
        if point.layers is not None:
            return DeepJob(self.folder, name, run, point, data).read()
        study = self._study(point.spec)
        if int(study.history.diverged_at.sel(network=name, run=run)) != NEVER:
            return None
        if point.checkpoint is None:
            return study.network(name, run)
        reached = study.history.checkpoint_step.sel(network=name, run=run, threshold=point.checkpoint)
        return None if int(reached) == NEVER else study.network(name, run, step=int(reached))

    def _study(self, spec: Spec) -> Study:
        return Study(Store.create(self.folder / spec_digest(spec)[:12], spec))


def measured(network: TwoLayer | nn.Sequential, examples: Examples, design: Design) -> xr.Dataset:
    """Responses of every hidden layer at matched displacement, on (layer, family, side, target)."""
    if isinstance(network, TwoLayer):
        found = matched(network, examples.pixels, examples.labels, design=design).expand_dims(layer=[1])
    else:
        names = [str(place) for place in range(1, len(network) - 1, 2)]  # the activations
        whole = (examples.pixels.dense(), examples.labels)
        with one_torch_thread():
            each = [matched(network, whole, layer=name, batch_size=BATCH, design=design) for name in names]
        found = xr.concat(each, "layer", combine_attrs="drop_conflicts")
        found = found.assign_coords(layer=np.arange(1, len(names) + 1))
    return found[list(KEPT)].drop_attrs().assign_attrs(halves=found.attrs["halves"])


@dataclass(frozen=True)
class GridJob(MeasureJob):
    """The responses of one run of one network of a point.

    Attributes:
        activation, point: which network.
        data: of the point's study.
        shelf: where networks lie.
        split, design: what is measured.
    """

    activation: str
    point: Point
    data: DataSource
    shelf: Networks
    split: str
    design: Design

    def measure(self) -> xr.Dataset | None:
        """Return its responses; None if it diverged or never reached the checkpoint."""
        network = self.shelf.read(self.point, self.activation, self.run, self.data)
        if network is None:
            return None
        return measured(network, self.data.examples(self.point.spec)[self.split], self.design)


def grid_jobs(
    spec: GridSpec, folder: Path, shelf: Networks, point: Point, activation: str, data: DataSource
) -> list[GridJob]:
    """Return a job for every run of a network of a point of a grid."""
    one, jobs = point.spec, []
    for number in range(one.runs):
        name, design = f"{spec.points.index(point):02d}-{activation}-{number:02d}", spec.design(one, number)
        work = digest(
            [spec_digest(one), spec.vary, point.value, spec.split, asdict(design), data.hashes, HALVES]
        )
        what = (activation, point, data, shelf, spec.split, design)
        jobs.append(GridJob(folder, spec.name(activation, point), number, name, work, *what))
    return jobs


def assembled(spec: GridSpec, jobs: Sequence[GridJob], found: Results) -> xr.Dataset:
    """Return the results of jobs on (network, run, family, side, target), a network for each layer of each point.

    Runs that diverged or never came so far are NaN; networks of which no run is left are left out.

    Raises:
        InputError: nothing is left.
    """
    job_of = {job.network: job for job in jobs}

    def by_layer(parts: Sequence[Sequence[xr.Dataset | None]], networks: Sequence[str]) -> xr.Dataset:
        rows, names, coords = [], [], []
        for network, runs in zip(networks, parts, strict=True):
            job = job_of[network]
            for layer in next((each.layer.values for each in runs if each is not None), ()):
                rows.append([None if each is None else each.sel(layer=layer, drop=True) for each in runs])
                numbered = layer if job.point.layers is not None else None
                names.append(spec.name(job.activation, job.point, numbered))
                coords.append((job.activation, str(job.point.value), int(layer)))
        columns = zip(("activation", "value", "layer"), zip(*coords, strict=True), strict=True)
        return gathered(rows, names).assign_coords({key: ("network", list(each)) for key, each in columns})

    refusal = "no run of the grid is left to be measured; all of them diverged or never came so far"
    return gather(found, by_layer, refusal=refusal)
