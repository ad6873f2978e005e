"""The steps of a study: train its networks and sweep them.

Each step does only what is missing, so an interrupted step continues when it is called again. The arithmetic
is in `nearzero.training` and `nearzero.analysis.sweep`, files are in `nearzero.study.store`, and
`nearzero.study.jobs` runs the jobs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
from nearzero.study.jobs import Results, StudyJob, gather, results, run, study_jobs
from nearzero.study.journal import Journal
from nearzero.study.spec import CONDUCT, Spec
from nearzero.study.store import CHECKPOINTS, Store
from nearzero.support.memory import LEAST, memory_limit
from nearzero.support.threads import thread_count
from nearzero.training.engine import Engine, Examples
from nearzero.training.train import NEVER, History, Progress, train

__all__ = ["SweepJob", "reaching", "sweep_networks", "train_networks"]

State = tuple[Progress, Stack]  # of the training of all runs of one network

# Seconds between saves of the training: about the most that is lost if the process is killed.
SAVE_EVERY = 20.0
ATTRIBUTES = {
    "accuracy": {"long_name": "share of examples predicted right"},
    "agreement": {"long_name": "share of predictions that are those of the unperturbed network"},
    "unperturbed_accuracy": {"long_name": "accuracy under the identity"},
    "dead_units": {"long_name": "hidden units whose post-activation range over the training set is 0"},
}


# --- training ---------------------------------------------------------------------------------------------


def train_networks(store: Store, data: DataSource, journal: Journal) -> None:
    """Train every run of every network that isn't trained yet, and write networks and history.

    Raises:
        InputError: the device isn't available, or a file can't be written.
    """
    spec = store.spec
    if store.read("history") is not None and not _networks_missing(store, journal):
        journal.note("training: nothing to do")
        return
    if spec.device != "cpu":
        import torch

        with reaching(spec.device):
            torch.empty(1, device=spec.device)
    elif not any_compiled():
        journal.say("compiling kernels for this processor, once; `nearzero compile` does it beforehand")
    examples = data.examples(spec)
    states = {}
    for name in spec.activations:
        kept = store.load_progress(name)
        if kept is None and store.has_progress(name):
            journal.say(f"the progress of {name} is damaged, or of another spec: its training begins anew")
        states[name] = kept or _initial_state(spec, name, data)
    for names in _trained_together(spec, {name: progress.step for name, (progress, _) in states.items()}):
        _train(store, {name: states[name] for name in names}, examples, journal)
    store.write({"history": _history_dataset(spec, [states[name][0].history for name in spec.activations])})
    store.clear_state()


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


def _initial_state(spec: Spec, name: str, data: DataSource) -> State:
    return Progress(0, History.empty(spec.runs, spec.recipe)), data.initial(spec, name, spec.seeds)


def _trained_together(spec: Spec, steps: dict[str, int]) -> list[list[str]]:
    """Return groups of networks to be trained together.

    Networks at the same step of training share mini-batches on the processor; there they form a group. On
    other devices, or without mini-batches, each is trained alone.
    """
    if spec.device != "cpu" or spec.batch_size == "all":
        return [[name] for name in steps]
    return [[name for name in steps if steps[name] == step] for step in dict.fromkeys(steps.values())]


def _train(store: Store, states: dict[str, State], examples: dict[str, Examples], journal: Journal) -> None:
    """Train all runs of networks that are at the same step, write the networks, and update their histories.

    The progress of each network is saved in a file of its own. If the process ends between two of these
    saves, the networks are at different steps, and are then trained one after the other.
    """
    spec, recipe, names = store.spec, store.spec.recipe, list(states)
    (step,) = {progress.step for progress, _ in states.values()}
    progress = Progress(step, History.joined([progress.history for progress, _ in states.values()]))
    stack = Stack.joined([stack for _, stack in states.values()])
    rows = {name: slice(k * spec.runs, (k + 1) * spec.runs) for k, name in enumerate(names)}
    labels = " and ".join(activation(name).label for name in names)
    runs = "1 run" if spec.runs == 1 else f"{spec.runs} runs"
    journal.say(
        f"training {labels}: {runs}{' each' if len(names) > 1 else ''}, {spec.steps:,} steps"
        + (f", continuing from step {step}" if step else "")
    )
    engine = _engine(spec, stack, examples)

    def checkpoint(run: int, step: int, network: TwoLayer) -> None:
        if spec.keep_checkpoints:
            store.write_network(network, run % spec.runs, step)

    def save(progress: Progress, stack: Stack) -> None:
        for name in names:
            own = Progress(progress.step, progress.history.part(rows[name]))
            store.save_progress(name, own, stack.part(rows[name]))

    with journal.timed(f"trained {labels}"), journal.bar(f"training {labels}", spec.steps) as bar:
        train(
            engine,
            recipe,
            progress,
            examples=(len(examples["train"]), len(examples["test"])),
            checkpoint=checkpoint,
            save=save,
            save_every=_save_every(),
            advanced=bar,
        )
    stack = engine.stack()
    for row, network in enumerate(stack):
        store.write_network(network, row % spec.runs)
    save(progress, stack)
    for name in names:
        history = states[name][0].history = progress.history.part(rows[name])
        for line in _divergences(activation(name).label, history.diverged_at):
            journal.warn(line)


def _engine(spec: Spec, stack: Stack, examples: dict[str, Examples]) -> Engine:
    splits = (examples["train"], examples["test"])
    seeds, recipe = spec.seeds * (len(stack) // spec.runs), spec.recipe
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
    """The sweep of one run: its responses at all levels of all families.

    Attributes:
        memory: the bytes of memory that the sweep may use.
    """

    memory: int

    def measured(self, network: TwoLayer) -> xr.Dataset:
        """Return the responses on (family, level, split); unit ranges are those of the training set."""
        spec, ranges, responses = self.spec, None, []
        for split in _splits(spec):
            examples = self.examples[split]
            evaluator = TwoLayerEvaluator.of(network, examples.pixels, examples.labels, memory=self.memory)
            ranges = ranges or evaluator.ranges  # the first split is the training set
            responses.append(respond(evaluator, families=spec.families, ranges=ranges, conduct=spec.conduct))
        whole = xr.concat(responses, "split").assign_coords(split=_splits(spec))
        return whole.assign(dead_units=responses[0].dead_units).transpose("family", "level", "split")


def sweep_networks(store: Store, data: DataSource, journal: Journal) -> None:
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
    workers = thread_count() if count >= thread_count() else 1
    memory = max(memory_limit() // workers, LEAST)
    jobs = study_jobs(partial(SweepJob, memory=memory), store, data, "response")
    levels = sum(len(make_family(name, spec.conduct).levels) for name in spec.families)
    journal.say(f"sweeping {count} networks over {levels} levels")
    run(jobs, journal, doing="sweeping", did="swept", threads=workers)
    measured = results(jobs)
    response = gather(measured, lost=_no_response(spec)).assign_coords(seed=("run", list(spec.seeds)))
    for name, attributes in ATTRIBUTES.items():
        response[name].attrs = dict(attributes)
    history = store.read("history")
    assert history is not None
    response.attrs = {
        **spec.model_dump(include=set(CONDUCT)),
        "data": data.name,
        "notices": list(_notices(data, history, measured)),
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


def _notices(data: DataSource, history: xr.Dataset, measured: Results) -> Iterator[str]:
    """Yield what a reader of the results must know before the numbers."""
    if data.notice:
        yield data.notice
    for name, runs in measured.items():
        label, diverged_at = activation(name).label, history.diverged_at.sel(network=name).values
        yield from _divergences(label, diverged_at)
        for number, result in enumerate(runs):
            if result is None and diverged_at[number] == NEVER:
                yield f"{label} run {number} has weights that aren't finite; it's left out of every mean"
