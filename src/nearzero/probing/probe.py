"""The probe: any layers of any PyTorch model, perturbed at every level of some families.

One pass over the data finds the unit ranges, and one the responses: batch by batch, layer by layer, level by
level. What a layer is, is in `layers`; how logits are had with a layer changed, in `passes`; what is measured on
them, in `scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nearzero.families import PAPER_FAMILIES, Conduct
from nearzero.matched import Design
from nearzero.probing.batches import Batch, Prepare, read_batch
from nearzero.probing.layer import Layer
from nearzero.probing.layers import CannotRunError, Found, find_layers, select_layers
from nearzero.probing.matched import matched_responses
from nearzero.probing.model import Model, Output, as_module, untouched
from nearzero.probing.passes import Method, SharedPasses
from nearzero.probing.plan import Levels, make_plan
from nearzero.probing.ranges import layer_ranges
from nearzero.probing.request import Names, Request
from nearzero.probing.result import ProbeResult
from nearzero.probing.scores import Metrics, choose_metrics
from nearzero.probing.source import Room, Source
from nearzero.probing.two_layer import exact_data
from nearzero.probing.work import Work, dataset, take_batch

__all__ = ["layers", "probe"]

SAMPLE = 2  # examples on which a model's layers are found
# While a pass is recorded, all that it computes is kept; then what the suffix needs of that, and what it computes.
# Metrics need several copies of the logits.
PASSES, LOGITS = 2, 8


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
        return _look(known, [_source(known, data, request)]).layers


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
    advanced: Callable[[int], None] = lambda examples: None,
) -> ProbeResult:
    """Perturb layers of a model, one at a time, and see what comes out.

    At a layer with pre-activations z, per unit (a column of a linear layer or a token's feature, a channel of a
    convolution), z becomes min(scale * z + offset, clip), as a family says at a level from the unit's range.

    Args:
        model: a `torch.nn.Module`. It's run in evaluation mode, and afterwards is bitwise as it was.
        data: batches (a DataLoader, a list), a `Dataset`, or arrays; see `nearzero.probing.batches`. Targets
            are optional; those of -100 are ignored.
        layers: names or globs, as `nz.layers` lists them; all activations if None.
        families: "offset", "scale", "clip"; or controls, see `nearzero.families`.
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
        method: "auto", "suffix" or "full"; see `nearzero.probing.passes`.
        keep_items: also return each metric for every single example or token, float32.
        design: measure at matched displacement as well, with its families (noise left out), targets and draws; the
            result's `matched` is then what `nz.verdict` takes.
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
        design=design,
    )  # fmt: skip
    return _probed(as_module(model), data, ranges_from, request, advanced)


def _probed(
    module: torch.nn.Module, data: Any, ranges_from: Any, request: Request, advanced: Callable[[int], None]
) -> ProbeResult:
    """The probe as it was asked for."""
    with untouched(module) as before:
        model = Model(module, before, request.output)
        source = _source(model, data, request)
        ranging = source if ranges_from is None else _source(model, ranges_from, request)
        found = _look(model, [source, ranging])
        chosen = [request.told(each) for each in select_layers(model, found, request.wanted)]
        metrics = choose_metrics(request.metrics, found.batch.target)
        causal = model.is_causal if request.causal is None else request.causal
        room = _room(found, request.limit)
        ranges = layer_ranges(model, chosen, ranging, room, request.quantiles)
        work = [
            Work(
                model, make_plan(layer, each, request.names, request.levels, request.conduct), metrics, causal,
                request.method, request.keep_items,
            )
            for layer, each in zip(chosen, ranges, strict=True)
        ]  # fmt: skip
        if request.method == "auto" and not causal:
            _answer_exactly(work, model, source, request, given=ranging is not source)
        rest = [each for each in work if each.open]
        passes = SharedPasses([each for work in rest for each in work.passes.values()], room.recording)
        for batch in source if rest else ():
            room.each(batch, partial(take_batch, rest, passes))
            advanced(len(batch))
        matched = None
        if request.design is not None:
            matched = matched_responses(
                model, chosen, source, room, request.design, metrics, causal=causal, method=request.method
            )
    return ProbeResult(dataset(work, type(module).__name__), matched)


def _source(model: Model, data: Any, request: Request) -> Source:
    """Data as batches that the model takes."""

    def read(item: Any, dtype: torch.dtype | None) -> Batch:
        return read_batch(item, model.device, request.prepare, dtype=dtype, keep_labels=model.takes_labels)

    return Source(data, read, request.batch_size, request.limit)


def _look(model: Model, sources: list[Source]) -> Found:
    """The layers, found on a few examples of the first batch.

    Where the model can't be run on them, all of the batch is tried, and inputs in the precision of its weights.
    """
    problem: CannotRunError | None = None
    for dtype in (None, model.dtype):
        first = sources[0].first(dtype)
        for rows in (SAMPLE, len(first)):
            try:
                found = find_layers(model, next(first.blocks(rows)))
            except CannotRunError as error:
                problem = problem or error
            else:
                for each in sources:
                    each.dtype = dtype
                return found
    assert problem is not None
    raise problem


def _room(found: Found, limit: int) -> Room:
    """How many examples fit in memory at a time."""
    example = (PASSES * found.bytes + LOGITS * found.logits) / len(found.batch)
    return Room(example, found.batch.elements, limit)


def _answer_exactly(
    work: list[Work], model: Model, batches: Iterable[Batch], request: Request, *, given: bool
) -> None:
    """Have the engine that sweeps the paper's networks answer what it can, if the model is one of those.

    Args:
        given: whether the unit ranges are of other data.
    """
    exact = exact_data(model, batches, request.limit)
    if exact is None:
        return
    for each in work:
        exact.answer(each, each.plan.ranges if given or request.quantiles is not None else None)
