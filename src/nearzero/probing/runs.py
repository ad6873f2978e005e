"""The verdict on several trainings of a user's own model: each is measured with its own draws, then all are judged."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch
import xarray as xr
from torch import Tensor, nn

from nearzero.analysis.matched import Design
from nearzero.analysis.verdict import LOSS, Measure, Rules, Verdict, design_for, verdict
from nearzero.errors import InputError
from nearzero.evaluators.base import Backend, LayerEvaluator
from nearzero.evaluators.plan import Names, Request
from nearzero.evaluators.select import ModelOptions, evaluators_of
from nearzero.evaluators.session import Session, open_session
from nearzero.networks import TwoLayer
from nearzero.probing.probe import matched_layers
from nearzero.support.progress import python_progress
from nearzero.torch_models.loading import load_weights, weights_of_runs
from nearzero.torch_models.named import Loading, NamedModel, open_data, open_model
from nearzero.torch_models.state import as_module

__all__ = ["judge_runs", "layer_names", "metrics_for", "run_responses", "weights_digest"]


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
    design = design or design_for(rules)
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
    measured: list[xr.Dataset] = []
    seen: dict[str, str] = {}
    names: list[str] = []
    origins: list[str] = []
    with python_progress("measuring runs", progress) as report:
        for number, (name, run) in enumerate(_runs(model, weights, options.get("loading"))):
            _check_new(run.module if isinstance(run, NamedModel) else run, name, seen)
            origins.append(run.origin.to_json() if isinstance(run, NamedModel) else "")
            try:
                own_data = _opened(run, data, settings)
                other = _opened(run, held_out, settings, held_out=True)
                names = names or layer_names(run, own_data, settings)
                own = replace(design, first_draw=design.first_draw + number * design.draws)
                settings["layers"] = names
                measured.append(run_responses(run, own_data, other, own, settings, backend))
            except InputError as error:
                raise InputError(f"{name}: {error}") from error
            if not number:
                verdict(measured, rules)  # refuses now what would be refused at the end
            report(number + 1, None)
            advanced(1)
    judged = verdict(measured, rules)
    if not any(origins):
        return judged
    return replace(judged, costs=judged.costs.assign_coords(origin=("run", origins)))


def _opened(run: Any, data: Any, settings: dict[str, Any], *, held_out: bool = False) -> Any:
    """Return data as the model of one run takes them, if they are given by name.

    Of a data set that is held out, it is the test split.
    """
    if not isinstance(data, str):
        return data
    loading = settings.get("loading") or Loading()
    loading = replace(loading, split="test") if held_out else loading
    return open_data(data, run, loading, batch_size=settings.get("batch_size"))


def _runs(
    model: Any, weights: str | Path | Sequence[str | Path] | None, loading: Loading | None
) -> Iterator[tuple[str, nn.Module | NamedModel]]:
    """Yield the name and the model of each run.

    Raises:
        InputError: there is no run, or a model or weights can't be loaded.
    """
    if isinstance(model, str):
        model = open_model(model, loading)
    builds = isinstance(model, (nn.Module, NamedModel)) or (
        callable(model) and not isinstance(model, TwoLayer)
    )
    if weights is None:
        if builds or isinstance(model, TwoLayer) or not isinstance(model, Iterable):
            raise InputError(
                "a verdict needs several runs: give a list of trained models, or weights=..., a folder with a file "
                "for each run"
            )
        number = -1
        for number, each in enumerate(model):
            run = open_model(each, loading) if isinstance(each, str) else each
            if isinstance(run, NamedModel):
                yield run.origin.name, run
            else:
                yield f"run {number}", as_module(run)
        if number < 0:
            raise InputError("a verdict needs at least one run; got an empty list of models")
        return
    if not builds:
        raise InputError(
            "with weights=..., model must be a module or a function that builds one; got "
            f"{type(model).__name__}"
        )
    for path in weights_of_runs(weights):
        if isinstance(model, NamedModel):
            yield str(path), replace(model, module=copy.deepcopy(model.module)).with_weights(path)[0]
            continue
        module = copy.deepcopy(model) if isinstance(model, nn.Module) else as_module(model())
        load_weights(module, path)
        yield str(path), module


def _check_new(module: nn.Module, name: str, seen: dict[str, str]) -> None:
    """Refuse a run with the weights of an earlier one; `seen` has the names of runs by digest, and is added to."""
    digest = weights_digest(module)
    if digest is None:
        return
    earlier = seen.get(digest)
    if earlier is not None:
        raise InputError(
            f"{name} and {earlier} have the same weights; runs must be trainings of their own: leave one out"
        )
    seen[digest] = name


def weights_digest(module: nn.Module) -> str | None:
    """Return the SHA-256 of a module's parameters, in their order; None if it has none that are dense."""
    values = [value.detach() for value in module.parameters() if value.layout == torch.strided]
    digest = hashlib.sha256()
    for value in values:
        digest.update(_bytes(value))
    return digest.hexdigest() if values else None


def metrics_for(measure: Measure) -> tuple[str, ...] | None:
    """Return the metrics that a verdict by a measure needs; None for the default ones, accuracy and agreement."""
    return ("accuracy", "agreement", LOSS) if measure.endswith(LOSS) else None


def _bytes(value: Tensor) -> bytes:
    return value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


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
