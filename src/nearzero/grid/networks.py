"""The networks of a grid: train, read and measure them.

Networks with one hidden layer are trained by a study in a folder that is named by the spec's digest, so that
grids with a study in common train it once. Deeper networks are kept beside it, one file each. The
measurements of all networks become one Dataset.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import xarray as xr

from nearzero.analysis.matched import HELD_OUT, Design, matched
from nearzero.analysis.verdict import gathered
from nearzero.datasets import Dataset
from nearzero.evaluators.base import HALVES
from nearzero.grid.spec import CHECKPOINT, GridSpec, Point
from nearzero.grid.training import train_studies
from nearzero.networks import TwoLayer
from nearzero.study import Study
from nearzero.study.data import DataSource
from nearzero.study.jobs import Job, MeasureJob, Results, digest, gather, missing, run, sampled_time
from nearzero.study.journal import Journal
from nearzero.study.spec import Spec, spec_digest
from nearzero.study.store import Store
from nearzero.support.checksums import is_recorded, read_recorded, write_recorded
from nearzero.support.files import parsing
from nearzero.support.threads import one_torch_thread, thread_count
from nearzero.support.words import number_of
from nearzero.support.workers import Workers
from nearzero.training.engine import Examples
from nearzero.training.train import NEVER

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "KEPT",
    "DeepJob",
    "GridJob",
    "GridMeasurement",
    "NetworkSource",
    "Networks",
    "StudyNetworks",
    "assembled",
    "grid_jobs",
    "measured",
]

KEPT = (
    *("level", "displacement", "accuracy", "agreement", "centred_accuracy", "unperturbed_accuracy"),
    *("checked_level", "checked_accuracy", "unperturbed_checked_accuracy", "target_size", "checked"),
    *("dead_units", "reason"),
)
PILOT_STEPS = 20
BATCH = 2000  # examples of a deep network at a time


@dataclass(frozen=True)
class DeepJob(Job):
    """The training of one network with several hidden layers; its file is the network.

    Attributes:
        point: the point of the grid.
        data: the data of the point's study.
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
        """Return whether the file exists and has a checksum; `read` refuses a damaged file."""
        return is_recorded(self.path.parent, self.path)

    def do(self) -> None:
        """Train the network and write its file."""
        from safetensors.torch import save

        from nearzero.training.deep import train_deep  # PyTorch takes seconds, and other grids don't need it

        spec, network = self.point.spec, self.initial()
        examples = self.data.examples(spec)["train"]
        with one_torch_thread():
            train_deep(network, examples, spec.recipe, seed=spec.seeds[self.run], device=spec.device)
        write_recorded(self.path.parent, self.path, save(network.state_dict()))

    @property
    def kind(self) -> str:
        """Return a text for plans: networks of a point take about the same time."""
        return self.point.label

    def pilot(self, *, warm: bool = False) -> float | None:
        """Return the time of the training, from that of some updates."""
        from nearzero.training.deep import train_deep

        spec, network = self.point.spec, self.initial()
        examples = self.data.examples(spec)["train"]
        with one_torch_thread():
            for steps in (PILOT_STEPS,) if warm else (1, PILOT_STEPS):  # the first is slower than the others
                began = time.perf_counter()
                recipe = replace(spec.recipe, steps=steps)
                train_deep(network, examples, recipe, seed=spec.seeds[self.run], device=spec.device)
        return (time.perf_counter() - began) / PILOT_STEPS * spec.steps

    def read(self) -> nn.Sequential | None:
        """Return the trained network; None if it diverged.

        Raises:
            InputError: the file isn't such a network.
        """
        from safetensors.torch import load

        network = self.initial()
        remedy = "delete it and run again"
        content = read_recorded(self.path.parent, self.path, remedy)
        with parsing(self.path, remedy):
            network.load_state_dict(load(content))
        finite = all(bool(weights.isfinite().all()) for weights in network.parameters())
        return network if finite else None

    def initial(self) -> nn.Sequential:
        """Return the network before its training."""
        from nearzero.training.deep import deep_network

        assert self.point.layers is not None
        spec, data = self.point.spec, self.data.load()
        shape = {"inputs": data.train.pixels.shape[1], "units": spec.units, "classes": data.classes}
        return deep_network(self.network, self.point.layers, seed=spec.seeds[self.run], **shape)


@dataclass(frozen=True)
class Networks:
    """The folder with the networks of grids.

    Attributes:
        folder: its path.
    """

    folder: Path

    def train(
        self, points: Sequence[Point], data: Mapping[str, DataSource], journal: Journal, workers: Workers
    ) -> None:
        """Train the networks of points that aren't trained yet.

        Args:
            points: of the grid.
            data: by the name in a point's spec.
            journal: for progress.
            workers: where the networks are trained.
        """
        deep = [
            DeepJob(self.folder.absolute(), name, number, point, data[point.spec.data])
            for point in points
            if point.layers is not None
            for name in point.spec.activations
            for number in range(point.spec.runs)
        ]
        if jobs := missing(deep):
            journal.say(f"training {number_of(len(jobs), 'network')} with several layers")
            did = f"trained {number_of(len(jobs), 'network')}"
            with one_torch_thread():  # set before the threads start, since each job sets and restores it
                run(jobs, journal, doing="training", did=did, threads=thread_count(), workers=workers)
        specs = {spec_digest(point.spec): point.spec for point in points if point.layers is None}
        train_studies([(self.store(spec), data[spec.data]) for spec in specs.values()], journal, workers)

    def read(self, point: Point, name: str, run: int, data: DataSource) -> TwoLayer | nn.Sequential | None:
        """Return a network of a point; None if it diverged or never reached the checkpoint.

        Raises:
            InputError: the file isn't such a network.
        """
        if point.layers is not None:
            return DeepJob(self.folder, name, run, point, data).read()
        study = _trained_study(self.study_folder(point.spec))
        if int(study.history.diverged_at.sel(network=name, run=run)) != NEVER:
            return None
        if point.checkpoint is None:
            return study.network(name, run)
        reached = study.history.checkpoint_step.sel(network=name, run=run, threshold=point.checkpoint)
        return None if int(reached) == NEVER else study.network(name, run, step=int(reached))

    def study_folder(self, spec: Spec) -> Path:
        """Return the folder of the study that trains the networks of a spec."""
        return self.folder / spec_digest(spec)[:12]

    def store(self, spec: Spec) -> Store:
        """Return the store of the study that trains the networks of a spec; nothing is written."""
        return Store.proposed(self.study_folder(spec), lambda rules: spec)


@lru_cache(maxsize=4)  # the runs of a point follow each other
def _trained_study(folder: Path) -> Study:
    """Return the trained study of a point, whose history is read once for all of its runs."""
    return Study.open(folder)


def measured(
    network: TwoLayer | nn.Sequential, examples: Examples, design: Design, held_out: Examples | None = None
) -> xr.Dataset:
    """Return responses of every hidden layer at matched displacement, on (layer, family, side, target)."""
    if isinstance(network, TwoLayer):
        other: Any = None if held_out is None else (held_out.pixels, held_out.labels)
        responses = matched(network, examples.pixels, examples.labels, design=design, held_out=other)
        responses = responses.expand_dims(layer=[1])
    else:
        other = None if held_out is None else (held_out.pixels.dense(), held_out.labels)
        names = [str(place) for place in range(1, len(network) - 1, 2)]  # of the activation modules
        data = (examples.pixels.dense(), examples.labels)
        with one_torch_thread():
            layers = [
                matched(network, data, layer=name, batch_size=BATCH, design=design, held_out=other)
                for name in names
            ]
        responses = xr.concat(layers, "layer", combine_attrs="drop_conflicts")
        responses = responses.assign_coords(layer=np.arange(1, len(names) + 1))
    kept = [name for name in KEPT if name in responses]
    return responses[kept].drop_attrs().assign_attrs(halves=responses.attrs["halves"])


class NetworkSource(Protocol):
    """The networks of a grid, of one kind: how they are trained, and the jobs that measure them."""

    @property
    def lost(self) -> str:
        """Return why a run can be missing, in words."""

    @property
    def notices(self) -> list[str]:
        """Return what a reader must know about data and networks."""

    def train(self, journal: Journal, workers: Workers) -> None:
        """Train the networks of all points that aren't trained yet."""

    def jobs(self) -> list[GridMeasurement]:
        """Return a job for every run of each network of each point."""


@dataclass(frozen=True)
class GridMeasurement(MeasureJob):
    """The measurement of one run of one network of a point, on (layer, family, side, target).

    Attributes:
        point: of the grid.
    """

    point: Point

    @abstractmethod
    def layers(self, spec: GridSpec, result: xr.Dataset) -> list[tuple[str, dict[str, str | int]]]:
        """Return the name in the grid's results of each layer of a result, and its coordinates."""


@dataclass(frozen=True)
class GridJob(GridMeasurement):
    """The measurement of one run of a network that a study or `training.deep` trains.

    Attributes:
        activation: of the network.
        data: the data of the point's study.
        networks: the folder of the networks.
        split, design: the data and the design of the measurement.
    """

    activation: str
    data: DataSource
    networks: Networks
    split: str
    design: Design

    @property
    def kind(self) -> str:
        """Return a text for plans: networks of a point take about the same time."""
        return self.point.label

    def pilot(self, *, warm: bool = False) -> float | None:
        """Return the time of the measurement, from those on some examples of a network before its training."""
        spec = self.point.spec
        if self.point.layers is None:
            network: Any = self.data.initial(spec, self.activation, [spec.seeds[self.run]])[0]
        else:
            network = DeepJob(self.folder, self.activation, self.run, self.point, self.data).initial()
        return sampled_time(self.data, lambda data: self._measured(network, data), warm=warm)

    def measure(self) -> xr.Dataset | None:
        """Return the responses of the network; None if it diverged or never reached the checkpoint."""
        network = self.networks.read(self.point, self.activation, self.run, self.data)
        return None if network is None else self._measured(network, self.data)

    def _measured(self, network: TwoLayer | nn.Sequential, data: DataSource) -> xr.Dataset:
        """Return the responses of a network on data."""
        examples = data.examples(self.point.spec)
        held_out = examples["test"] if HELD_OUT in self.point.spec.verdict_checks else None
        return measured(network, examples[self.split], self.design, held_out)

    def layers(self, spec: GridSpec, result: xr.Dataset) -> list[tuple[str, dict[str, str | int]]]:
        """Return the name of each hidden layer, which has its number if networks have several."""
        found: list[tuple[str, dict[str, str | int]]] = []
        for layer in map(int, result.layer.values):
            name = spec.name(self.activation, self.point, None if self.point.layers is None else layer)
            found.append((name, {"activation": self.activation, "layer": layer}))
        return found


def grid_jobs(
    spec: GridSpec, folder: Path, networks: Networks, point: Point, activation: str, data: DataSource
) -> list[GridJob]:
    """Return a job for every run of one network of a point of the grid in a folder."""
    place, label = spec.points.index(point), spec.name(activation, point)
    same = [spec_digest(point.spec), spec.vary, point.value, spec.split]
    held_out, designs = HELD_OUT in point.spec.verdict_checks, spec.designs(point, activation)
    values = asdict(designs[0])  # takes longer than all else here
    jobs = []
    for number, design in enumerate(designs):
        name = f"{place:02d}-{activation}-{number:02d}"
        own = values | {"first_draw": design.first_draw}
        work = digest([*same, own, data.hashes, held_out, HALVES])
        fields = (point, activation, data, networks, spec.split, design)
        jobs.append(GridJob(folder.absolute(), label, number, name, work, *fields))
    return jobs


@dataclass(frozen=True)
class StudyNetworks:
    """The networks of a grid that are a study's, or deeper ones of the same recipe; see `NetworkSource`.

    Attributes:
        spec, folder: of the grid.
        networks: the folder of the networks.
        loaded: the data of all points, by name.
        data_dir: a folder with the data files, if they can't be found or fetched.
    """

    spec: GridSpec
    folder: Path
    networks: Networks
    loaded: Mapping[str, Dataset]
    data_dir: str | None

    @property
    def lost(self) -> str:
        """Return why a run can be missing."""
        return "diverged or never came so far" if self.spec.vary == CHECKPOINT else "diverged"

    @property
    def notices(self) -> list[str]:
        """Return the notices of the data."""
        return [data.notice for data in self.loaded.values() if data.notice]

    def train(self, journal: Journal, workers: Workers) -> None:
        """Train the networks of all points that aren't trained yet."""
        data = {point.spec.data: self._data(point) for point in self.spec.points}
        self.networks.train(self.spec.points, data, journal, workers)

    def jobs(self) -> list[GridMeasurement]:
        """Return a job for every run of each network of each point."""
        return [
            job
            for point in self.spec.points
            for activation in point.spec.activations
            for job in grid_jobs(self.spec, self.folder, self.networks, point, activation, self._data(point))
        ]

    def _data(self, point: Point) -> DataSource:
        return DataSource.of(self.loaded[point.spec.data], self.data_dir)


def assembled(spec: GridSpec, jobs: Sequence[GridMeasurement], results: Results) -> xr.Dataset:
    """Return the results of jobs on (network, run, family, side, target), with each layer as a network.

    Runs that diverged or never reached the checkpoint are NaN. Networks without any other run are left out.

    Raises:
        InputError: no run is left.
    """
    job_of = {job.network: job for job in jobs}

    def by_layer(parts: Sequence[Sequence[xr.Dataset | None]], networks: Sequence[str]) -> xr.Dataset:
        rows, names, coords = [], [], []
        for network, runs in zip(networks, parts, strict=True):
            job = job_of[network]
            first = next((result for result in runs if result is not None), None)
            for place, (name, own) in enumerate([] if first is None else job.layers(spec, first)):
                rows.append([None if run is None else run.isel(layer=place, drop=True) for run in runs])
                names.append(name)
                coords.append({**own, "value": str(job.point.value), "model": network})
        return gathered(rows, names).assign_coords(
            {key: ("network", [each[key] for each in coords]) for key in coords[0]}
        )

    refusal = "no run of the grid can be measured: all of them diverged or never reached the checkpoint"
    return gather(results, by_layer, refusal=refusal)
