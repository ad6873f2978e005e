"""The probe: any layers of any PyTorch model, perturbed at every level of some families.

One pass over the data finds the unit ranges, and one the responses: batch by batch, layer by layer, level by
level. What a layer is, is in `nearzero.torch_models.discovery`; how logits are had with a layer changed, in
`nearzero.torch_models.forward`; what is measured on them, in `nearzero.evaluators.scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import xarray as xr
from torch import Tensor

from nearzero.analysis.matched import Design, matched_of
from nearzero.errors import InputError
from nearzero.evaluators.base import Backend, LayerEvaluator
from nearzero.evaluators.model import scores_of
from nearzero.evaluators.plan import LayerPlan, Levels, Names, Request, make_plan
from nearzero.evaluators.responses import ResponseCollector, take_batch
from nearzero.evaluators.scores import Metrics
from nearzero.evaluators.select import evaluators_of
from nearzero.evaluators.session import Session, look, open_session, source_of
from nearzero.perturbations.families import PAPER_FAMILIES, Conduct
from nearzero.probing.result import LayerResponse, ProbeResult, dataset
from nearzero.torch_models.batches import Prepare
from nearzero.torch_models.forward import Method, SharedPasses
from nearzero.torch_models.layer import Layer
from nearzero.torch_models.ranges import layer_ranges
from nearzero.torch_models.state import Model, Output, as_module, untouched

__all__ = ["layers", "probe"]


def layers(
    model: object, data: Any, *, prepare: Prepare | None = None, output: Output | None = None
) -> tuple[Layer, ...]:
    """What can be probed in a model, in the order of its forward pass on the first batch of some data.

    Args:
        model, data, prepare, output: as in `probe`.

    Raises:
        InputError: a model that can't be probed, or data that it can't be run on.
    """
    request = Request(prepare=prepare, output=output)
    module = as_module(model)
    with untouched(module) as before:
        known = Model(module, before, output)
        return look(known, [source_of(known, data, request)]).layers


def probe(
    model: object,
    data: Any,
    layers: Names = None,
    *,
    families: str | Iterable[str] = PAPER_FAMILIES,
    levels: Levels = None,
    metrics: Metrics = None,
    ranges_from: Any = None,
    quantiles: tuple[float, float] | None = None,
    conduct: Conduct | None = None,
    activation: str | Callable[[Tensor], Tensor] | None = None,
    unit_axis: int | None = None,
    prepare: Prepare | None = None,
    output: Output | None = None,
    causal: bool | None = None,
    batch_size: int | None = None,
    memory: int | str | None = None,
    method: Method = "auto",
    keep_items: bool = False,
    design: Design | None = None,
    backend: Backend | None = None,
    advanced: Callable[[int], None] = lambda examples: None,
) -> ProbeResult:
    """Perturb layers of a model, one at a time, and see what comes out.

    At a layer with pre-activations z, per unit (a column of a linear layer or a token's feature, a channel of a
    convolution), z becomes min(scale * z + offset, clip), as a family says at a level from the unit's range.

    Args:
        model: a `torch.nn.Module`. It's run in evaluation mode, and afterwards is bitwise as it was.
        data: batches (a DataLoader, a list), a `Dataset`, or arrays; see `nearzero.torch_models.batches`. Targets
            are optional; those of -100 are ignored.
        layers: names or globs, as `nz.layers` lists them; all activations if None.
        families: "offset", "scale", "clip"; or controls, see `nearzero.perturbations.families`.
        levels: in place of each family's own: a mapping from family to levels, levels for all, or how many of
            each family's own to take, evenly spaced.
        metrics: "accuracy", "agreement", "cross_entropy", "margin", "kl_divergence", or functions of (logits
            (n, K), target (n,)), whose value is one number or (n,); or a mapping from names to these. If
            None, accuracy and agreement; without targets, agreement and KL divergence.
        ranges_from: other data to take the unit ranges from.
        quantiles: (low, high) in place of minimum and maximum as a unit's range, (0.001, 0.999) say.
        conduct: which reading of the protocol; if None, the published one for ReLU and Abs, and for all else
            a shift by the pre-activation range.
        activation: what follows linear layers, where it isn't found: one of the nine names, or a function.
        unit_axis: the dimension of the units, where it isn't found rightly.
        prepare: from a batch of another kind to (inputs, target, mask).
        output: from what the model returns to its logits, where they aren't found.
        causal: whether the logits at a token are of the next one; if None, by the model's class.
        batch_size: for data that come as examples.
        memory: what it may take besides the model and the data, "2 GB" say; `NEARZERO_MEMORY` or 3 GB.
        method: "auto", "suffix" or "full"; see `nearzero.torch_models.forward`.
        keep_items: also return each metric for every single example or token, float32.
        design: measure at matched displacement as well, with its families, targets and draws; the result's `matched`
            is then what `nz.verdict` takes.
        backend: "two-layer" or "model"; picked for each layer if None, see `nearzero.evaluators.select`.
        advanced: called with how many examples are done.

    Returns:
        A `ProbeResult`; its `response` is a Dataset on (layer, family, level).

    Raises:
        InputError: a model, a layer, data or settings that can't be used, with why and what to do.
    """
    request = Request(
        layers=layers, families=families, levels=levels, metrics=metrics, quantiles=quantiles, conduct=conduct,
        activation=activation, unit_axis=unit_axis, prepare=prepare, output=output, causal=causal,
        batch_size=batch_size, memory=memory, method=method, keep_items=keep_items,
    )  # fmt: skip
    if design is not None and not isinstance(design, Design):
        raise InputError(f"design must be an nz.Design; got {type(design).__name__}")
    with open_session(model, data, request, ranges_from=ranges_from) as session:
        evaluators = evaluators_of(session, backend, metrics=list(session.metrics))
        response = dataset(_responses(session, evaluators, advanced), type(session.model.module).__name__)
        return ProbeResult(response, None if design is None else _matched(evaluators, design))


def _responses(
    session: Session, evaluators: Sequence[LayerEvaluator], advanced: Callable[[int], None]
) -> list[LayerResponse]:
    """What is measured of each layer; all layers of the model backend share one pass over the data."""
    request = session.request
    plans = _plans(session, evaluators)
    work = {
        each: ResponseCollector(
            session.model, plan, session.metrics, session.causal, request.method, request.keep_items
        )
        for each, plan in zip(evaluators, plans, strict=True)
        if each.backend == "model"
    }
    several = list(work.values())
    passes = SharedPasses([each for one in several for each in one.passes.values()], session.room.recording)
    for batch in session.source if work else ():
        session.room.run_in_blocks(batch, partial(take_batch, several, passes))
        advanced(len(batch))
    out = []
    for evaluator, plan in zip(evaluators, plans, strict=True):
        if own := work.get(evaluator):
            methods = {each.method for each in own.passes.values()}
            reasons = {each.reason for each in own.passes.values() if each.reason}
            method = "full" if "full" in methods else next(iter(methods))
            scores = scores_of(own, len(plan.perturbations))
            out.append(LayerResponse(plan, scores, method, "; ".join(reasons)))
        else:
            scores = evaluator.scores(plan.perturbations, session.metrics, keep=request.keep_items)
            out.append(LayerResponse(plan, scores, evaluator.backend, ""))
    return out


def _plans(session: Session, evaluators: Sequence[LayerEvaluator]) -> list[LayerPlan]:
    """What is done to each layer; unit ranges of the layer's own backend, unless they're of other data or quantiles."""
    request, data = session.request, session.ranges_source or session.source
    ranges = layer_ranges(session.model, session.layers, data, session.room, request.quantiles)
    own = data is session.source and request.quantiles is None
    return [
        make_plan(
            layer,
            evaluator.ranges if own and evaluator.backend == "two-layer" else each,
            request.names,
            request.levels,
            request.conduct,
        )
        for layer, evaluator, each in zip(session.layers, evaluators, ranges, strict=True)
    ]


def _matched(evaluators: Sequence[LayerEvaluator], design: Design) -> xr.Dataset:
    """Responses at matched displacement of several layers, on (layer, family, side, target)."""
    found = [matched_of(each, design) for each in evaluators]
    whole = xr.concat(found, "layer", combine_attrs="drop_conflicts")
    backends = [each.attrs["backend"] for each in found]
    return whole.assign_coords(layer=[each.layer for each in evaluators]).assign(backend=("layer", backends))
