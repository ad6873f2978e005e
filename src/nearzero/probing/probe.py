"""The probe: perturb any layers of any PyTorch model, at every level of several families.

A first pass over the data finds the unit ranges. A second pass measures the responses: batch by batch, layer
by layer, level by level. A batch goes through these modules:

1. `nearzero.probing.probe` makes a `ResponseCollector` for each layer and hands all of them each batch (`_collect`).
2. `nearzero.evaluators.responses` perturbs the layers on the batch and adds up the scores (`take_batch`).
3. `nearzero.torch_models.forward` computes the logits with one layer changed (`SharedPasses`).
4. `nearzero.torch_models.replay` repeats the operations that come after the layer (`Suffix`).
5. `nearzero.evaluators.scores` computes the metrics of the logits, item by item (`Scorer`).

`nearzero.torch_models.discovery` finds the layers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

import xarray as xr
from torch import Tensor

from nearzero.analysis.matched import Design, matched_of
from nearzero.errors import InputError
from nearzero.evaluators.base import Backend, LayerEvaluator
from nearzero.evaluators.metrics import with_losses
from nearzero.evaluators.model import scores_of
from nearzero.evaluators.plan import LayerPlan, Levels, Names, Request, make_plan
from nearzero.evaluators.responses import ResponseCollector, take_batch
from nearzero.evaluators.scores import Metrics
from nearzero.evaluators.select import evaluators_of
from nearzero.evaluators.session import Session, discover, open_session, source_of
from nearzero.perturbations.families import PAPER_FAMILIES, Conduct
from nearzero.perturbations.given import Families
from nearzero.probing.result import LayerResponse, ProbeResult, dataset, with_perplexities
from nearzero.support.progress import Report, python_progress
from nearzero.support.versions import versions_of
from nearzero.torch_models.assumptions.experiments import BatchAxis
from nearzero.torch_models.assumptions.outputs import ClassAxis, OutputKind
from nearzero.torch_models.batches import Prepare
from nearzero.torch_models.forward import Method, SharedPasses
from nearzero.torch_models.layer import Basis, Layer, LayerError, Units
from nearzero.torch_models.named import Loading, resolve
from nearzero.torch_models.ranges import layer_ranges
from nearzero.torch_models.state import Model, Output, as_module, untouched

__all__ = ["layers", "matched_layers", "probe"]

PACKAGES = ("nearzero", "torch", "numpy")  # whose versions a result keeps
BATCHES = 4  # the batches in which `layers` looks for modules that the first examples don't reach


def layers(
    model: object,
    data: Any,
    *,
    prepare: Prepare | None = None,
    output: Output | None = None,
    outputs: bool = False,
    loading: Loading | None = None,
) -> tuple[Layer, ...]:
    """Return the layers of a model that can be probed, in the order of its forward pass.

    The model is run on a few examples of the first batch. Its state is then restored, bit for bit.

    Args:
        model, data, prepare, output, loading: as in `probe`.
        outputs: True to list the inputs of linear layers and convolutions too, as `name:input`, and the outputs of all
            other modules, which `probe` takes by name.

    Raises:
        InputError: the model can't be probed, or can't be run on the data.

    Example:
        >>> import nearzero as nz
        >>> from torch import nn, zeros
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> for layer in nz.layers(model, [zeros(8, 4)]):
        ...     print(layer.name, layer.kind, layer.activation, layer.units)
        0 linear relu 3
        1 activation relu 3
        2 linear None 2
    """
    request = Request(prepare=prepare, output=output, loading=loading)
    named = resolve(model, data, loading)
    module = as_module(named.model)
    with untouched(module) as before:
        runnable = Model(module, before, output)
        discovery = discover(runnable, [source_of(runnable, named.data, request)], request, most=BATCHES)
        return discovery.places if outputs else discovery.layers


def probe(
    model: object,
    data: Any,
    layers: Names = None,
    *,
    families: Families = PAPER_FAMILIES,
    levels: Levels = None,
    metrics: Metrics = None,
    ranges_from: Any = None,
    quantiles: tuple[float, float] | None = None,
    conduct: Conduct | None = None,
    activation: str | Callable[[Tensor], Tensor] | None = None,
    unit_axis: int | None = None,
    prepare: Prepare | None = None,
    output: Output | None = None,
    output_kind: OutputKind | None = None,
    class_axis: ClassAxis | None = None,
    causal: bool | None = None,
    batch_size: int | None = None,
    batch_axis: BatchAxis = None,
    units: Units = None,
    basis: Basis = None,
    memory: int | str | None = None,
    method: Method = "auto",
    keep_items: bool = False,
    loading: Loading | None = None,
    design: Design | None = None,
    backend: Backend | None = None,
    progress: bool | None = None,
    advanced: Callable[[int], None] = lambda examples: None,
) -> ProbeResult:
    """Perturb layers of a model, one at a time, and measure the model's responses.

    A layer has pre-activations z and units (the columns of a linear layer, the features of a token, the
    channels of a convolution). A perturbation replaces each unit's x by min(max(scale * x + offset, low), clip),
    where x is z or, for some families, the activation a. A family determines the four numbers from a level and
    the unit's range.

    Args:
        model: a `torch.nn.Module`, or a `TwoLayer`; or a name, such as "hf:openai-community/gpt2",
            "timm:resnet18.a1_in1k" or "torchvision:resnet18:IMAGENET1K_V1" (`docs/by_name.md`). It is run in evaluation
            mode. Its state is then restored, bit for bit.
        data: batches (a DataLoader, a list), a `Dataset`, or arrays; see `nearzero.torch_models.batches`.
            Targets are optional. Targets of -100 are ignored. Or a name: "hf:wikitext:wikitext-2-raw-v1:test", a
            folder of images, a text file.
        layers: names or globs, as `nz.layers` lists them, or names of other modules, whose output is then
            perturbed; all activations if None.
        families: names ("offset", "scale", "clip", or controls, see `nearzero.perturbations.families`), families
            such as `nz.Shift(range="post")`, perturbations, which have one level, 1; or a mapping from names of
            your own to these.
        levels: replaces the levels of each family: a mapping from family to levels, levels for all families,
            or the number of levels to take from each family's own, evenly spaced.
        metrics: "accuracy", "agreement", "cross_entropy", "perplexity", "margin", "kl_divergence", or functions from
            logits (n, K) and target (n,) to one number or to values (n,); or a mapping from names to these. If None:
            accuracy and agreement; without targets, agreement and KL divergence. The perplexity is exp of the mean
            cross-entropy over all items, which the result then has too.
        ranges_from: other data to take the unit ranges from.
        quantiles: (low, high), which replace the minimum and the maximum of a unit, such as (0.001, 0.999).
        conduct: the reading of the protocol. If None: the published one for ReLU and Abs; for all other
            activations a shift by the pre-activation range.
        activation: the activation after linear layers, where it isn't found: one of the nine names, or a
            function.
        unit_axis: the dimension of the units, where it isn't found correctly.
        prepare: a function from a batch of another form to (inputs, target, mask).
        output: where the logits aren't found in the model's output: their key or index, or a function from the
            output to them.
        output_kind: "logits", "probabilities" or "log-probabilities", where it isn't found correctly.
        class_axis: the dimension of the classes in the output, where it isn't found correctly; "none" if
            each number is the logit of an item of its own.
        causal: True if the logits at a token predict the next token; found by experiment if None.
        batch_size: the number of examples in a batch, for data that come as examples.
        batch_axis: the dimension of the inputs that holds the examples (0 or 1), or "none" if an example's logits
            depend on the others of its batch, so that batches can't be cut; found by experiment if None.
        units: the units that are perturbed, where not all are: their indices, or a mask; or a mapping from names to
            these, such as the heads of a layer, each of which is perturbed alone; or "each", for every unit alone.
        basis: directions to perturb in place of units, such as principal components or the direction of a feature:
            orthonormal columns B, (U, V) or (U,), or a mapping from names to these. A row x of the layer's values
            has the coordinates c = x B; it becomes x + (c' - c) B'.
        memory: the memory that may be used in addition to the model and the data, such as "2 GB";
            `NEARZERO_MEMORY` or 3 GB if None.
        method: "auto", "suffix" or "full"; see `nearzero.torch_models.forward`.
        keep_items: True to also return each metric for every example or token, in float32; with a `design`, at matched
            displacement too, of the half that responds.
        loading: a `Loading`, with what a name leaves open: columns, blocks of tokens, classes, preprocessing.
        design: a `Design` (families, targets, draws) for responses at matched displacement. The result's
            `matched` then holds them, as `nz.verdict` takes them.
        backend: "two-layer" or "model"; chosen for each layer if None, see `nearzero.evaluators.select`.
        progress: whether a progress bar is shown, on standard error or as an output of the cell; True for anywhere;
            in terminals and notebooks if None.
        advanced: a function that is called after each batch of the model backend, with the number of its
            examples. The two-layer backend doesn't call it.

    Returns:
        A `ProbeResult`; its `response` is a Dataset on (layer, family, level).

    Raises:
        InputError: a model, a layer, data or settings that can't be used; the message says what to do.

    Example:
        Two units and two classes; unit u is the logit of class u. The clip's threshold is min + p (max - min),
        which is 1, 2 and 5 at these levels.

        >>> import nearzero as nz
        >>> import numpy as np
        >>> model = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), "relu").to_module()
        >>> x = np.array([[2, 1], [1, 2], [5, 4], [4, 5]], dtype=np.float32)
        >>> y = np.array([0, 1, 0, 1])
        >>> result = nz.probe(model, (x, y), families="clip", levels=[0.0, 0.25, 1.0])
        >>> result.response.accuracy.sel(layer="1", family="clip").values.tolist()
        [0.5, 0.75, 1.0]
    """
    measured, perplexities = with_losses(metrics)
    request = Request(
        layers=layers,
        families=families,
        levels=levels,
        metrics=measured,
        quantiles=quantiles,
        conduct=conduct,
        activation=activation,
        unit_axis=unit_axis,
        prepare=prepare,
        output=output,
        output_kind=output_kind,
        class_axis=class_axis,
        centred=design is not None,
        causal=causal,
        batch_size=batch_size,
        batch_axis=batch_axis,
        units=units,
        basis=basis,
        memory=memory,
        method=method,
        keep_items=keep_items,
        loading=loading,
    )
    if design is not None and not isinstance(design, Design):
        raise InputError(f"design must be an nz.Design; got {type(design).__name__}")
    with (
        python_progress("probing", progress) as report,
        open_session(model, data, request, ranges_from=ranges_from) as session,
    ):
        evaluators, responses = _measured(session, backend, report, advanced)
        matched = _matched(session, evaluators, design)
        response = with_perplexities(_labelled(session, responses), perplexities, metrics)
        return ProbeResult(response, matched)


def _labelled(session: Session, responses: Sequence[LayerResponse]) -> xr.Dataset:
    """Return the responses of all layers as labelled arrays, with how they were measured."""
    return dataset(responses, type(session.model.module).__name__).assign_attrs(_about(session))


def _matched(
    session: Session, evaluators: Sequence[LayerEvaluator], design: Design | None
) -> xr.Dataset | None:
    """Return the responses at matched displacement if there is a design for them."""
    if design is not None:
        return matched_layers(session, evaluators, design)
    session.assumptions.record("halves", "none", "default", "design=")
    return None


def _about(session: Session) -> dict[str, str | int]:
    """Return what a result keeps about how it was measured, as attributes that a file can hold."""
    named = session.named
    return {
        **{f"{what}_origin": origin.to_json() for what, origin in named.origins.items()},
        **({"class_names": json.dumps(named.class_names)} if named.class_names else {}),
        "assumptions": session.assumptions.to_json(),
        "causal": int(session.causal),
        "versions": json.dumps(versions_of((*PACKAGES, *named.packages))),
    }


def _counting(session: Session, report: Report, advanced: Callable[[int], None]) -> Callable[[int], None]:
    """Return a function that counts batches for a progress bar, and passes the number of their examples on."""
    numbers = count(1)

    def took(examples: int) -> None:
        report(next(numbers), session.source.batches)
        advanced(examples)

    return took


def _measured(
    session: Session, backend: Backend | None, report: Report, advanced: Callable[[int], None]
) -> tuple[list[LayerEvaluator], list[LayerResponse]]:
    """Return evaluators and responses of all layers; default layers that can't be probed are left out."""
    while True:
        try:
            evaluators = evaluators_of(session, backend, metrics=list(session.metrics))
            return evaluators, _responses(session, evaluators, backend, _counting(session, report, advanced))
        except LayerError as error:
            session = session.without(error)


def _responses(
    session: Session,
    evaluators: Sequence[LayerEvaluator],
    backend: Backend | None,
    advanced: Callable[[int], None],
) -> list[LayerResponse]:
    """Measure the response of each layer; all layers of the model backend share one pass over the data."""
    request = session.request
    plans = _plans(session, evaluators)
    collectors = {
        evaluator: ResponseCollector(
            session.model, plan, session.metrics, session.causal, request.method, request.keep_items
        )
        for evaluator, plan in zip(evaluators, plans, strict=True)
        if evaluator.backend == "model"
    }
    _collect(session, list(collectors.values()), advanced)
    responses = []
    for evaluator, plan in zip(evaluators, plans, strict=True):
        if collector := collectors.get(evaluator):
            sides = collector.passes.values()
            methods = {side.method for side in sides}
            method = next(way for way in ("full", "suffix", "auto") if way in methods)
            reason = "; ".join(sorted({side.reason for side in sides if side.reason}))
            scores = scores_of(collector, len(plan.perturbations))
            response = LayerResponse(plan, scores, method, reason, collector.rows, collector.partial)
        else:
            scores = evaluator.scores(plan.perturbations, session.metrics, keep=request.keep_items)
            response = LayerResponse(plan, scores, evaluator.backend, "", scores.examples, partial=False)
        responses.append(response)
        _record(session, response, backend)
    return responses


def _record(session: Session, response: LayerResponse, backend: Backend | None) -> None:
    """Record how one layer was perturbed, and what was counted."""
    layer, conduct, scores = response.plan.layer.name, response.plan.conduct, response.scores
    record, request = session.assumptions.record, session.request
    reading = f"offset {conduct.offset}, clip {conduct.clip}, range {conduct.range}"
    source = "default for this activation" if request.conduct is None else "given"
    record(f"conduct of layer {layer}", reading, source, "conduct=")
    record(f"path of layer {layer}", response.method, *_source_of_path(response, request, backend))
    known = session.source.axis is not None
    everywhere = "every example" if known else "every batch"
    reach = f"{response.rows:,} rows, not as many on every example" if response.partial else everywhere
    record(f"reach of layer {layer}", reach, "its rows, counted on all data", "layers=")
    kind = session.model.reading.items
    counted = f"{scores.items:,}{'' if kind == 'examples' else f' {kind}'} of {scores.examples:,} examples"
    if not known and scores.items != scores.examples:
        counted = f"{scores.items:,} {'items' if kind == 'examples' else kind} of batches that aren't cut"
    record("items", counted, _source_of_items(session), "prepare=")


def _source_of_path(response: LayerResponse, request: Request, backend: Backend | None) -> tuple[str, str]:
    """Return how it is known that the logits can be computed in one way, and which argument sets the way."""
    if response.method == "two-layer":
        fits = "the model has this form, with equal logits on all examples"
        return "given" if backend == "two-layer" else fits, "backend="
    given = request.method != "auto"
    return "given" if given else response.reason or "equal logits on a few examples", "method="


def _source_of_items(session: Session) -> str:
    """Return what the items were counted by."""
    mask = session.assumptions["mask"]
    targets = "" if session.discovery.batch.target is None else " and targets"
    by_mask = "" if mask.value == "none" else ", and the mask"
    return f"the shapes of logits{targets}{by_mask}{' that prepare= gives' if mask.source == 'given' else ''}"


def _collect(
    session: Session, collectors: Sequence[ResponseCollector], advanced: Callable[[int], None]
) -> None:
    """Run all batches of the data, in blocks that fit in memory, and add the scores to the collectors."""
    passes = [side for collector in collectors for side in collector.passes.values()]
    shared = SharedPasses(passes, session.budget.recording)
    for batch in session.source if collectors else ():
        session.budget.run_in_blocks(batch, partial(take_batch, collectors, shared))
        advanced(len(batch))


def _plans(session: Session, evaluators: Sequence[LayerEvaluator]) -> list[LayerPlan]:
    """Return the perturbations of each layer.

    The unit ranges come from the layer's own backend, unless the user gave `ranges_from` or `quantiles`; then the
    model backend computes them.
    """
    request, data = session.request, session.ranges_source or session.source
    ranges_of_layers = layer_ranges(session.model, session.layers, data, session.budget, request.quantiles)
    own = data is session.source and request.quantiles is None
    return [
        make_plan(
            layer,
            evaluator.ranges if own and evaluator.backend == "two-layer" else ranges,
            request.chosen,
            request.levels,
            request.conduct,
        )
        for layer, evaluator, ranges in zip(session.layers, evaluators, ranges_of_layers, strict=True)
    ]


def matched_layers(
    session: Session,
    evaluators: Sequence[LayerEvaluator],
    design: Design,
    held_out: Sequence[LayerEvaluator] | None = None,
) -> xr.Dataset:
    """Return the responses of all layers at matched displacement, on (layer, family, side, target).

    Of the default layers, those that have none are left out, if there are others.

    Args:
        session: the model and the data.
        evaluators: one for each layer.
        design: families, targets and draws.
        held_out: the same layers on other data, for the check with these.
    """
    responses, kept, problem = [], [], None
    others: Sequence[LayerEvaluator | None] = held_out or [None] * len(evaluators)
    for evaluator, other in zip(evaluators, others, strict=True):
        try:
            responses.append(matched_of(evaluator, design, other, keep_items=session.request.keep_items))
            kept.append(evaluator)
        except LayerError as error:
            if session.request.wanted is not None:
                raise
            problem = error
            reason = f"it {error.reason}"
            session.assumptions.record(
                f"matched response of layer {evaluator.layer}", "left out", reason, "layers="
            )
    if problem is not None and not responses:
        raise problem
    joined = xr.concat(responses, "layer", combine_attrs="drop_conflicts")
    backends = [response.attrs["backend"] for response in responses]
    activations = [response.attrs["activation"] for response in responses]
    names = [evaluator.layer for evaluator in kept]
    coords = {"layer": names, "activation": ("layer", activations)}
    return joined.assign_coords(coords).assign(backend=("layer", backends))
