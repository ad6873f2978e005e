"""Open a user's model and data: find the layers, read the batches repeatedly, and share out the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nearzero.errors import InputError
from nearzero.evaluators.base import Integers, in_reference
from nearzero.evaluators.plan import Request
from nearzero.evaluators.scores import KEPT, METRICS, Metric, choose_metrics, name_metrics
from nearzero.support.words import number_of
from nearzero.torch_models.assumptions import Assumptions
from nearzero.torch_models.assumptions.causality import read_causality
from nearzero.torch_models.assumptions.experiments import (
    GIVE_BATCHES,
    Cuts,
    changed_by_a_pass,
    find_cuts,
)
from nearzero.torch_models.assumptions.masking import read_masks
from nearzero.torch_models.assumptions.outputs import (
    OutputReading,
    choose_axis,
    choose_kind,
    classes_of,
    has_labels,
)
from nearzero.torch_models.assumptions.rows import EXAMPLES, place_layers
from nearzero.torch_models.batches import Batch, read_batch
from nearzero.torch_models.data import BatchSource, MemoryBudget, is_collated
from nearzero.torch_models.discovery import (
    CannotRunError,
    Discovery,
    are_found,
    calls_any,
    find_layers,
    names_passed_on,
    select_layers,
)
from nearzero.torch_models.layer import Layer, LayerError, SelectedUnits
from nearzero.torch_models.masks import MaskReader
from nearzero.torch_models.named import Named, record, resolve
from nearzero.torch_models.state import Model, as_module, untouched

__all__ = ["Half", "Session", "open_session"]

# The first pass takes SAMPLE examples; to see whether layers differ between examples, others take FEW of each of
# the first batches, LOOKS of them.
SAMPLE, FEW, LOOKS = 2, 4, 2
HELD_SHARE = 1 / 8  # of the memory, for batches that are held while they are looked at several times
SHOWN = 3  # names of what a pass changes
WHOLE = (torch.int32, torch.int64, torch.bool)  # types of inputs that keep their type
BATCHES = 8  # whose shapes are compared, as long as they fit several readings
RANKING = ("accuracy", "agreement")  # metrics that are the same for logits and for probabilities of classes
# Memory in multiples of the values that one pass computes, and of its logits. A recording keeps all values of
# its pass; afterwards the suffix needs some of them, and computes new ones. Metrics keep several copies of the
# logits, or of large ones none: then there are those of another recording, and of a pass that is compared.
PASSES, LOGITS, LARGE_LOGITS = 2, 8, 2


@dataclass(frozen=True)
class Half:
    """Name one half of the data, see `nearzero.evaluators.base`: half of the examples, or of uncuttable batches."""

    seed: int
    reference: bool


@dataclass(frozen=True, eq=False)
class Session:
    """Hold a user's model and data, which all layers of one analysis share.

    Attributes:
        model: the model, within `nearzero.torch_models.state.untouched`.
        source: the data.
        ranges_source: other data to take the unit ranges from; None if they are those of `source`.
        request: the user's settings for both.
        discovery: the layers, and the first examples that they were found on.
        budget: the number of examples that fit in memory at a time.
        layers: the layers that were asked for, with the user's overrides.
        metrics: by name.
        causal: True if the logits at a token predict the next token.
        assumptions: what was inferred about the model and the data; part of the result.
        named: the model and the data, and what is known of them if they were given by name.
    """

    model: Model
    source: BatchSource
    ranges_source: BatchSource | None
    request: Request
    discovery: Discovery
    budget: MemoryBudget
    layers: list[Layer]
    metrics: dict[str, Metric]
    causal: bool
    assumptions: Assumptions
    named: Named

    def without(self, error: LayerError) -> Session:
        """Return the session without a layer that can't be probed.

        Raises:
            LayerError: the layer was asked for, or no other one is left.
        """
        layers = [layer for layer in self.layers if layer.name != error.layer]
        if self.request.wanted is not None or not 0 < len(layers) < len(self.layers):
            raise error
        self.assumptions.record(f"use of layer {error.layer}", "left out", f"it {error.reason}", "layers=")
        return replace(self, layers=layers)

    @property
    def halves(self) -> Literal["example", "batch"]:
        """Return what halves consist of: "example", or "batch" where batches can't be cut into examples."""
        return "example" if self.discovery.batch.divisible else "batch"

    def batches(self, half: Half | None = None) -> Iterator[tuple[Integers, Batch]]:
        """Yield the batches, or one half's share of each, with the numbers of their examples in the data.

        Raises:
            InputError: a half without examples, or batches of which some can be cut into examples and some
                can't.
        """
        by_batch, first, count, empty = self.halves == "batch", 0, 0, True
        for count, batch in enumerate(self.source, 1):
            numbers = np.arange(first, first + len(batch))
            first += len(batch)
            if half is None:
                own = np.full(len(batch), True)
            elif by_batch or batch.divisible:
                drawn = np.full(len(batch), count - 1) if by_batch else numbers
                own = in_reference(drawn, half.seed) == half.reference
            else:
                raise InputError(
                    f"batch {count - 1} ({batch.describe()}) can't be cut into examples, but earlier ones could be; "
                    "give batches of one form"
                )
            if own.any():
                empty = False
                yield numbers[own], batch if own.all() else batch.take(torch.from_numpy(np.flatnonzero(own)))
        if empty:
            seen = f"{count}, whose examples can't be told apart" if by_batch else str(first)
            raise InputError(
                f"two halves need at least two {'batches' if by_batch else 'examples'}; got {seen}"
            )


@contextmanager
def open_session(model: object, data: Any, request: Request, ranges_from: Any = None) -> Iterator[Session]:
    """Open a model and data as a session; on leaving, the model is bitwise as it was.

    Args:
        model, data: as in `nearzero.probe`.
        request: the user's settings for both.
        ranges_from: other data to take the unit ranges from.

    Yields:
        The session. It can be used only within the `with` block.

    Raises:
        InputError: a model, a layer or data that can't be used; the message says why and what to do.
    """
    metrics = name_metrics(request.metrics)
    named = resolve(model, data, request.loading, request.batch_size, ranges_from)
    module, data, ranges_from = as_module(named.model), named.data, named.ranges_from
    with untouched(module) as before:
        runnable = Model(module, before, request.output)
        record(runnable.assumptions, named.rows)
        masks = MaskReader()
        source = source_of(runnable, data, request, masks)
        ranges_source = None if ranges_from is None else source_of(runnable, ranges_from, request, masks)
        # `prepare` may change the items that it is given, so that they can't be given twice
        held = source.held(request.limit * HELD_SHARE) if request.prepare is None else nullcontext()
        with held:
            session = _inferred(runnable, source, ranges_source, request, masks, metrics, named)
        yield session


def _inferred(
    model: Model,
    source: BatchSource,
    ranges_source: BatchSource | None,
    request: Request,
    masks: MaskReader,
    metrics: dict[str, Metric] | None,
    named: Named,
) -> Session:
    """Return the session of a model and data, with all that is inferred about them.

    Args:
        model: the model.
        source, ranges_source, request: as in `Session`.
        masks: reads the masks of both sources.
        metrics: the metrics that were asked for, by name.
        named: as in `Session`.

    Raises:
        InputError: as `open_session`.
    """
    discovery = discover(model, [source] if ranges_source is None else [source, ranges_source], request)
    layers = _layers_of(model, discovery, request)
    budget = budget_of(discovery, request)
    of_classes = metrics is None or any(metric.of_classes for metric in metrics.values())
    classes = _ClassAxis.found(model, source, discovery, request, of_classes)
    model.class_axis = classes.axis
    _check_order(model, source.first(source.dtype), classes)
    few_rows = min(SAMPLE, budget.rows(discovery.batch))
    masked = read_masks(model, source, masks, few_rows)
    first = source.first(source.dtype)
    few = next(first.blocks(few_rows))
    causal = read_causality(model, request.causal, first, few)
    for each in (source, ranges_source):
        if each is not None:
            each.causal = causal
    if causal and request.causal is None:
        classes = classes.of_causal(discovery.output.logits.ndim)
    most = budget.rows(first)
    several = replace(next(first.blocks(min(EXAMPLES, max(few_rows, most - 1)))), causal=causal)
    placed = place_layers(model, layers, several, masked, most, random=bool(discovery.random))
    session = Session(
        model,
        source,
        ranges_source,
        request,
        discovery,
        budget,
        _parts_of(placed, request, model),
        choose_metrics(metrics, discovery.batch.target),
        causal,
        model.assumptions,
        named,
    )
    model.reading = _read_output(session, classes)
    _record(session)
    logits = discovery.output.logits  # of two examples, they can be large
    output = replace(discovery.output, logits=logits.new_empty((0, *logits.shape[1:])))
    return replace(session, discovery=replace(discovery, output=output))


@dataclass(frozen=True)
class _ClassAxis:
    """Hold the dimension of the classes in a model's output.

    Attributes:
        axis: the dimension; None if each number is an item of its own, or if there is a problem.
        source: how it is known.
        problem: the error that says that several dimensions fit; None if one does.
    """

    axis: int | None
    source: str
    problem: InputError | None = None

    @classmethod
    def found(
        cls, model: Model, source: BatchSource, discovery: Discovery, request: Request, of_classes: bool
    ) -> _ClassAxis:
        """Return the dimension that the targets, or else the operations, tell.

        Args:
            of_classes: whether a metric reads targets as classes.
        """
        shape, target = tuple(discovery.output.logits.shape), source.first(source.dtype).target
        if of_classes and request.class_axis is None and target is not None and has_labels(shape, target):
            return cls(None, "targets of 0 and 1 have the shape of the output")
        batches = (next(batch.blocks(SAMPLE)) for batch in source)
        outputs = ((tuple(model.logits(batch).shape), batch.target) for batch in islice(batches, BATCHES))
        traced = discovery.output
        known = [(shape, discovery.batch.target)]
        try:
            return cls(*choose_axis(request.class_axis, traced, chain(known, outputs)))
        except InputError as error:
            return cls(None, "", error)

    def of_causal(self, ndim: int) -> _ClassAxis:
        """Return the dimension for a model whose logits at a token predict the next token.

        If several fit, it is the last one, on which the experiment found that.
        """
        return (
            self if self.problem is None else _ClassAxis(ndim - 1, "the tokens are predicted from each other")
        )


def _check_order(model: Model, batch: Batch, classes: _ClassAxis) -> None:
    """Refuse targets of any order, where the logits have the tokens first and the inputs don't.

    Raises:
        InputError: targets that may have the order of either.
    """
    target, place = batch.target, model.example_axis
    tokens_first = place > 1 or (
        place == 1 and classes.axis != 1
    )  # or only the classes come before the examples
    if batch.prepared or not tokens_first or target is None or target.ndim < 2:
        return
    if target.shape[0] == target.shape[1]:
        raise InputError(
            f"targets {tuple(target.shape)} may have examples or tokens first, since the inputs have the examples "
            "first and the logits don't; give targets with the examples first by prepare=..., or batch_axis='none' if "
            "they have the order of the logits"
        )


def _parts_of(layers: list[Layer], request: Request, model: Model) -> list[Layer]:
    """Return the layers with the units or directions that are perturbed.

    Default layers that these don't fit are left out, if there are others.

    Raises:
        InputError: they don't fit a layer that was named, or any layer.
    """
    parts, problem = [], None
    for layer in layers:
        try:
            parts += request.parts(layer)
        except InputError as error:
            if request.wanted is not None:
                raise
            problem = error
            argument = "units=" if request.basis is None else "basis="
            model.assumptions.record(f"use of layer {layer.name}", "left out", str(error), argument)
    if problem is not None and not parts:
        raise problem
    return parts


def _read_output(session: Session, classes: _ClassAxis) -> OutputReading:
    """Return the reading of the model's output, and record it.

    Raises:
        InputError: two readings fit, and give different numbers.
    """
    if classes.problem is not None:
        raise classes.problem
    request, traced, metrics = session.request, session.discovery.output, session.metrics
    axis, source = classes.axis, classes.source
    place = "none: each number is an item" if axis is None else f"dimension {axis} of {traced.logits.ndim}"
    session.assumptions.record("classes", place, source, "class_axis=")

    def first() -> Tensor:
        parts: list[Tensor] = []
        batch = session.source.first(session.source.dtype)
        session.budget.run_in_blocks(batch, lambda block: parts.append(session.model.logits(block)))
        return torch.cat(parts)

    def matters(single: bool) -> bool:
        known = [name for name, metric in metrics.items() if metric is METRICS.get(name)]
        return request.centred or any(single or name not in RANKING for name in known)

    reading, kind, source = choose_kind(request.output_kind, traced, axis, traced.logits, first, matters)
    session.assumptions.record("output", kind, source, "output_kind=")
    made = traced.class_axes if axis is None and traced.logits.ndim > 1 else None
    return (
        replace(reading, label_axis=made[0]) if made is not None and len(made) == 1 and made[0] else reading
    )


def _record(session: Session) -> None:
    """Record what is known about a model and its data before anything is measured."""
    request, record = session.request, session.assumptions.record
    for layer in session.layers:
        dimension = f"dimension {layer.unit_axis} of {layer.shape}"
        record(f"units of layer {layer.name}", dimension, _source_of_units(layer, request), "unit_axis=")
        if layer.coordinates is not None:
            some = isinstance(layer.coordinates, SelectedUnits)
            argument, noun = ("units=", "unit") if some else ("basis=", "direction")
            perturbed = f"{number_of(layer.units, noun)}, of {number_of(layer.width, 'unit')}"
            record(f"perturbed part of layer {layer.name}", perturbed, "given", argument)
        if layer.rows is not None and layer.rows.problem:
            counted = "all count in its ranges, those of padding too"
            record(f"rows of layer {layer.name}", counted, layer.rows.problem, "layers=")
        source, argument = _activation_source(layer, request)
        record(f"activation of layer {layer.name}", layer.activation or "none", source, argument)
    target = session.discovery.batch.target
    of_classes = any(metric.of_classes for metric in session.metrics.values())
    if of_classes and target is not None and target.is_floating_point():
        record("targets", "classes 0 and 1", "floating-point numbers that are 0 or 1", "prepare=")
    bounds = (
        "minimum and maximum"
        if request.quantiles is None
        else "quantiles {} and {}".format(*request.quantiles)
    )
    record("ranges", bounds, _known(request.quantiles is not None, "default"), "quantiles=")
    data = "the data that are measured" if session.ranges_source is None else "data of their own"
    record("data of the ranges", data, _known(session.ranges_source is not None, "default"), "ranges_from=")


def _layers_of(model: Model, discovery: Discovery, request: Request) -> list[Layer]:
    """Return the layers that were asked for; by default those whose units lie on one dimension, if there are any.

    Raises:
        InputError: the units of a layer that was named, or of all default ones, don't lie on one dimension.
    """
    selection, record = select_layers(model, discovery, request.wanted), model.assumptions.record
    known = request.unit_axis is not None
    unfit = [] if known else [layer for layer in selection.layers if layer.unit_problem]
    if unfit and (request.wanted is not None or len(unfit) == len(selection.layers)):
        raise InputError(
            f"layer {unfit[0].name!r}: {unfit[0].unit_problem}; unit_axis=... chooses a dimension"
        )
    for layer in unfit:
        record(f"use of layer {layer.name}", "left out", layer.unit_problem, "unit_axis=")
    for name, reason in selection.left_out.items():
        record(f"use of layer {name}", "left out", reason, "layers=")
    layers = [layer for layer in selection.layers if layer not in unfit]
    _check_activation(layers, request)
    return [request.with_overrides(layer) for layer in layers]


def _check_activation(layers: list[Layer], request: Request) -> None:
    """Refuse an activation that the user gave if no layer takes it.

    Raises:
        InputError: all layers are the inputs of activations, of which one is another.
    """
    others = [layer for layer in layers if layer.activation != request.activation]
    if request.activation is not None and others and all(layer.is_input_of_activation for layer in layers):
        raise InputError(
            f"activation=... is the activation after linear layers, and layer {others[0].name!r} is the input of "
            f"{others[0].activation} itself; leave it out, or name linear layers by layers=..."
        )


def _source_of_units(layer: Layer, request: Request) -> str:
    """Return how the dimension of a layer's units is known."""
    if request.unit_axis is not None:
        return "given"
    if layer.is_followed:
        return "followed from the product or convolution that put them there"
    if len(layer.shape) == 2:
        return "the only dimension besides the examples"
    return f"the default for {len(layer.shape)} dimensions, since they couldn't be followed"


def _activation_source(layer: Layer, request: Request) -> tuple[str, str]:
    """Return how the activation of a layer is known, and which argument sets it."""
    if layer.is_input_of_activation:
        return "the layer is its input", "model="
    if request.activation is not None:
        return "given", "activation="
    if layer.follows is not None:
        return f"{layer.follows.name} alone reads the layer's output", "activation="
    if layer.kind in ("input", "output"):
        return f"a module's {layer.kind} is taken as it is", "activation="
    return "no activation alone reads the layer's output", "activation="


def _known(given: bool, inferred: str) -> str:
    return "given" if given else inferred


def source_of(model: Model, data: Any, request: Request, masks: MaskReader | None = None) -> BatchSource:
    """Return data as batches that the model takes, whose masks are read in one way."""
    collated, masks = is_collated(data), masks or MaskReader()

    def read(item: Any, dtype: torch.dtype | None) -> Batch:
        return read_batch(
            item,
            model.device,
            request.prepare,
            names=model.argument_names,
            dtype=dtype,
            keep_labels=model.takes_labels,
            collated=collated,
            masks=masks,
        )

    return BatchSource(data, read, request.batch_size, request.limit)


def discover(
    model: Model, sources: list[BatchSource], request: Request, most: int | None = None
) -> Discovery:
    """Return the layers of a model, found on a few examples of the first batches of the first source.

    Modules with weights that these examples don't reach are looked for in the batches after them, unless the
    layers that are wanted have been found.

    Args:
        model: the model.
        sources: the data, and other data that are read in the same way.
        request: the layers that are wanted, and the memory.
        most: the number of batches to look in; all of them if None.
    """
    discovery = _found_first(model, sources, request)
    for number, batch in enumerate(islice(sources[0], LOOKS)):
        few = next(batch.blocks(FEW))
        if number or len(few) > len(discovery.batch):
            try:
                discovery = discovery.including(find_layers(model, few))
            except CannotRunError:  # said where the batch is measured
                return discovery
    if are_found(discovery, request.wanted) or not discovery.idle:
        return discovery
    budget = budget_of(discovery, request)
    for batch in islice(sources[0], most):
        for block in batch.blocks(budget.rows(batch)):
            if calls_any(model, block, discovery.idle):
                discovery = discovery.including(find_layers(model, block))
            if are_found(discovery, request.wanted) or not discovery.idle:
                return discovery
    return discovery


def _found_first(model: Model, sources: list[BatchSource], request: Request) -> Discovery:
    """Return the layers of a model, found on a few examples of the first batch of the first source.

    Experiments say how batches can be cut, and whether a pass repeats. All sources are cut in the same way
    from then on, and convert their inputs in the same way.

    Raises:
        CannotRunError: the model can't be run on the first batch.
        InputError: an item of the data is a single example, or a second pass gives other logits.
    """
    if request.batch_axis == "none":
        _cut(sources, Cuts(None))
    trial = replace(model, assumptions=Assumptions())  # which may be those of a batch that can't be cut
    try:
        first = _first_discovery(trial, sources)
    except InputError:
        _refuse_single(trial, sources[0])
        raise
    model.classes, model.passed_on = trial.classes, names_passed_on(trial, first.batch)
    few, random, budget = len(first.batch), first.random, budget_of(first, request)
    del first  # its logits can be large
    batch = sources[0].first(sources[0].dtype)
    most, batched = budget.rows(batch), sources[0].batched
    cuts = find_cuts(trial, batch, request.batch_axis, random=random, most=most, batched=batched)
    model.example_axis = cuts.example_axis
    _cut(sources, cuts)
    rows = few if cuts.axis == batch.axis else SAMPLE
    few_examples = next(sources[0].first(sources[0].dtype).blocks(rows))
    if len(few_examples) == 1 and few_examples.divisible:
        # the logits of one example don't tell which dimension holds the examples
        few_examples = few_examples.take(torch.zeros(SAMPLE, dtype=torch.long))
    discovery = find_layers(model, few_examples)
    changed: list[str] = []
    budget_of(discovery, request).run_in_blocks(
        discovery.batch, lambda block: changed.extend(changed_by_a_pass(model, block))
    )
    _record_experiments(model.assumptions, discovery, cuts, list(dict.fromkeys(changed)))
    return discovery


def _refuse_single(model: Model, source: BatchSource) -> None:
    """Refuse an item of the data on which the model fails, if it doesn't on a batch of one such item.

    Raises:
        InputError: the item is one example.
    """
    try:
        item = source.first(model.dtype)
        stacked = None if source.batched else find_layers(model, item.stacked())
    except Exception:  # there is no item, or the model fails on this too, or changes its parameters
        return
    if stacked is None or len(stacked.output.logits) != 1:
        return
    raise InputError(
        f"an item of your data is one example, with inputs {item.describe()}: the model fails on it, and not on a "
        f"batch of one such item; {GIVE_BATCHES}"
    )


def _cut(sources: list[BatchSource], cuts: Cuts) -> None:
    for source in sources:
        source.axis, source.mask_first, source.whole = cuts.axis, cuts.mask_first, cuts.whole


def _record_experiments(
    assumptions: Assumptions, discovery: Discovery, cuts: Cuts, changed: list[str]
) -> None:
    """Record what the experiments say about a model."""
    assumptions.record("cuts of batches", cuts.text, cuts.source, "batch_axis=")
    drawn = f"{discovery.random}, the same numbers in every pass" if discovery.random else "none"
    assumptions.record("random numbers", drawn, "the operations of a pass", "model=")
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    state = f"{', '.join(changed[:SHOWN])}{more}, put back before every pass" if changed else "none"
    assumptions.record("state that a pass changes", state, "two passes with equal logits", "model=")


def budget_of(discovery: Discovery, request: Request) -> MemoryBudget:
    """Return the number of examples that fit in memory, from the pass in which the layers were found."""
    count, logits = len(discovery.batch), discovery.output.logits.numel()
    by_item = all(metric.by_item for metric in (name_metrics(request.metrics) or {}).values())
    copies = LARGE_LOGITS if by_item and logits > KEPT * count else LOGITS
    bytes_per_example = (PASSES * discovery.bytes + 4 * copies * logits) / count
    return MemoryBudget(bytes_per_example, discovery.batch.elements, request.limit)


def _first_discovery(model: Model, sources: list[BatchSource]) -> Discovery:
    """Return the layers as found before it is known how batches can be cut.

    If the model fails on a few examples, the whole batch is tried, and then inputs in the precision of the
    model's weights.

    Raises:
        CannotRunError: the model fails in all of these ways; it is the first failure.
    """
    problem: CannotRunError | None = None
    for dtype in (None, model.dtype):
        first = sources[0].first(dtype)
        model.classes = classes_of(first.target)
        for rows in (SAMPLE, len(first)):
            try:
                discovery = find_layers(model, next(first.blocks(rows)))
            except CannotRunError as error:
                problem = problem or error
            else:
                # inputs of the model's own precision are converted to it in other batches too
                if all(tensor.dtype in (model.dtype, *WHOLE) for tensor in first.inputs):
                    dtype = model.dtype
                for source in sources:
                    source.dtype = dtype
                return discovery
    assert problem is not None
    raise problem
