"""Measure the layers of an open session, all of them in one pass over the data.

A first pass over the data finds the unit ranges. A second pass measures the responses: batch by batch, layer
by layer, level by level. A batch goes through these modules:

1. `nearzero.probing.measure` makes a `ResponseCollector` for each layer and hands all of them each batch (`_collect`).
2. `nearzero.evaluators.responses` perturbs the layers on the batch and adds up the scores (`take_batch`).
3. `nearzero.torch_models.forward` computes the logits with one layer changed (`SharedPasses`).
4. `nearzero.torch_models.replay` repeats the operations that come after the layer (`Suffix`).
5. `nearzero.evaluators.scores` computes the metrics of the logits, item by item (`Scorer`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import xarray as xr

from nearzero.analysis.matched import Design, matched_of
from nearzero.evaluators.base import Backend, LayerEvaluator
from nearzero.evaluators.model import scores_of
from nearzero.evaluators.plan import LayerPlan, Request, make_plan
from nearzero.evaluators.responses import ResponseCollector, take_batch
from nearzero.evaluators.select import evaluators_of
from nearzero.evaluators.session import Session
from nearzero.perturbations.ranges import Ranges
from nearzero.probing.result import LayerResponse
from nearzero.support.words import number_of
from nearzero.torch_models.forward import SharedPasses
from nearzero.torch_models.layer import Layer, LayerError
from nearzero.torch_models.ranges import layer_ranges

__all__ = [
    "PlannedLayers",
    "join_matched",
    "matched_layers",
    "measure",
    "plan_layers",
    "plan_of",
    "record_responses",
]


@dataclass(frozen=True, eq=False)
class PlannedLayers:
    """Hold the layers that will be measured, each with its perturbations.

    Attributes:
        session: the model and the data, with these layers.
        evaluators, plans: of each layer.
    """

    session: Session
    evaluators: Sequence[LayerEvaluator]
    plans: Sequence[LayerPlan]


def plan_layers(session: Session, backend: Backend | None) -> PlannedLayers:
    """Return the layers of a session with their perturbations, from one pass over the data.

    Default layers that can't be probed are left out.

    Raises:
        InputError: the backend isn't possible, or a layer that was named can't be probed.
    """
    while True:
        try:
            evaluators = evaluators_of(session, backend, metrics=list(session.metrics))
            return PlannedLayers(session, evaluators, _plans(session, evaluators))
        except LayerError as error:
            session = session.without(error)


def measure(layers: PlannedLayers, advanced: Callable[[int], None]) -> list[LayerResponse]:
    """Return the response of each layer; all layers of the model backend share one pass over the data.

    Args:
        layers: the layers.
        advanced: called after each batch of the model backend, with the number of its examples.

    Raises:
        LayerError: a layer can't be probed.
    """
    session, request = layers.session, layers.session.request
    collectors = {
        evaluator: ResponseCollector(
            session.model, plan, session.metrics, session.causal, request.method, request.keep_items
        )
        for evaluator, plan in zip(layers.evaluators, layers.plans, strict=True)
        if evaluator.backend == "model"
    }
    _collect(session, list(collectors.values()), advanced)
    return [
        _response(session, evaluator, plan, collectors.get(evaluator))
        for evaluator, plan in zip(layers.evaluators, layers.plans, strict=True)
    ]


def _response(
    session: Session, evaluator: LayerEvaluator, plan: LayerPlan, collector: ResponseCollector | None
) -> LayerResponse:
    """Return what a collector took, or what the two-layer backend answers at once."""
    if collector is None:
        scores = evaluator.scores(plan.perturbations, session.metrics, keep=session.request.keep_items)
        return LayerResponse(plan, scores, evaluator.backend, "", scores.examples, partial=False)
    sides = collector.passes.values()
    methods = {side.method for side in sides}
    method = next(way for way in ("full", "suffix", "auto") if way in methods)
    reason = "; ".join(sorted({side.reason for side in sides if side.reason}))
    scores = scores_of(collector, len(plan.perturbations))
    return LayerResponse(plan, scores, method, reason, collector.rows, collector.partial)


def record_responses(session: Session, responses: Sequence[LayerResponse], backend: Backend | None) -> None:
    """Record how each layer was perturbed, and what was counted."""
    for response in responses:
        _record(session, response, backend)


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
    rows = f"{number_of(response.rows, 'row')}, not as many on every example"
    reach = rows if response.partial else everywhere
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
        plan_of(request, layer, evaluator.ranges if own and evaluator.backend == "two-layer" else ranges)
        for layer, evaluator, ranges in zip(session.layers, evaluators, ranges_of_layers, strict=True)
    ]


def plan_of(request: Request, layer: Layer, ranges: Ranges) -> LayerPlan:
    """Return the perturbations of one layer with known unit ranges.

    Raises:
        InputError: as `nearzero.evaluators.plan.make_plan`.
    """
    return make_plan(layer, ranges, request.chosen, request.levels, request.conduct)


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
    others: Sequence[LayerEvaluator | None] = held_out or [None] * len(evaluators)
    keep = session.request.keep_items
    return join_matched(
        session,
        {
            evaluator.layer: partial(matched_of, evaluator, design, other, keep_items=keep)
            for evaluator, other in zip(evaluators, others, strict=True)
        },
    )


def join_matched(session: Session, found: Mapping[str, Callable[[], xr.Dataset]]) -> xr.Dataset:
    """Return the responses of all layers at matched displacement as one Dataset, see `matched_layers`.

    Args:
        session: the model and the data.
        found: by the name of a layer, a function that returns its response, or raises a `LayerError` if it has none.
    """
    responses, kept, problem = [], [], None
    for layer, response in found.items():
        try:
            responses.append(response())
            kept.append(layer)
        except LayerError as error:
            if session.request.wanted is not None:
                raise
            problem = error
            reason = f"it {error.reason}"
            session.assumptions.record(f"matched response of layer {layer}", "left out", reason, "layers=")
    if problem is not None and not responses:
        raise problem
    joined = xr.concat(responses, "layer", combine_attrs="drop_conflicts")
    backends = [response.attrs["backend"] for response in responses]
    activations = [response.attrs["activation"] for response in responses]
    coords = {"layer": kept, "activation": ("layer", activations)}
    return joined.assign_coords(coords).assign(backend=("layer", backends))
