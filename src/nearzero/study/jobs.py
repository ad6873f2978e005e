"""Jobs: independent pieces of work, one for each run of each network, each of which leaves a file.

A job is plain data and can be pickled: any process that sees its folder can do it, with the same result. `run` does the
jobs whose file is missing, `results` reads the files, and `gather` makes one Dataset of them.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from nearzero.analysis.verdict import gathered
from nearzero.errors import InputError
from nearzero.evaluators.base import HALVES
from nearzero.networks import TwoLayer
from nearzero.study.data import DataSource
from nearzero.study.journal import Journal
from nearzero.study.spec import Spec, spec_digest
from nearzero.study.store import Store, needed, read_kept, write_kept
from nearzero.support.threads import parallel
from nearzero.training.engine import Examples
from nearzero.training.train import NEVER

__all__ = [
    "Job",
    "MeasureJob",
    "Results",
    "StudyJob",
    "complete",
    "digest",
    "forget",
    "gather",
    "missing",
    "results",
    "run",
    "study_jobs",
]

AnyJob = TypeVar("AnyJob", bound="Job")
Results = dict[str, list[xr.Dataset | None]]  # of each network, run by run; None for a run that is lost


def digest(what: Any) -> str:
    """Return eight digits that distinguish plain values from others."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Job(ABC):
    """A piece of work on one run of one network.

    Attributes:
        folder: where the file goes.
        network: what the network is called in the results.
        run: number of the run.
    """

    folder: Path
    network: str
    run: int

    @property
    @abstractmethod
    def path(self) -> Path:
        """Return the path of the job's file."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Return whether the file is there and belongs to this job."""

    @abstractmethod
    def do(self) -> None:
        """Do the work and write the file, whole."""


@dataclass(frozen=True)
class MeasureJob(Job):
    """A job that measures a network; its file is kept in the folder's `state/` until all are gathered.

    Attributes:
        name: of the file.
        work: a digest of everything that the result depends on; a file with another one is done again.
    """

    name: str
    work: str

    @abstractmethod
    def measure(self) -> xr.Dataset | None:
        """Return the measurements; None if the run is lost, since it diverged say."""

    @property
    def path(self) -> Path:
        """Return the path of the job's file."""
        return self.folder / "state" / f"{self.name}.safetensors"

    @property
    def done(self) -> bool:
        """Return whether the file is there, is whole, and belongs to this work."""
        return self._kept() is not None

    def do(self) -> None:
        """Measure, and write the file: without variables if the run is lost."""
        found = self.measure()
        write_kept(self.path, (xr.Dataset() if found is None else found).assign_attrs(work=self.work))

    def result(self) -> xr.Dataset | None:
        """Return the measurements from the file; None if the run is lost.

        Raises:
            InputError: the job isn't done.
        """
        found = self._kept()
        if found is None:
            raise InputError(f"{self.path} isn't there, or belongs to other work; run the same command again")
        return found if found.data_vars else None

    def _kept(self) -> xr.Dataset | None:
        found = read_kept(self.path)
        return found if found is not None and found.attrs.pop("work", None) == self.work else None


@dataclass(frozen=True)
class StudyJob(MeasureJob):
    """A measurement of one run of a study.

    Attributes:
        spec: of the study.
        data: of the study.
        diverged: whether the run's history says so.
    """

    spec: Spec
    data: DataSource
    diverged: bool

    @abstractmethod
    def measured(self, network: TwoLayer) -> xr.Dataset:
        """Return the measurements of a network with finite weights."""

    @property
    def examples(self) -> dict[str, Examples]:
        """Return training and test set."""
        return self.data.examples(self.spec)

    def subject(self) -> TwoLayer:
        """Return the network that is measured: the trained one."""
        return Store(self.folder).read_network(self.network, self.run)

    def measure(self) -> xr.Dataset | None:
        """Return the measurements; None if the run diverged."""
        network = None if self.diverged else self.subject()
        # one that diverged after the last look at its loss has weights that aren't finite
        return self.measured(network) if network is not None and network.finite else None


def study_jobs(
    kind: Callable[..., AnyJob], store: Store, data: DataSource, group: str, design: str = ""
) -> list[AnyJob]:
    """Return a job of a kind for every run of every network of a study that is trained.

    Args:
        kind: a class of `StudyJob`.
        store, data: of the study.
        group: what is measured, in a word; files are named by it.
        design: a digest of how it is measured, beyond the spec.

    Raises:
        InputError: it isn't trained yet.
    """
    refusal = f"{store.folder} has no trained networks yet; run `nearzero train {store.folder}` first"
    spec, history = store.spec, needed(store.read("history"), refusal)
    lost = history.diverged_at.transpose("network", "run").values != NEVER
    what = (digest([spec_digest(spec), data.hashes, design, HALVES]), spec, data)
    return [
        kind(store.folder, network, run, f"{group}-{network}-{run:02d}", *what, bool(lost[place, run]))
        for place, network in enumerate(spec.activations)
        for run in range(spec.runs)
    ]


def missing(jobs: Iterable[AnyJob]) -> list[AnyJob]:
    """Return the jobs that aren't done yet, in order."""
    return [job for job in jobs if not job.done]


def complete(job: Job) -> None:
    """Do a job unless it is done; any process can call this, in any order."""
    if not job.done:
        job.do()


def run(jobs: Sequence[Job], journal: Journal, *, doing: str, did: str, threads: int = 1) -> None:
    """Do the jobs that are missing, with a bar called `doing`, and log how long it took with the words `did`."""
    finished = count(1)
    with journal.timed(did), journal.bar(doing, len(jobs)) as bar:

        def work(job: Job) -> None:
            complete(job)
            bar(next(finished))

        parallel(work, jobs, threads)


def results(jobs: Iterable[MeasureJob]) -> Results:
    """Return the results of jobs that are done, of each network in the order of its runs."""
    found: Results = {}
    for job in jobs:
        found.setdefault(job.network, []).append(job.result())
    return found


def gather(
    found: Results,
    combine: Callable[[Sequence[Sequence[xr.Dataset | None]], Sequence[str]], xr.Dataset] = gathered,
    *,
    lost: xr.Dataset | None = None,
    refusal: str = "no run of the study is left to be measured; all of them diverged",
) -> xr.Dataset:
    """Return results as one Dataset on (network, run, ...), NaN for lost runs.

    Args:
        found: what `results` returns.
        combine: makes one Dataset of the results of each network and the networks' names; one result isn't None.
        lost: the result of a run that is lost, for the case that all of them are.
        refusal: what is said in this case if `lost` isn't given.

    Raises:
        InputError: all runs are lost, and `lost` isn't given.
    """
    networks, runs = list(found), list(found.values())
    if not any(each is not None for some in runs for each in some):
        if lost is None:
            raise InputError(refusal)
        runs[0] = [lost, *runs[0][1:]]
    whole = combine(runs, networks)
    return whole.assign_coords(run=np.arange(whole.sizes["run"]))


def forget(jobs: Iterable[Job]) -> None:
    """Remove the files of jobs once their results are kept elsewhere, and the folders that hold nothing else."""
    paths = [job.path for job in jobs]
    for path in paths:
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in paths if path.parent.is_dir()}:
        if all(each.suffix == ".part" for each in folder.iterdir()):  # left by a process that was killed
            rmtree(folder, ignore_errors=True)
