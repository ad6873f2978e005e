"""The steps of a study: train its networks and sweep them.

Each step does only what is missing, so an interrupted step continues when it is called again. The arithmetic
is in `nearzero.training` and `nearzero.analysis.sweep`, files are in `nearzero.study.store`, and
`nearzero.study.jobs` runs the jobs.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.analysis.sweep import respond
from nearzero.errors import InputError
from nearzero.evaluators.two_layer import TwoLayerEvaluator
from nearzero.kernels.compile import any_compiled
from nearzero.networks import Stack, TwoLayer
from nearzero.perturbations.activations import activation
from nearzero.perturbations.families import make_family
from nearzero.study.data import DataSource
from nearzero.study.jobs import Job, StudyJob, gather, results, run, study_jobs
from nearzero.study.journal import Journal
from nearzero.study.spec import CONDUCT, Spec, spec_digest
from nearzero.study.store import CHECKPOINTS, RunState, Store
from nearzero.support.checksums import collected, record
from nearzero.support.threads import thread_count
from nearzero.support.words import number_of
from nearzero.support.workers import HERE, Workers
from nearzero.training.engine import Engine, Examples
from nearzero.training.train import NEVER, History, Progress, train

__all__ = [
    "SweepJob",
    "TrainJob",
    "finish_training",
    "reaching",
    "runs_together",
    "sweep_networks",
    "train_networks",
    "training_jobs",
]

Pair = tuple[str, int]  # an activation and the number of a run

PILOT_SECONDS = 0.2
RUNS_AT_ONCE = 32  # that one job trains in this process; memory would grow with more of them
# Seconds between saves of the training: about the most that is lost if the process is killed.
SAVE_EVERY = 20.0
ATTRIBUTES = {
    "accuracy": {"long_name": "share of examples predicted right"},
    "agreement": {"long_name": "share of predictions that are those of the unperturbed network"},
    "unperturbed_accuracy": {"long_name": "accuracy under the identity"},
    "dead_units": {"long_name": "hidden units whose post-activation range over the training set is 0"},
}


# --- training ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainJob(Job):
    """The training of some runs of some networks of a study, side by side; its files are the networks.

    The progress of the runs is in `state/`, with their histories: all that is needed to resume, by any job that has
    some of the runs.

    Attributes:
        spec: the spec of the study.
        data: the data of the study.
        networks: the activations.
        runs: the numbers of the runs, of which `run` is the first.
    """

    spec: Spec
    data: DataSource
    networks: tuple[str, ...]
    runs: tuple[int, ...]

    @property
    def label(self) -> str:
        """Return the name of the job in messages."""
        first, last = self.runs[0], self.runs[-1]
        return f"training {self.network}, " + (f"run {first}" if first == last else f"runs {first} to {last}")

    @property
    def size(self) -> int:
        """Return the number of updates of all runs; networks share them."""
        return self.spec.steps * len(self.runs)

    @property
    def kind(self) -> str:
        """Return a text for plans: updates of a study take about the same time."""
        return f"{self.network} {spec_digest(self.spec)}"

    @property
    def device(self) -> str:
        """Return the device of the study."""
        return self.spec.device

    @property
    def path(self) -> Path:
        """Return the path of the last of the networks that are written."""
        return self.folder / "networks" / f"{self.networks[-1]}-{self.runs[-1]:02d}.safetensors"

    @property
    def done(self) -> bool:
        """Return whether all networks are there, with the state that has their histories."""
        store = Store(self.folder, self.spec)
        for name in self.networks:
            kept = store.load_progress(name, self.runs)
            at_end = all(run in kept and kept[run].progress.step == self.spec.steps for run in self.runs)
            if not at_end or not all(store.has_network(name, run) for run in self.runs):
                return False
        return True

    def do(self) -> None:
        """Train the runs to the end and write the networks."""
        self.do_reporting(lambda updates: None)

    def do_reporting(self, advanced: Callable[[int], None]) -> None:
        """Train the runs to the end and write the networks; call a function with the updates that are done."""
        states = self._states(Store(self.folder, self.spec))
        steps = {pair: state.progress.step for pair, state in states.items()}
        for state in states.values():
            record(state.written)
        for step in sorted(set(steps.values()), reverse=True):
            together = [pair for pair in steps if steps[pair] == step]

            def reached(step: int, together: list[Pair] = together) -> None:
                steps.update(dict.fromkeys(together, step))
                advanced(sum(steps.values()) // len(self.networks))

            self._train({pair: states.pop(pair) for pair in together}, reached)

    def pilot(self, *, warm: bool = False) -> float | None:
        """Return the time of the training, from that of some updates and of one measurement of each set.

        None if kernels aren't compiled yet. Later updates are mostly faster: examples with a loss of 0 are left out.
        """
        spec, recipe = self.spec, self.spec.recipe
        if spec.device == "cpu" and not any_compiled():
            return None
        examples, seeds = self.data.examples(spec), [spec.seeds[run] for run in self.runs]
        stack = Stack.joined([self.data.initial(spec, name, seeds) for name in self.networks])
        engine = _engine(spec, stack, seeds * len(self.networks), examples)
        engine.advance(0, 1)
        for split in ("train", "test"):
            engine.measure(split)
        step, updates, began = 1, 1, time.perf_counter()
        while (seconds := time.perf_counter() - began) < PILOT_SECONDS and step < max(recipe.steps, 2):
            engine.advance(step, step + updates)
            step, updates = step + updates, 2 * updates
        update, began = seconds / max(1, step - 1), time.perf_counter()
        engine.measure("test")
        test, began = time.perf_counter() - began, time.perf_counter()
        engine.measure("train")
        train = time.perf_counter() - began
        measured = len(recipe.schedule) if recipe.batch_size is not None else 0  # else an update measures too
        tested = sum(recipe.tests_at(step) for step in recipe.schedule)
        return recipe.steps * update + measured * train + tested * test

    def histories(self) -> dict[Pair, History]:
        """Return the history of each activation and run, after the training."""
        return {
            pair: state.progress.history
            for pair, state in self._states(Store(self.folder, self.spec)).items()
        }

    def _states(self, store: Store) -> dict[Pair, RunState]:
        """Return the state of each run: its saved progress, else the beginning."""
        spec = self.spec
        states: dict[Pair, RunState] = {}
        for name in self.networks:
            kept = store.load_progress(name, self.runs)
            fresh = [run for run in self.runs if run not in kept]
            if fresh:
                stack = self.data.initial(spec, name, [spec.seeds[run] for run in fresh])
                for row, run in enumerate(fresh):
                    progress = Progress(0, History.empty(1, spec.recipe))
                    kept[run] = RunState(progress, stack.part(slice(row, row + 1)), {})
            states |= {(name, run): kept[run] for run in self.runs}
        return states

    def _train(self, states: dict[Pair, RunState], advanced: Callable[[int], None]) -> None:
        """Train runs that are at the same step, and write the networks."""
        store, spec, pairs = Store(self.folder, self.spec), self.spec, list(states)
        (step,) = {state.progress.step for state in states.values()}
        progress = Progress(step, History.joined([state.progress.history for state in states.values()]))
        stack = Stack.joined([state.stack for state in states.values()])
        seeds = [spec.seeds[run] for _, run in pairs]
        examples = self.data.examples(spec)

        def checkpoint(place: int, step: int, network: TwoLayer) -> None:
            if spec.keep_checkpoints:
                store.write_network(network, pairs[place][1], step)

        def save(progress: Progress, stack: Stack) -> None:
            for name in self.networks:
                rows = [row for row, (own, _) in enumerate(pairs) if own == name]
                if rows:  # of one network they follow each other
                    part, runs = slice(rows[0], rows[-1] + 1), [pairs[row][1] for row in rows]
                    own = Progress(progress.step, progress.history.part(part))
                    store.save_progress(name, runs, own, stack.part(part), collected())

        if step < spec.steps:
            engine = _engine(spec, stack, seeds, examples)
            train(
                engine,
                spec.recipe,
                progress,
                examples=(len(examples["train"]), len(examples["test"])),
                checkpoint=checkpoint,
                save=save,
                save_every=_save_every(),
                advanced=advanced,
            )
            stack = engine.stack()
        for place, network in enumerate(stack):
            store.write_network(network, pairs[place][1])
        save(progress, stack)


def train_networks(store: Store, data: DataSource, journal: Journal, workers: Workers = HERE) -> None:
    """Train every run of every network that isn't trained yet, and write networks and history.

    Raises:
        InputError: the device isn't available, or a file can't be written.
    """
    jobs = training_jobs(store, data, journal, workers)
    if not jobs:
        journal.note("training: nothing to do")
        return
    labels = _labels(store.spec.activations)
    run(jobs, journal, doing=f"training {labels}", did=f"trained {labels}", workers=workers)
    finish_training(store, jobs, journal)


def training_jobs(store: Store, data: DataSource, journal: Journal, workers: Workers) -> list[TrainJob]:
    """Return the jobs that train a study's networks; none if they are trained.

    Raises:
        InputError: the device isn't available.
    """
    spec = store.spec
    if store.read("history") is not None and not _networks_missing(store, journal):
        return []
    if workers.executor is None:
        _check_device(spec)
    for name in spec.activations:
        if store.has_progress(name) and not store.load_progress(name, range(spec.runs)):
            journal.say(f"the progress of {name} is damaged, or of another spec: its training begins anew")
    for line in _begun(store):
        journal.say(line)
    return [
        TrainJob(store.folder.absolute(), " and ".join(names), runs[0], spec, data, names, runs)
        for names, runs in runs_together(spec, workers)
    ]


def runs_together(spec: Spec, workers: Workers) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Return the activations and the runs of each training job of a study."""
    size = _runs_at_once(spec, workers)
    parts = [tuple(range(spec.runs))[first : first + size] for first in range(0, spec.runs, size)]
    # networks share mini-batches on the processor
    alone = spec.device != "cpu" or spec.batch_size == "all"
    groups = [(name,) for name in spec.activations] if alone else [tuple(spec.activations)]
    return [(names, runs) for names in groups for runs in parts]


def finish_training(store: Store, jobs: Sequence[TrainJob], journal: Journal) -> None:
    """Write the history of a study whose training jobs are done, and remove their state."""
    spec = store.spec
    found: dict[Pair, History] = {}
    for job in jobs:
        found |= job.histories()
    histories = {
        name: History.joined([found[name, run] for run in range(spec.runs)]) for name in spec.activations
    }
    for name, history in histories.items():
        for line in _divergences(activation(name).label, history.diverged_at):
            journal.warn(line)
    store.write({"history": _history_dataset(spec, list(histories.values()))})
    store.clear_state()


def _runs_at_once(spec: Spec, workers: Workers) -> int:
    """Return the number of runs in a training job.

    On other devices than the processor all of them go together, since the numbers of a run might depend on its
    company there. On the processor they don't, and memory needn't grow with the runs.
    """
    if spec.device != "cpu":
        return spec.runs
    if workers.executor is None:
        return max(RUNS_AT_ONCE, thread_count())
    return workers.limits.threads or 1


def _check_device(spec: Spec) -> None:
    """Refuse a device that isn't available here.

    Raises:
        InputError: the device isn't available.
    """
    if spec.device != "cpu":
        import torch

        with reaching(spec.device):
            torch.empty(1, device=spec.device)


def _networks_missing(store: Store, journal: Journal) -> bool:
    """Return whether the network of any run is missing or damaged, or a checkpoint is damaged."""
    try:
        for name in store.spec.activations:
            for number in range(store.spec.runs):
                store.read_network(name, number)
        for path in (store.folder / CHECKPOINTS).glob("*.safetensors"):
            store.read_file(f"{CHECKPOINTS}/{path.name}")
    except InputError as error:
        journal.say(f"training again: {error}")
        return True
    return False


def _labels(names: Iterable[str]) -> str:
    return " and ".join(activation(name).label for name in names)


def _begun(store: Store) -> list[str]:
    """Return lines that say which networks are trained, from which step on."""
    spec, steps = store.spec, dict[str, Counter[int]]()
    for name in spec.activations:
        kept = store.load_progress(name, range(spec.runs))
        steps[name] = Counter(kept[run].progress.step if run in kept else 0 for run in range(spec.runs))
    lines = []
    for step in sorted({step for counts in steps.values() for step in counts}):
        counts = {name: counts[step] for name, counts in steps.items() if counts[step]}
        for number in sorted(set(counts.values())):
            names = [name for name in counts if counts[name] == number]
            begun = f", continuing from step {step}" if step else ""
            each = " each" if len(names) > 1 else ""
            lines.append(
                f"training {_labels(names)}: {number_of(number, 'run')}{each}, {number_of(spec.steps, 'step')}{begun}"
            )
    return lines


def _engine(spec: Spec, stack: Stack, seeds: Sequence[int], examples: dict[str, Examples]) -> Engine:
    splits, recipe = (examples["train"], examples["test"]), spec.recipe
    descent: dict[str, Any] = {"learning_rate": recipe.learning_rate, "batch_size": recipe.batch_size}
    if spec.device == "cpu":
        from nearzero.training.fused import FusedEngine

        return FusedEngine(stack, *splits, seeds=seeds, **descent)
    from nearzero.training.stacked import StackedEngine

    return StackedEngine(stack, *splits, seeds=seeds, device=spec.device, precision=spec.precision, **descent)


def _save_every() -> float:
    """Return the seconds between saves: NEARZERO_SAVE_EVERY, or 20.

    Raises:
        InputError: the variable isn't a number, or is negative.
    """
    given = os.environ.get("NEARZERO_SAVE_EVERY", str(SAVE_EVERY))
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:  # NaN isn't either
        raise InputError(f"NEARZERO_SAVE_EVERY must be a number of seconds; got {given!r}")
    return seconds


@contextmanager
def reaching(device: str) -> Iterator[None]:
    """Turn PyTorch's errors in the block, in which a device is first used, into one line.

    Raises:
        InputError: the device isn't available.
    """
    try:
        yield
    except (RuntimeError, AssertionError) as error:  # AssertionError: a build without CUDA
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device} isn't available here ({reason}); use --device cpu") from error


def _divergences(label: str, diverged_at: npt.NDArray[np.int64]) -> list[str]:
    """Return one line for each run that diverged."""
    return [
        f"{label} run {run} diverged: its loss was no longer a finite number at step {step}; "
        "it's left out of every mean"
        for run, step in enumerate(diverged_at)
        if step != NEVER
    ]


def _history_dataset(spec: Spec, histories: list[History]) -> xr.Dataset:
    """Return the histories of all networks as one Dataset, on (network, run, step)."""
    by_run = ("network", "run")
    loss = {"long_name": "mean cross-entropy on the training set", "units": "nats"}
    variables: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
        "loss": ((*by_run, "step"), loss),
        "train_accuracy": ((*by_run, "step"), {}),
        "test_accuracy": ((*by_run, "step"), {}),
        "checkpoint_step": ((*by_run, "threshold"), {"long_name": "-1: never reached"}),
        "diverged_at": (by_run, {"long_name": "step; -1: never"}),
    }
    stacked = {name: np.stack([getattr(history, name) for history in histories]) for name in variables}
    return xr.Dataset(
        {name: (dims, stacked[name], attrs) for name, (dims, attrs) in variables.items()},
        coords={
            "network": list(spec.activations),
            "run": np.arange(spec.runs),
            "seed": ("run", list(spec.seeds)),
            "step": list(spec.recipe.schedule),
            "threshold": list(spec.thresholds),
        },
    )


# --- sweeping ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepJob(StudyJob):
    """The sweep of one run: its responses at all levels of all families."""

    def measured(self, network: TwoLayer) -> xr.Dataset:
        """Return the responses on (family, level, split); unit ranges are those of the training set."""
        spec, ranges, responses = self.spec, None, []
        for split in _splits(spec):
            examples = self.examples[split]
            evaluator = TwoLayerEvaluator.of(network, examples.pixels, examples.labels)
            ranges = ranges or evaluator.ranges  # the first split is the training set
            responses.append(respond(evaluator, families=spec.families, ranges=ranges, conduct=spec.conduct))
        whole = xr.concat(responses, "split").assign_coords(split=_splits(spec))
        return whole.assign(dead_units=responses[0].dead_units).transpose("family", "level", "split")


def sweep_networks(store: Store, data: DataSource, journal: Journal, workers: Workers = HERE) -> None:
    """Sweep every run of every network that isn't swept yet, and write the responses.

    Raises:
        InputError: the study isn't trained yet.
    """
    spec = store.spec
    if store.read("response") is not None:
        journal.note("sweep: nothing to do")
        return
    # one network per thread, so that the code outside of the kernels runs in parallel too
    count = len(spec.activations) * spec.runs
    threads = thread_count() if count >= thread_count() else 1
    jobs = study_jobs(SweepJob, store, data, "response")
    levels = sum(len(make_family(name, spec.conduct).levels) for name in spec.families)
    journal.say(f"sweeping {number_of(count, 'network')} over {number_of(levels, 'level')}")
    run(jobs, journal, doing="sweeping", did="swept", threads=threads, workers=workers)
    lost = _no_response(spec)
    response = gather(results(jobs), lost=lost).assign_coords(seed=("run", list(spec.seeds)))
    for name, attributes in ATTRIBUTES.items():
        response[name].attrs = dict(attributes)
    history = store.read("history")
    assert history is not None
    response.attrs = {
        **spec.model_dump(include=set(CONDUCT)),
        "data": data.name,
        "notices": list(_notices(data, history, response)),
    }
    store.write({"response": response, "history": history})
    store.clear_state()


def _splits(spec: Spec) -> list[str]:
    return ["train", "test"] if spec.test else ["train"]


def _no_response(spec: Spec) -> xr.Dataset:
    """Return the response of a lost run: NaN at all levels."""
    levels = [make_family(name, spec.conduct).levels for name in spec.families]
    axes = {"family": list(spec.families), "level": np.unique(np.concatenate(levels)), "split": _splits(spec)}
    curve = xr.DataArray(np.nan, axes, list(axes))
    unperturbed = curve.isel(family=0, level=0, drop=True)
    return xr.Dataset(
        {"accuracy": curve, "agreement": curve, "unperturbed_accuracy": unperturbed, "dead_units": np.nan}
    )


def _notices(data: DataSource, history: xr.Dataset, response: xr.Dataset) -> Iterator[str]:
    """Yield what a reader of the results must know before the numbers."""
    if data.notice:
        yield data.notice
    for name in map(str, response.network.values):
        label, diverged_at = activation(name).label, history.diverged_at.sel(network=name).values
        yield from _divergences(label, diverged_at)
        lost = response.dead_units.sel(network=name).isnull().values
        for number in np.flatnonzero(lost):
            if diverged_at[number] == NEVER:
                yield f"{label} run {number} has weights that aren't finite; it's left out of every mean"
