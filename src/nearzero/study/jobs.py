"""Jobs: independent pieces of work, one for each run of each network, each of which writes a file.

A job is plain data and can be pickled: any process that can read its folder can do it, with the same result.
`run` does the jobs whose file is missing, in this process or on the workers of an executor, `results` reads the
files, and `gather` makes one Dataset of them.

Paths in jobs are absolute, since a worker may have another working folder. Workers write the files of their jobs and
nothing else: locks, checksums, log and progress bar belong to the process that calls `run`.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import Any, Generic, TypeVar, overload

import numpy as np
import xarray as xr

from nearzero.analysis.verdict import gathered
from nearzero.errors import InputError
from nearzero.evaluators.base import HALVES
from nearzero.kernels.compile import compiling
from nearzero.networks import TwoLayer
from nearzero.study.data import DataSource, SampledSource
from nearzero.study.journal import Journal
from nearzero.study.spec import Spec, spec_digest
from nearzero.study.store import Store, needed, read_kept, write_kept
from nearzero.support.checksums import Written, record, unrecorded
from nearzero.support.memory import limited_memory, memory_limit
from nearzero.support.threads import one_blas_thread, parallel
from nearzero.support.workers import HERE, Workers, do_all
from nearzero.training.engine import Examples
from nearzero.training.train import NEVER

__all__ = [
    "Job",
    "MeasureJob",
    "Results",
    "StudyJob",
    "apply",
    "complete",
    "digest",
    "extrapolated_time",
    "forget",
    "gather",
    "missing",
    "results",
    "run",
    "sampled_time",
    "study_jobs",
]

SAMPLED, FEW = 4000, 200  # examples for an estimate of time, and for one call before it
AnyJob = TypeVar("AnyJob", bound="Job")
Result = TypeVar("Result")
# For each network, the result of each run; None for a run that diverged or never reached a checkpoint.
Results = Mapping[str, Sequence[xr.Dataset | None]]


def digest(values: Any) -> str:
    """Return eight hexadecimal digits that identify plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Job(ABC):
    """A piece of work on one run of one network.

    Attributes:
        folder: the folder for the file.
        network: the name of the network in the results.
        run: the number of the run.
    """

    folder: Path
    network: str
    run: int

    @property
    def label(self) -> str:
        """Return the name of the job in messages."""
        return f"{self.network}, run {self.run}"

    @property
    def size(self) -> int:
        """Return the amount of work, for the progress bar."""
        return 1

    @property
    def device(self) -> str:
        """Return the device on which the job computes: "cpu", or one of PyTorch's."""
        return "cpu"

    @property
    def kind(self) -> str:
        """Return a text that jobs share which take about the same time, for plans."""
        return ""

    def pilot(self, *, warm: bool = False) -> float | None:
        """Return about how many seconds the job takes, by doing a part of it; None if that isn't known.

        No file is written.

        Args:
            warm: whether this process did the pilot of such a job before, so that its kernels are loaded.
        """
        return None

    @property
    @abstractmethod
    def path(self) -> Path:
        """Return the path of the job's file."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Return whether the file exists and belongs to this job."""

    @abstractmethod
    def do(self) -> None:
        """Do the work and write the file in one step, so that it is never incomplete."""

    def do_reporting(self, advanced: Callable[[int], None]) -> None:
        """Do the work, and call a function now and then with the amount that is done."""
        self.do()


@dataclass(frozen=True)
class MeasureJob(Job):
    """A job that measures a network; its file is in the folder's `state/` until all results are gathered.

    Attributes:
        name: of the file.
        work: a digest of everything on which the result depends; if the file has another digest, the job is
            done again.
    """

    name: str
    work: str

    @abstractmethod
    def measure(self) -> xr.Dataset | None:
        """Return the measurements; None if the run is lost, for example because it diverged."""

    @property
    def path(self) -> Path:
        """Return the path of the job's file."""
        return self.folder / "state" / f"{self.name}.safetensors"

    @property
    def done(self) -> bool:
        """Return whether the file exists, can be read, and belongs to this work."""
        return self._kept() is not None

    def do(self) -> None:
        """Measure the network and write the file, which has no variables if the run is lost."""
        result = self.measure()
        write_kept(self.path, (xr.Dataset() if result is None else result).assign_attrs(work=self.work))

    def result(self) -> xr.Dataset | None:
        """Return the measurements from the file; None if the run is lost.

        Raises:
            InputError: the job isn't done.
        """
        kept = self._kept()
        if kept is None:
            raise InputError(f"{self.path} is missing, or belongs to other work; run the same command again")
        return kept if kept.data_vars else None

    def _kept(self) -> xr.Dataset | None:
        kept = read_kept(self.path)
        return kept if kept is not None and kept.attrs.pop("work", None) == self.work else None


@dataclass(frozen=True)
class StudyJob(MeasureJob):
    """A measurement of one run of a study.

    Attributes:
        spec: the spec of the study.
        data: the data of the study.
        diverged: whether the run diverged according to the training history.
    """

    spec: Spec
    data: DataSource
    diverged: bool

    @abstractmethod
    def measured(self, network: TwoLayer) -> xr.Dataset:
        """Return the measurements of a network with finite weights."""

    @property
    def examples(self) -> dict[str, Examples]:
        """Return the training and the test set, as "train" and "test"."""
        return self.data.examples(self.spec)

    def subject(self) -> TwoLayer:
        """Return the network to be measured: the trained one."""
        return Store(self.folder, self.spec).read_network(self.network, self.run)

    def measure(self) -> xr.Dataset | None:
        """Return the measurements; None if the run diverged."""
        network = None if self.diverged else self.subject()
        # a run that diverges after the last measurement of its loss has weights that aren't finite
        if network is None or not network.finite:
            return None
        try:
            return self.measured(network)
        except InputError as error:
            raise InputError(f"{self.label}: {error}") from error

    def pilot(self, *, warm: bool = False) -> float | None:
        """Return the time of the measurement, from those on some examples of a network before its training."""
        network = self.data.initial(self.spec, self.network, [self.spec.seeds[self.run]])[0]
        return sampled_time(self.data, lambda data: replace(self, data=data).measured(network), warm=warm)


def sampled_time(
    source: DataSource, measure: Callable[[DataSource], object], *, warm: bool = False
) -> float | None:
    """Return the seconds that a measurement takes, from those on some of the examples; None if it refuses these.

    Args:
        source: the data.
        measure: measures on data.
        warm: whether such a measurement was made before in this process.
    """
    examples = len(source.load().train.labels)
    try:
        return extrapolated_time(
            lambda count: measure(SampledSource.sample(source, count)), examples, SAMPLED, warm=warm
        )
    except InputError:
        return None


def extrapolated_time(
    measure: Callable[[int], object], examples: int, most: int, *, warm: bool = False
) -> float:
    """Return the seconds that a measurement on all examples takes, from those on some of them.

    Args:
        measure: measures on the first examples, of which it is given the number.
        examples: the number of all examples.
        most: the greatest number that is measured.
        warm: whether such a measurement was made before in this process.
    """

    def seconds(count: int) -> float:
        began = time.perf_counter()
        measure(count)
        return time.perf_counter() - began

    most = min(most, examples)
    if not warm:
        seconds(min(most, FEW))  # loads kernels
    whole = seconds(most)
    slope = (whole - seconds(most // 2)) / (most - most // 2) if most < examples else 0.0
    return whole + max(0.0, slope) * (examples - most)


def study_jobs(
    kind: Callable[..., AnyJob],
    store: Store,
    data: DataSource,
    group: str,
    design: str = "",
    *,
    trained: bool = True,
) -> list[AnyJob]:
    """Return a job for every run of every network of a trained study.

    Args:
        kind: a subclass of `StudyJob`, or a function that makes one.
        store, data: the files and the data of the study.
        group: a word for the results, which becomes part of the names of files.
        design: a digest of the design of the measurement, as far as it isn't in the spec.
        trained: whether the study must be trained; plans also have the jobs of one that isn't.

    Raises:
        InputError: the study isn't trained yet.
    """
    refusal = f"{store.folder} has no trained networks yet; run `nearzero train {store.folder}` first"
    spec, history = store.spec, store.read("history")
    if trained:
        history = needed(history, refusal)
    diverged = np.zeros((len(spec.activations), spec.runs), dtype=bool)
    if history is not None:
        diverged = history.diverged_at.transpose("network", "run").values != NEVER
    folder, work = store.folder.absolute(), digest([spec_digest(spec), data.hashes, design, HALVES])
    return [
        kind(folder, network, run, f"{group}-{network}-{run:02d}", work, spec, data, bool(diverged[row, run]))
        for row, network in enumerate(spec.activations)
        for run in range(spec.runs)
    ]


def missing(jobs: Iterable[AnyJob]) -> list[AnyJob]:
    """Return the jobs that aren't done yet, in their order."""
    return [job for job in jobs if not job.done]


def complete(job: Job) -> None:
    """Do a job unless it is done. Any process can call this, in any order."""
    if not job.done:
        job.do()


def _complete_elsewhere(job: Job) -> Written:
    """Do a job unless it is done, and return what it wrote; the process that waits for it records that."""
    with unrecorded() as written:
        complete(job)
    return written


def run(
    jobs: Iterable[AnyJob],
    journal: Journal,
    *,
    doing: str,
    did: str,
    threads: int = 1,
    workers: Workers = HERE,
    total: int | None = None,
    completed: Callable[[AnyJob], None] = lambda job: None,
) -> None:
    """Do the jobs that aren't done yet.

    Args:
        jobs: all jobs; the progress bar counts those that are done already too.
        journal: shows the bar, and logs the duration.
        doing: the label of the bar.
        did: the words for the duration in the log.
        threads: the number of jobs at the same time in this process.
        workers: where the jobs are done.
        total: the size of all jobs, if they aren't a sequence. With `threads` = 1 or an executor, such jobs are
            made as they are needed.
        completed: called here with each job that is done.

    Raises:
        InputError: a job raised one, or its worker was lost again and again; the message names the job.
    """
    if total is None:
        jobs = list(jobs)
        total = sum(job.size for job in jobs)
    finished = 0
    with journal.timed(did), journal.bar(doing, total) as bar:

        def finish(job: AnyJob, written: Written) -> None:
            nonlocal finished
            finished += job.size
            record(written)
            completed(job)
            bar(finished)

        def work(job: AnyJob) -> None:
            if not job.done:
                job.do_reporting(lambda amount: bar(finished + amount))
            with lock:
                finish(job, {})

        if workers.executor is not None:
            named: dict[str, Any] = {"name": lambda job: job.label, "device": lambda job: job.device}
            do_all(_complete_elsewhere, jobs, workers, finished=finish, keeps=True, **named)
            return
        lock = threading.Lock()
        with _sharing(threads), _saying_compilation(journal):
            parallel(work, jobs, threads)


@contextmanager
def _saying_compilation(journal: Journal) -> Iterator[None]:
    """Say that kernels are compiled when the first compilation in the block begins."""
    lock = threading.Lock()
    said = False

    def say(kernel: str) -> None:
        nonlocal said
        with lock:
            if not said:
                said = True
                journal.say(
                    "compiling kernels for this processor, once; `nearzero compile` does it beforehand"
                )

    with compiling(say):
        yield


def apply(
    function: Callable[[AnyJob], Result],
    jobs: Sequence[AnyJob],
    journal: Journal,
    *,
    doing: str,
    threads: int = 1,
    workers: Workers = HERE,
) -> list[Result]:
    """Return the result of a function for each job, and show a progress bar; see `run` for the arguments."""
    found: dict[int, Result] = {}
    with journal.bar(doing, len(jobs)) as bar:

        def finish(place: int, result: Result) -> None:
            found[place] = result
            bar(len(found))

        if workers.executor is not None:
            do_all(
                _Applied(function),
                enumerate(jobs),
                workers,
                name=lambda item: item[1].label,
                finished=lambda item, result: finish(item[0], result),
                keeps=False,
            )
        else:
            with _sharing(threads):
                parallel(lambda item: finish(item[0], function(item[1])), enumerate(jobs), threads)
    return [found[place] for place in range(len(jobs))]


@dataclass(frozen=True)
class _Applied(Generic[AnyJob, Result]):
    """A function of a job, for a job with its place."""

    function: Callable[[AnyJob], Result]

    def __call__(self, item: tuple[int, AnyJob]) -> Result:
        """Return the result."""
        return self.function(item[1])


@contextmanager
def _sharing(threads: int) -> Iterator[None]:
    """Let each of a number of threads take its share of the memory within the block, and products one thread.

    The latter is set before the threads start, since measurements set and restore it.
    """
    with limited_memory(memory_limit() // threads), one_blas_thread():
        yield


@dataclass(frozen=True)
class _KeptResults(Sequence[xr.Dataset | None]):
    """The results of the jobs of one network, each read from its file when it is asked for."""

    jobs: Sequence[MeasureJob]

    def __len__(self) -> int:
        return len(self.jobs)

    @overload
    def __getitem__(self, place: int) -> xr.Dataset | None: ...
    @overload
    def __getitem__(self, place: slice) -> list[xr.Dataset | None]: ...
    def __getitem__(self, place: int | slice) -> xr.Dataset | list[xr.Dataset | None] | None:
        if isinstance(place, slice):
            return [job.result() for job in self.jobs[place]]
        return self.jobs[place].result()


def results(jobs: Iterable[MeasureJob]) -> Results:
    """Return the results of jobs that are done, for each network in the order of its jobs.

    Each is read when it is asked for, so that memory doesn't grow with their number.
    """
    by_network: dict[str, list[MeasureJob]] = {}
    for job in jobs:
        by_network.setdefault(job.network, []).append(job)
    return {network: _KeptResults(own) for network, own in by_network.items()}


def gather(
    measured: Results,
    combine: Callable[[Sequence[Sequence[xr.Dataset | None]], Sequence[str]], xr.Dataset] = gathered,
    *,
    lost: xr.Dataset | None = None,
    refusal: str = "no run of the study can be measured: all of them diverged",
) -> xr.Dataset:
    """Return results as one Dataset on (network, run, ...), NaN for lost runs.

    Args:
        measured: the results, as `results` returns them.
        combine: makes one Dataset of the results of each network and the names of the networks. At least one
            of these results isn't None.
        lost: the result of a lost run, for the case that all runs are lost.
        refusal: the message in this case if `lost` is None.

    Raises:
        InputError: all runs are lost, and `lost` is None.
    """
    networks, rows = list(measured), list(measured.values())
    if not any(result is not None for runs in rows for result in runs):
        if lost is None:
            raise InputError(refusal)
        rows[0] = [lost, *rows[0][1:]]
    whole = combine(rows, networks)
    return whole.assign_coords(run=np.arange(whole.sizes["run"]))


def forget(jobs: Iterable[Job]) -> None:
    """Remove the files of jobs, whose results are in another file now, and folders with nothing else."""
    paths = [job.path for job in jobs]
    for path in paths:
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in paths if path.parent.is_dir()}:
        if all(path.suffix == ".part" for path in folder.iterdir()):  # left by a process that was killed
            rmtree(folder, ignore_errors=True)
