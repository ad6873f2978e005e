"""The verdict on several trainings of a user's own model: each is measured with its own draws, then all are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Unpack

import xarray as xr
from torch import nn

from nearzero.analysis.matched import Design
from nearzero.analysis.verdict import LOSS, Measure, Rules, Verdict, design_for, verdict
from nearzero.errors import InputError
from nearzero.evaluators.base import Backend, LayerEvaluator
from nearzero.evaluators.plan import Names, Request
from nearzero.evaluators.select import ModelOptions, evaluators_of
from nearzero.evaluators.session import Session, open_session
from nearzero.networks import TwoLayer
from nearzero.probing.measure import matched_layers
from nearzero.probing.sources import ONE_AT_A_TIME, JobInputs, ModelSource, anywhere, weights_digest
from nearzero.support.progress import python_progress
from nearzero.support.workers import Packed, Workers, do_all
from nearzero.torch_models.loading import weights_of_runs
from nearzero.torch_models.named import Loading, NamedModel, open_data, open_model

__all__ = [
    "judge_runs",
    "layer_names",
    "metrics_for",
    "run_responses",
]


def judge_runs(
    model: nn.Module
    | str
    | NamedModel
    | Callable[[], nn.Module]
    | Iterable[nn.Module | TwoLayer | str | NamedModel],
    data: Any,
    layers: Names = None,
    *,
    weights: str | Path | Sequence[str | Path] | None = None,
    held_out: Any = None,
    rules: Rules | None = None,
    design: Design | None = None,
    memory: int | str | None = None,
    progress: bool | None = None,
    advanced: Callable[[int], None] = lambda runs: None,
    executor: Executor | Workers | None = None,
    **options: Unpack[ModelOptions],
) -> Verdict:
    """Return the verdict on several runs of a model: does distance or intensity cost more at equal displacement?

    A run is a training of its own, from its own initial weights. Several checkpoints of one training aren't runs,
    and would make the verdict surer than it is. Every run has draws of its own. All layers of the model are one
    table, and Holm's adjustment goes over it. Fewer than six runs are described and not judged.

    Args:
        model: with `weights`, a module (which isn't changed), a function that builds one, or a name; without, the
            trained modules or their names ("hf:EleutherAI/pythia-14m-seed1" and so on), one for each run.
        data: inputs and labels, or batches, or a name, as `nz.probe` takes them.
        layers: names or globs, as `nz.layers` lists them; all activations if None.
        weights: a folder with a file (or a folder) of weights for each run, or a list of these, as
            `nz.load_weights` reads them.
        held_out: other data in the same form, for the check with data that neither training nor levels used; of a data
            set by name, its test split.
        rules: the rules; `Rules()` if None.
        design: families, targets and draws; those that the rules and their checks need if None, and the plain
            shift, which is reported. Run k begins with draw `first_draw` + k `draws`.
        memory: as for `nz.probe`.
        progress: whether a progress bar is shown, as for `nz.probe`.
        advanced: a function that is called after each run, with 1.
        executor: measures the runs, each a job of its own; any `concurrent.futures.Executor`, see `nearzero.Workers`;
            this process if None. What goes to other processes must be pickled: names of models and data always can be.
            In one process, runs are measured one after the other.
        options: settings of the model, see `nearzero.evaluators.select.ModelOptions`; `layers` replaces `layer`.

    Returns:
        The verdict. If the runs were given by name, its `costs` have the coordinate `origin`: name, revision and hash
        of each, which `Origin.from_json` reads.

    Raises:
        InputError: a model, weights, data or rules that can't be used, or two runs with the same weights; the
            message names the run.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> from nearzero.mechanisms.planted import distance_network, prototype_task
        >>> task = prototype_task(np.random.default_rng(0), examples=200)
        >>> networks = [distance_network(task, np.random.default_rng(run)) for run in range(6)]
        >>> modules = [network.to_module() for network in networks]
        >>> rules = nz.Rules(targets=(0.5,), checks=())
        >>> found = nz.judge_runs(modules, (task.x, task.y), rules=rules)
        >>> found.networks, found.finding("1")  # the layer's name; they measure distances
        (('1',), 'distance costs more')
    """
    rules = rules or Rules()
    design, workers = design or design_for(rules), Workers.of(executor)
    loading = options.get("loading")
    splits = isinstance(data, str) and loading is not None and loading.split == "train"
    if (
        held_out is not None
        and (held_out is data or (isinstance(data, str) and held_out == data))
        and not splits
    ):
        raise InputError("held_out is the data themselves; give data that the networks weren't trained on")
    if "layer" in options:
        raise InputError("judge_runs takes layers=..., names or globs, and not layer=...")
    settings: dict[str, Any] = {**options, "layers": layers, "memory": memory}
    settings["metrics"] = metrics_for(rules.measure)
    backend = settings.pop("backend", None)
    found: dict[int, _RunResponses] = {}
    with python_progress("measuring runs", progress) as report:

        def take(run: _Run, measured: _RunResponses) -> None:
            _check_new(measured, found.values())
            found[run.number] = measured
            if len(found) == 1:
                verdict([measured.responses], rules)  # refuses now what would be refused at the end
            report(len(found), None)
            advanced(1)

        runs = _runs(model, weights, loading, workers)
        measure, runs = _measurement(runs, data, held_out, design, settings, backend, workers)
        do_all(measure, runs, workers, name=lambda run: run.name, finished=take, keeps=False)
    measured = [found[number] for number in sorted(found)]
    judged = verdict([each.responses for each in measured], rules)
    origins = [each.origin for each in measured]
    if not any(origins):
        return judged
    return replace(judged, costs=judged.costs.assign_coords(origin=("run", origins)))


@dataclass(frozen=True)
class _Run:
    """One run of a model, and how its model is made.

    Attributes:
        number: of the run.
        source: the model with the weights of the run.
    """

    number: int
    source: ModelSource

    @property
    def name(self) -> str:
        """Return the name of the run, in messages."""
        return self.source.name


@dataclass(frozen=True)
class _RunResponses:
    """The responses of one run, the digest of its weights, and its origin as JSON if it was given by name."""

    number: int
    name: str
    responses: xr.Dataset
    digest: str | None
    origin: str


@dataclass(frozen=True)
class _RunMeasurement:
    """Measure one run after the other, in any process.

    Attributes:
        given: data, held-out data and settings.
        design: of run 0.
    """

    given: JobInputs
    design: Design

    def __call__(self, run: _Run) -> _RunResponses:
        """Return what was measured of a run.

        Raises:
            InputError: a model, a layer or data that can't be used.
        """
        with ONE_AT_A_TIME, self.given.surroundings.applied():
            model = run.source.open()
            data, held_out, settings, backend = self.given.packed.open()
            design = replace(self.design, first_draw=self.design.first_draw + run.number * self.design.draws)
            try:
                own, other = _opened(model, data, settings), _opened(model, held_out, settings, held_out=True)
                responses = run_responses(model, own, other, design, settings, backend)
            except InputError as error:
                raise InputError(f"{run.name}: {error}") from error
            module, origin = (
                (model.module, model.origin.to_json()) if isinstance(model, NamedModel) else (model, "")
            )
            return _RunResponses(run.number, run.name, responses, weights_digest(module), origin)


def _measurement(
    runs: Iterator[_Run],
    data: Any,
    held_out: Any,
    design: Design,
    settings: Mapping[str, Any],
    backend: Backend | None,
    workers: Workers,
) -> tuple[_RunMeasurement, Iterator[_Run]]:
    """Return the measurement of all runs, at the layers that are found on the first one, and the runs.

    Raises:
        InputError: there is no run, its model, layers or data can't be used, or data can't be sent to workers.
    """
    first = next(runs)
    model = first.source.open()
    try:
        names = layer_names(model, _opened(model, data, settings), settings)
    except InputError as error:
        raise InputError(f"{first.name}: {error}") from error
    needed = (anywhere(data), anywhere(held_out), {**settings, "layers": names}, backend)
    given = JobInputs.of(needed, "data or a setting", workers)
    if workers.executor is None:  # it needn't be opened again
        opened = replace(first.source, model=Packed(first.name, held=(model, None)), weights=None)
        first = replace(first, source=opened)
    return _RunMeasurement(given, design), chain([first], runs)


def _opened(run: Any, data: Any, settings: Mapping[str, Any], *, held_out: bool = False) -> Any:
    """Return data as the model of one run takes them, if they are given by name.

    Of a data set that is held out, it is the test split.
    """
    if not isinstance(data, str):
        return data
    loading = settings.get("loading") or Loading()
    loading = replace(loading, split="test") if held_out else loading
    return open_data(data, run, loading, batch_size=settings.get("batch_size"))


def _runs(
    model: Any, weights: str | Path | Sequence[str | Path] | None, loading: Loading | None, workers: Workers
) -> Iterator[_Run]:
    """Yield the runs.

    Raises:
        InputError: there is no run, or a model can't be loaded or sent to workers.
    """
    builds = isinstance(model, (nn.Module, NamedModel, str)) or (
        callable(model) and not isinstance(model, TwoLayer)
    )
    if weights is not None and not builds:
        raise InputError(
            "with weights=..., model must be a module or a function that builds one; got "
            f"{type(model).__name__}"
        )
    if weights is None and (builds or isinstance(model, TwoLayer) or not isinstance(model, Iterable)):
        raise InputError(
            "a verdict needs several runs: give a list of trained models, or weights=..., a folder with a file "
            "for each run"
        )
    if weights is not None:
        origin = model if isinstance(model, str) else ""
        if isinstance(model, str) and workers.executor is None:
            model = open_model(model, loading)  # once for all runs
        packed = Packed.of((anywhere(model), loading), "the model", workers)
        for number, path in enumerate(weights_of_runs(weights)):
            yield _Run(number, ModelSource(str(path), packed, path.absolute(), origin))
        return
    number = -1
    for number, each in enumerate(model):
        name = each if isinstance(each, str) else f"run {number}"
        name = each.origin.name if isinstance(each, NamedModel) else name
        packed = Packed.of((anywhere(each), loading), name, workers)
        yield _Run(number, ModelSource(name, packed, None, name))
    if number < 0:
        raise InputError("a verdict needs at least one run; got an empty list of models")


def _check_new(run: _RunResponses, others: Iterable[_RunResponses]) -> None:
    """Refuse a run with the weights of another one that was measured before.

    Raises:
        InputError: names both.
    """
    for other in others:
        if run.digest is not None and run.digest == other.digest:
            earlier, later = sorted((run, other), key=lambda each: each.number)
            raise InputError(
                f"{later.name} and {earlier.name} have the same weights; runs must be trainings of their own: leave "
                "one out"
            )


def metrics_for(measure: Measure) -> tuple[str, ...] | None:
    """Return the metrics that a verdict by a measure needs; None for the default ones, accuracy and agreement."""
    return ("accuracy", "agreement", LOSS) if measure.endswith(LOSS) else None


def layer_names(module: nn.Module | NamedModel, data: Any, settings: Mapping[str, Any]) -> list[str]:
    """Return the names of the layers that were asked for, in the order of the pass, without those of groups of units.

    Args:
        module, data, settings: as for `run_responses`.

    Raises:
        InputError: a model, a layer or data that can't be used.
    """
    with open_session(module, data, Request(**settings, centred=True)) as session:
        return list(dict.fromkeys(layer.whole for layer in session.layers))


def run_responses(
    module: nn.Module | NamedModel,
    data: Any,
    held_out: Any,
    design: Design,
    settings: Mapping[str, Any],
    backend: Backend | None,
) -> xr.Dataset:
    """Return the responses of all layers of one run at matched displacement, on (layer, family, side, target).

    Args:
        module: the run.
        data: inputs and labels, or batches, as `nz.probe` takes them.
        held_out: other data in the same form, for the check with these; None if there are none.
        design: families, targets and the run's own draws.
        settings: of `nearzero.evaluators.plan.Request`, among them `layers` and `metrics`.
        backend: "two-layer" or "model"; chosen for each layer if None.

    Raises:
        InputError: a model, a layer or data that can't be used.
    """
    with ExitStack() as stack:

        def opened(data: Any) -> tuple[Session, list[LayerEvaluator]]:
            session = stack.enter_context(open_session(module, data, Request(**settings, centred=True)))
            metrics = None if settings.get("metrics") is None else list(session.metrics)
            return session, evaluators_of(session, backend, metrics=metrics)

        others = None if held_out is None else opened(held_out)[1]
        return matched_layers(*opened(data), design, others)
