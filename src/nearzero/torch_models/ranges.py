"""Unit ranges of any layer, streamed over batches: minimum and maximum, or two quantiles, of z and of act(z).

Quantiles are found by histograms. A first pass over the data finds minimum and maximum. Each of three more
passes divides the interval in which the quantile lies into 256 bins, and takes the bin with the quantile as
the next interval. So quantiles are exact to 256^-3 = 2^-24 of a unit's range, in memory that doesn't grow
with the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nearzero.errors import InputError
from nearzero.perturbations.perturbation import Side
from nearzero.perturbations.ranges import Ranges, UnitRange
from nearzero.torch_models.assumptions.routing import RowSource
from nearzero.torch_models.batches import IGNORED, Batch
from nearzero.torch_models.data import MemoryBudget
from nearzero.torch_models.discovery.norms import unit_norms
from nearzero.torch_models.forward import logits_with_hooks
from nearzero.torch_models.hooks import LayerHook
from nearzero.torch_models.layer import Layer, LayerError, RowAxes, SelectedUnits
from nearzero.torch_models.state import Model

__all__ = ["by_unit", "counted_rows", "layer_ranges", "row_owners"]

BINS = 256
ROUNDS = 3
CHUNK = 2**18  # the values that are assigned to bins at a time
SIDES: tuple[Side, Side] = ("pre", "post")


def by_unit(values: Tensor, layer: Layer, batch: Batch) -> Tensor:
    """Return the rows of a layer's values that count by the batch's masks, (rows, U) or (..., U).

    If the layer has coordinates, they are returned in the place of units.
    A row of a whole example (after pooling, say) counts if any of the example's tokens does. Ignored targets
    (-100) act as a mask on values that they fit.

    Raises:
        InputError: a mask over tokens, and values that have neither a row per token nor a row per example.
    """
    rows, counted = layer.read(values), counted_rows(values, layer, batch)
    return rows if counted is None else rows[counted]


def counted_rows(values: Tensor, layer: Layer, batch: Batch) -> Tensor | None:
    """Return a mask of the rows that count, of the values' shape without units; None if all do.

    Raises:
        InputError: as `by_unit`.
    """
    row_shape = values.movedim(layer.axis_of(values), -1).shape[:-1]
    counted: Tensor | None = None
    axes, routed = layer.rows_of(values), batch.routed.get(layer.key)
    for mask, strict in batch.counted(layer.reads, "decoder" in layer.path):
        mask = mask.to(values.device)  # of the layer, which may be another than that of the inputs
        if routed is not None:
            before = _before_routing(mask, routed, batch)
            selected = None if before is None else before[routed.index]
            row_mask = None if selected is None else _row_mask(selected, row_shape)
        else:
            place = _placed_choices if strict and mask.ndim == 3 else _placed
            row_mask = _row_mask(mask, row_shape) if axes is None else place(mask, row_shape, axes)
        of_examples = mask.ndim == 1 and len(mask) == batch.inputs[0].shape[batch.axis or 0]
        if row_mask is None and (strict or of_examples):
            problem = "" if axes is None or not axes.problem else f" ({axes.problem})"
            name = "mask" if strict else f"mask of targets that aren't {IGNORED},"
            raise LayerError(
                layer,
                f"has values {tuple(values.shape)}, which the {name} {tuple(mask.shape)} doesn't fit{problem}; leave "
                "the layer out, or give data without a mask by prepare=...",
            )
        if row_mask is not None:
            counted = row_mask if counted is None else counted & row_mask
    return counted


def row_owners(values: Tensor, layer: Layer, batch: Batch) -> Tensor:
    """Return the index in the batch of the example of each row, of the values' shape without units.

    If the first dimension holds the tokens of all examples, one example after the other, each example is
    taken to have the same number of them.

    Raises:
        InputError: the number of rows isn't a multiple of the number of examples.
    """
    row_shape = values.movedim(layer.axis_of(values), -1).shape[:-1]
    routed = batch.routed.get(layer.key)
    if routed is not None and routed.count % len(batch) == 0:
        rows = torch.arange(len(batch), device=values.device).repeat_interleave(routed.count // len(batch))
        rows = rows.view(len(batch), -1)
        tokens_first = routed.shape == (rows.shape[1], rows.shape[0]) != rows.shape
        owners = (rows.t() if tokens_first else rows).reshape(-1)[routed.index]
        return owners.view(-1, *[1] * (len(row_shape) - 1)).expand(row_shape)
    axes = layer.rows_of(values) or RowAxes()
    per_example, rest = divmod(row_shape[axes.examples], len(batch))
    if rest or not per_example or axes.problem:
        raise LayerError(
            layer,
            f"has values {tuple(values.shape)} for {len(batch)} examples, so it isn't known which example a row "
            "belongs to; leave the layer out",
        )
    owners = torch.arange(len(batch), device=values.device).repeat_interleave(per_example)
    return owners.view(-1, *[1] * (len(row_shape) - 1 - axes.examples)).expand(row_shape)


def _row_mask(mask: Tensor, row_shape: torch.Size) -> Tensor | None:
    """Return a mask of examples or tokens as a mask of rows, of `row_shape`; None if it doesn't fit."""
    if row_shape[: mask.ndim] == mask.shape:
        return mask.reshape(*mask.shape, *[1] * (len(row_shape) - mask.ndim)).expand(row_shape)
    if len(row_shape) != 1:
        return None
    if row_shape[0] == mask.numel():
        return mask.reshape(-1)
    return mask.flatten(1).any(1) if row_shape[0] == mask.shape[0] else None


def _before_routing(mask: Tensor, routed: RowSource, batch: Batch) -> Tensor | None:
    """Return a mask of examples or tokens as one of the rows that an expert's were selected from, in their order.

    None if it doesn't fit, or if the order isn't known.
    """
    each, rest = divmod(routed.count, mask.shape[0])
    if mask.ndim == 1 and not rest:
        mask = mask[:, None].expand(-1, each)
    if mask.ndim != 2 or mask.numel() != routed.count:
        return _row_mask(mask, torch.Size([routed.count]))
    tokens_first = (mask.shape[1], mask.shape[0])
    if 1 in mask.shape or mask.shape == routed.shape != tokens_first:
        return mask.reshape(-1)
    if routed.shape == tokens_first != mask.shape:
        return mask.t().reshape(-1)
    return None if batch.axis else mask.reshape(-1)


def _placed(mask: Tensor, row_shape: torch.Size, axes: RowAxes) -> Tensor | None:
    """Return a mask of examples, tokens or pixels as a mask of rows with known dimensions; None if it doesn't fit.

    A row of several tokens counts if all of them do.
    """
    each, rest = divmod(row_shape[axes.examples], mask.shape[0])
    if axes.problem or rest or (each > 1 and not axes.several):
        return None
    if mask.ndim > 2:  # pixels
        others = [size for axis, size in enumerate(row_shape) if axis != axes.examples]
        if list(row_shape) == [mask.numel()]:
            return mask.reshape(-1)
        return mask.movedim(0, axes.examples) if list(mask.shape[1:]) == others and each == 1 else None
    tokens = axes.tokens if mask.ndim == 2 else ()
    if axes.examples in tokens:
        if each != mask.shape[1]:
            return None
        mask, tokens, each = mask.reshape(-1), (), 1
    if mask.ndim > 1 and not tokens:
        if len(row_shape) > 1:
            return None
        mask = mask.flatten(1).any(1)
    if any(row_shape[axis] != mask.shape[1] for axis in tokens):
        return None
    counted = torch.ones(row_shape, dtype=torch.bool, device=mask.device)
    mask = mask.repeat_interleave(each, 0)
    for axis in tokens or (axes.examples,):
        shape = [1] * len(row_shape)
        shape[axes.examples], shape[axis] = mask.shape[0], mask.shape[-1]
        counted &= (mask.t() if axis < axes.examples else mask).reshape(shape)
    return counted


def _placed_choices(mask: Tensor, row_shape: torch.Size, axes: RowAxes) -> Tensor | None:
    """Return a mask of the tokens of choices (B, C, S) as a mask of rows; None if it doesn't fit.

    The rows of a choice as a whole count if any of its tokens does.
    """
    others = [size for axis, size in enumerate(row_shape) if axis != axes.examples]
    if not axes.several and not axes.tokens:
        mask = mask.any(2) if others == [mask.shape[1]] else mask.flatten(1).any(1)
        return _row_mask(mask, row_shape) if axes.examples == 0 and len(others) < 2 else None
    if not axes.several or list(row_shape) == [mask.numel()]:
        return _placed(mask, row_shape, axes)
    choices_alone = axes.tokens or row_shape[axes.examples] == mask.shape[:2].numel()
    return _placed(mask.flatten(0, 1), row_shape, axes) if choices_alone else None


def layer_ranges(
    model: Model,
    layers: Sequence[Layer],
    batches: Iterable[Batch],
    budget: MemoryBudget,
    quantiles: tuple[float, float] | None = None,
) -> list[Ranges]:
    """Return the unit ranges of each layer, from one pass over all batches, or four for quantiles.

    Raises:
        InputError: no batches, or values that aren't finite.
    """
    extremes = {(index, side): _Extremes() for index in range(len(layers)) for side in SIDES}
    _stream(model, layers, batches, budget, {key: [extreme] for key, extreme in extremes.items()})
    for (index, side), extreme in extremes.items():
        extreme.check(layers[index], side)
    bounds = {key: (extreme.low, extreme.high) for key, extreme in extremes.items()}
    if quantiles is not None:
        for group in _groups(layers, budget.limit // 4):
            searches = {
                (index, side): [_Search(*bounds[index, side], quantile) for quantile in quantiles]
                for index in group
                for side in SIDES
            }
            for _ in range(ROUNDS):
                _stream(model, layers, batches, budget, searches)
                for search in (search for pair in searches.values() for search in pair):
                    search.narrow()
            bounds |= {key: (low.high, high.high) for key, (low, high) in searches.items()}
    return [
        Ranges(
            _unit_range(*bounds[index, "pre"], "pre"),
            _unit_range(*bounds[index, "post"], "post"),
            _norms(model, layer),
        )
        for index, layer in enumerate(layers)
    ]


def _norms(model: Model, layer: Layer) -> npt.NDArray[np.float64] | None:
    """Return the norms of the weights that give a layer's values, (U,); None where they aren't known."""
    if layer.producer is None:
        return None
    norms = unit_norms(model.module.get_submodule(layer.producer))
    return norms[layer.coordinates.indices] if isinstance(layer.coordinates, SelectedUnits) else norms


def _groups(layers: Sequence[Layer], limit: int) -> Iterator[list[int]]:
    """Yield groups of the layers' indices, of which the histograms fit in memory together."""
    group: list[int] = []
    total = 0
    for index, layer in enumerate(layers):
        # int64 counts of a block and of all blocks, for two quantiles on each side
        size = layer.units * (BINS + 2) * 8 * 2 * 2 * len(SIDES)
        if group and total + size > limit:
            yield group
            group, total = [], 0
        group.append(index)
        total += size
    yield group


def _unit_range(low: Tensor, high: Tensor, side: Side) -> UnitRange:
    return UnitRange(low.cpu().double().numpy(), high.cpu().double().numpy(), side)


def _stream(
    model: Model,
    layers: Sequence[Layer],
    batches: Iterable[Batch],
    budget: MemoryBudget,
    observers: Mapping[tuple[int, Side], Sequence[_Extremes | _Search]],
) -> None:
    """Show the layers' values in one pass over the data to their observers."""

    def observe(batch: Batch) -> None:
        results: list[tuple[_Extremes | _Search, Any]] = []  # added only once the pass is complete

        def visit(index: int, values: Tensor) -> None:
            layer, values = layers[index], values.detach()
            after = layer.act(values) if layer.act is not None else values
            if after.shape != values.shape:
                raise InputError(f"the activation of layer {layer.name!r} must keep the shape of its values")
            for side, side_values in zip(SIDES, (values, after), strict=True):
                rows = by_unit(side_values, layer, batch)
                results.extend((observer, observer.of(rows)) for observer in observers[index, side])

        hooks = [
            LayerHook(layers[index], "pre", partial(visit, index))
            for index, side in observers
            if side == "pre"
        ]
        logits_with_hooks(model, batch, hooks)
        for observer, result in results:
            observer.add(result)

    for batch in batches:
        budget.run_in_blocks(batch, observe)
        del batch  # frees it before the next is made


class _Extremes:
    """The minimum and maximum of each unit so far, (U,), and whether any batch reached the layer."""

    def __init__(self) -> None:
        self.reached = False
        self.low, self.high = torch.tensor(torch.inf), torch.tensor(-torch.inf)

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the minimum and maximum of a block, (U,) each; None if it is empty."""
        all_but_units = tuple(range(rows.ndim - 1))
        return (rows.amin(all_but_units), rows.amax(all_but_units)) if rows.numel() else None

    def add(self, block: tuple[Tensor, Tensor] | None) -> None:
        """Include the minimum and maximum of another block."""
        self.reached = True
        if block is not None:
            self.low, self.high = torch.minimum(self.low, block[0]), torch.maximum(self.high, block[1])

    def check(self, layer: Layer, side: Side) -> None:
        """Refuse ranges that aren't finite, or without any rows."""
        if not self.reached:
            raise LayerError(layer, "isn't reached by any example; leave the layer out")
        if not self.low.ndim:
            raise LayerError(
                layer, "needs at least one example or token that counts, for its ranges; the mask leaves none"
            )
        if not bool(self.low.isfinite().all() and self.high.isfinite().all()):
            raise LayerError(
                layer,
                f"has values that aren't finite ({side}-activation), so nothing can be measured there; did the model "
                "diverge, or overflow in half precision?",
            )


class _Search:
    """A quantile of each unit, in an interval that `narrow` makes smaller after each pass, (U,).

    The q-quantile is the smallest value that at least a share q of the unit's values don't exceed (as NumPy's
    "inverted_cdf"). It lies in [low, high].
    """

    def __init__(self, low: Tensor, high: Tensor, quantile: float) -> None:
        self.low, self.high = low.cpu().double(), high.cpu().double()
        self._quantile = quantile
        self._counts = self._zeros()

    def _zeros(self) -> Tensor:
        return torch.zeros(len(self.low), BINS + 2, dtype=torch.int64)

    def of(self, rows: Tensor) -> Tensor:
        """Return the number of values of each unit in each bin, (U, BINS + 2)."""
        rows = rows.reshape(-1, rows.shape[-1])
        rows = rows.cpu() if rows.device.type == "mps" else rows  # which has no float64
        counts = self._zeros().to(rows.device)
        low, high = self.low.to(rows.device), self.high.to(rows.device)
        width = (high - low).clamp(min=torch.finfo(torch.float64).tiny)
        first = torch.arange(len(low), device=rows.device) * (BINS + 2)
        for chunk in rows.split(max(1, CHUNK // rows.shape[1])):
            # A bin includes its upper edge. Bin 0 takes all values up to low, bin BINS + 1 all above high.
            bins = ((chunk.double() - low) / width * BINS).ceil_().clamp_(0, BINS + 1).long()
            counts += torch.bincount((bins + first).reshape(-1), minlength=counts.numel()).view_as(counts)
        return counts

    def add(self, block: Tensor) -> None:
        """Include the counts of another block."""
        self._counts += block.cpu()

    def narrow(self) -> None:
        """Take the bin with the quantile as the interval, and start to count anew."""
        total = self._counts.sum(1, keepdim=True)
        reached = self._counts.cumsum(1) >= (self._quantile * total.double()).ceil().clamp(min=1)
        index = reached.int().argmax(1)
        width = (self.high - self.low) / BINS
        self.high = torch.where(index == 0, self.low, self.low + index.clamp(max=BINS) * width)
        self.low = torch.where(index == 0, self.low, self.high - width)
        self._counts = self._zeros()
