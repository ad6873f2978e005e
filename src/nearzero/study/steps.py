"""The steps of a study: train its networks, sweep them, report.

Each step looks at what is there and does what is missing, so an interrupted step is taken up by calling it
again. Arithmetic is elsewhere (`nearzero.training`, `nearzero.sweep`), and so are files
(`nearzero.study.store`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.activations import activation
from nearzero.datasets import Dataset, load
from nearzero.errors import InputError
from nearzero.evaluators.two_layer import TwoLayerEvaluator
from nearzero.families import make_family
from nearzero.kernels.compile import any_compiled
from nearzero.memory import LEAST, memory_limit
from nearzero.networks import Stack, TwoLayer, initial_stack
from nearzero.pixels import Pixels
from nearzero.study.journal import Journal
from nearzero.study.provenance import sitting
from nearzero.study.spec import CONDUCT, Spec
from nearzero.study.store import Arrays, Store
from nearzero.sweep import respond
from nearzero.threads import parallel, thread_count
from nearzero.training.engine import Engine, Examples
from nearzero.training.train import NEVER, History, Progress, train

__all__ = ["begin", "examples_of", "load_data", "sweep_networks", "train_networks"]

Begun = tuple[Progress, Stack]

SAVE_EVERY = 20.0  # seconds of training that a kill can cost at most, about
RESPONSE = {
    "accuracy": ("family", "level", "split"),
    "agreement": ("family", "level", "split"),
    "unperturbed_accuracy": ("split",),
    "dead_units": (),
}
ABOUT = {
    "accuracy": {"long_name": "share of examples predicted right"},
    "agreement": {"long_name": "share of predictions that are those of the unperturbed network"},
    "unperturbed_accuracy": {"long_name": "accuracy under the identity"},
    "dead_units": {"long_name": "hidden units whose post-activation range over the training set is 0"},
}
SPLIT_VARIABLES = [name for name, dims in RESPONSE.items() if "split" in dims]

# by data and by how their pixels are seen, so that what's prepared for them is found again
_examples: WeakKeyDictionary[Dataset, dict[str, dict[str, Examples]]] = WeakKeyDictionary()


def load_data(spec: Spec, data_dir: str | None, journal: Journal) -> Dataset:
    """The data of a spec. For the quick preset alone, 5,000 digits may take the place of MNIST, with a notice."""
    data = load(spec.data, data_dir=data_dir, substitute=spec.preset == "quick", report=journal.say)
    if data.notice:
        journal.warn(data.notice)
    return data


def begin(store: Store, data: Dataset) -> None:
    """Record this sitting; refuse to go on with other data than the study was begun with."""
    record = store.provenance
    about = {"name": data.name, "source": data.source, "notice": data.notice, "sha256": dict(data.hashes)}
    if not store.begun:
        record.pop("data", None)
    before = record.get("data", about)
    if before["sha256"] != about["sha256"]:
        raise InputError(
            f"{store.folder} was begun with {before['name']} from {before['source']}, and now {data.name} from "
            f"{data.source} has other contents; give the same data, or choose another folder"
        )
    record.setdefault("data", about)
    sittings, now = record.setdefault("sittings", []), sitting(store.spec.device, thread_count())
    if now not in sittings:
        sittings.append(now)
        store.note(record)


def examples_of(spec: Spec, data: Dataset) -> dict[str, Examples]:
    """Training and test set as the networks of a spec see them; the same objects as long as the data live."""
    known = _examples.setdefault(data, {})
    if spec.pixels not in known:
        raw = spec.pixels == "raw"
        gain, shift = (1.0, 0.0) if raw else (1 / (data.white * data.std), -data.mean / data.std)
        splits = {"train": data.train, "test": data.test}
        known[spec.pixels] = {
            name: Examples(Pixels(each.pixels, gain, shift), each.labels) for name, each in splits.items()
        }
    return known[spec.pixels]


# --- training ---------------------------------------------------------------------------------------------


def train_networks(store: Store, data: Dataset, journal: Journal) -> None:
    """Train every run of every network that isn't there yet; ends with networks and history on disk."""
    spec = store.spec
    if store.read_results("history") is not None and _all_sound(store, journal):
        journal.note("training: nothing to do")
        return
    _check_device(spec.device)
    if spec.device == "cpu" and not any_compiled():
        journal.say("compiling kernels for this processor, once; `nearzero compile` does it beforehand")
    examples = examples_of(spec, data)
    begun = {name: store.load_progress(name) or _at_step_0(spec, name, data) for name in spec.activations}
    for names in _side_by_side(spec, {name: progress.step for name, (progress, _) in begun.items()}):
        _train(store, {name: begun[name] for name in names}, examples, journal)
    store.write_results(_history_dataset(spec, [begun[name][0].history for name in spec.activations]))
    store.clear_state()


def _all_sound(store: Store, journal: Journal) -> bool:
    """Whether the network of every run is there and whole."""
    try:
        for name in store.spec.activations:
            for run in range(store.spec.runs):
                store.read_network(name, run)
    except InputError as error:
        journal.say(f"training again: {error}")
        return False
    return True


def _at_step_0(spec: Spec, name: str, data: Dataset) -> Begun:
    inputs, classes = data.train.pixels.shape[1], data.classes
    stack = initial_stack(spec.seeds, name, inputs=inputs, units=spec.units, classes=classes)
    return Progress(0, History.empty(spec.runs, spec.recipe)), stack


def _side_by_side(spec: Spec, steps: dict[str, int]) -> list[list[str]]:
    """Which networks to train together: on the processor, where they share mini-batches, those at the same step."""
    if spec.device != "cpu" or spec.batch_size == "all":
        return [[name] for name in steps]
    return [[name for name in steps if steps[name] == step] for step in dict.fromkeys(steps.values())]


def _train(store: Store, begun: dict[str, Begun], examples: dict[str, Examples], journal: Journal) -> None:
    """Train all runs of some networks that stand at the same step, and write them; their histories are kept up to date.

    The progress of each network is saved by itself. If the process dies between two of these, they go on one by one.
    """
    spec, recipe, names = store.spec, store.spec.recipe, list(begun)
    (step,) = {progress.step for progress, _ in begun.values()}
    progress = Progress(step, History.joined([each.history for each, _ in begun.values()]))
    stack = Stack.joined([each for _, each in begun.values()])
    rows = {name: slice(k * spec.runs, (k + 1) * spec.runs) for k, name in enumerate(names)}
    labels = " and ".join(activation(name).label for name in names)
    runs = "1 run" if spec.runs == 1 else f"{spec.runs} runs"
    journal.say(
        f"training {labels}: {runs}{' each' if len(names) > 1 else ''}, {spec.steps:,} steps"
        + (f", going on from step {step}" if step else "")
    )
    engine = _engine(spec, stack, examples)

    def checkpoint(run: int, step: int, network: TwoLayer) -> None:
        if spec.keep_checkpoints:
            store.write_network(network, run % spec.runs, step)

    def save(progress: Progress, stack: Stack) -> None:
        for name in names:
            its = Progress(progress.step, progress.history.part(rows[name]))
            store.save_progress(name, its, stack.part(rows[name]))

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
    for place, network in enumerate(stack):
        store.write_network(network, place % spec.runs)
    save(progress, stack)
    for name in names:
        history = begun[name][0].history = progress.history.part(rows[name])
        for line in _divergences(activation(name).label, history.diverged_at):
            journal.warn(line)


def _engine(spec: Spec, stack: Stack, examples: dict[str, Examples]) -> Engine:
    arguments: dict[str, Any] = {
        "seeds": spec.seeds * (len(stack) // spec.runs),
        "learning_rate": spec.learning_rate,
        "batch_size": spec.recipe.batch_size,
    }
    if spec.device == "cpu":
        from nearzero.training.fused import FusedEngine

        return FusedEngine(stack, examples["train"], examples["test"], **arguments)
    from nearzero.training.stacked import StackedEngine

    return StackedEngine(
        stack,
        examples["train"],
        examples["test"],
        device=spec.device,
        precision=spec.precision,
        **arguments,
    )


def _save_every() -> float:
    """Seconds between saves: NEARZERO_SAVE_EVERY, or 20."""
    given = os.environ.get("NEARZERO_SAVE_EVERY", str(SAVE_EVERY))
    try:
        return float(given)
    except ValueError:
        raise InputError(f"NEARZERO_SAVE_EVERY must be a number of seconds; got {given!r}") from None


def _check_device(device: str) -> None:
    """Refuse a device that PyTorch can't reach here."""
    if device == "cpu":
        return
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a build without CUDA
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device} isn't available here ({reason}); use --device cpu") from error


def _divergences(label: str, diverged_at: npt.NDArray[np.int64]) -> list[str]:
    """One line for each run that diverged."""
    return [
        f"{label} run {run} diverged: its loss was no longer a finite number at step {step}; "
        "it's left out of every mean"
        for run, step in enumerate(diverged_at)
        if step != NEVER
    ]


def _history_dataset(spec: Spec, histories: list[History]) -> xr.Dataset:
    """Histories of all networks as one labelled data set, on (network, run, step)."""
    curve, each = ("network", "run", "step"), ("network", "run")

    def stacked(name: str) -> np.ndarray[Any, Any]:
        return np.stack([getattr(history, name) for history in histories])

    return xr.Dataset(
        {
            "loss": (
                curve,
                stacked("loss"),
                {"long_name": "mean cross-entropy on the training set", "units": "nats"},
            ),
            "train_accuracy": (curve, stacked("train_accuracy")),
            "test_accuracy": (curve, stacked("test_accuracy")),
            "checkpoint_step": (
                (*each, "threshold"),
                stacked("checkpoint_step"),
                {"long_name": "-1: never reached"},
            ),
            "diverged_at": (each, stacked("diverged_at"), {"long_name": "step; -1: never"}),
        },
        coords={
            "network": list(spec.activations),
            "run": np.arange(spec.runs),
            "seed": ("run", list(spec.seeds)),
            "step": list(spec.recipe.schedule),
            "threshold": list(spec.thresholds),
        },
    )


# --- sweeping ---------------------------------------------------------------------------------------------


def sweep_networks(store: Store, data: Dataset, journal: Journal) -> None:
    """Sweep every run of every network that isn't swept yet; ends with the responses on disk."""
    spec = store.spec
    if store.read_results("response") is not None:
        journal.note("sweep: nothing to do")
        return
    history = store.read_results("history")
    if history is None:
        raise InputError(
            f"{store.folder} has no trained networks yet; run `nearzero train {store.folder}` first"
        )
    examples = examples_of(spec, data)
    splits = ["train", "test"] if spec.test else ["train"]
    each = [(name, run) for name in spec.activations for run in range(spec.runs)]
    diverged = history.diverged_at.transpose("network", "run").values.ravel() != NEVER
    grids = [make_family(name, spec.conduct).levels for name in spec.families]
    journal.say(f"sweeping {len(each)} networks over {sum(map(len, grids))} levels")
    sets, done = [examples[split] for split in splits], count(1)
    parts: list[Arrays] = [{} for _ in each]
    # a network on each thread: what isn't in kernels then costs no more than its share
    workers = thread_count() if len(each) >= thread_count() else 1
    memory = max(memory_limit() // workers, LEAST)
    with journal.timed("swept"), journal.bar("sweeping", len(each)) as bar:

        def work(place: int) -> None:
            if not diverged[place]:
                parts[place] = _sweep_network(store, *each[place], sets, memory)
            bar(next(done))

        parallel(work, range(len(each)), workers)
    coords = {
        "network": list(spec.activations),
        "run": np.arange(spec.runs),
        "seed": ("run", list(spec.seeds)),
        "family": list(spec.families),
        "level": np.unique(np.concatenate(grids)),
        "split": splits,
    }
    attributes = {
        **spec.model_dump(include=set(CONDUCT)),
        "data": data.name,
        "notices": list(_notices(data, history)),
    }
    store.write_results(history, _response_dataset(parts, coords, attributes))
    store.clear_state()


def _sweep_network(store: Store, name: str, run: int, splits: Sequence[Examples], memory: int) -> Arrays:
    """All responses of one run; ranges are those of the first split, the training set. memory: bytes it may take."""
    kept = f"response-{name}-{run:02d}"
    arrays = store.read_state(kept)
    if arrays is not None and set(arrays) == set(RESPONSE):
        return arrays
    spec = store.spec
    network = store.read_network(name, run)
    if not network.finite:  # it diverged after the last measurement
        return {}
    ranges, responses = None, []
    for split in splits:
        evaluator = TwoLayerEvaluator.of(network, split.pixels, split.labels, memory=memory)
        ranges = ranges or evaluator.ranges
        responses.append(respond(evaluator, families=spec.families, ranges=ranges, conduct=spec.conduct))
    arrays = {name: np.stack([each[name].values for each in responses], axis=-1) for name in SPLIT_VARIABLES}
    arrays["dead_units"] = np.array(float(ranges.dead_units) if ranges else np.nan)
    store.write_state(kept, arrays)
    return arrays


def _response_dataset(parts: list[Arrays], coords: dict[str, Any], attributes: dict[str, Any]) -> xr.Dataset:
    """Responses of all runs, in order, as one labelled data set; NaN for runs that diverged."""
    networks, runs = len(coords["network"]), len(coords["run"])
    sizes = {name: len(coords[name]) for name in ("family", "level", "split")}

    def gathered(name: str) -> np.ndarray[Any, Any]:
        missing = np.full([sizes[dim] for dim in RESPONSE[name]], np.nan)
        rows = np.stack([part.get(name, missing) for part in parts])
        return rows.reshape(networks, runs, *rows.shape[1:])

    data = {name: (("network", "run", *dims), gathered(name), ABOUT[name]) for name, dims in RESPONSE.items()}
    return xr.Dataset(data, coords, attributes)


def _notices(data: Dataset, history: xr.Dataset) -> Iterator[str]:
    """What a reader of the results must know before the numbers."""
    if data.notice:
        yield data.notice
    for name in history.network.values:
        yield from _divergences(activation(name).label, history.diverged_at.sel(network=name).values)
