"""Unit ranges of any layer, streamed over batches: minimum and maximum, or two quantiles, on both sides of the
activation.

Quantiles come from histograms: a first pass over the data finds minimum and maximum, and each of three more the
one of 256 bins of the last in which the quantile lies. So they're exact to 2^-24 of a unit's range, in memory
that doesn't grow with the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nearzero.errors import InputError
from nearzero.perturbations.perturbation import Side
from nearzero.perturbations.ranges import Ranges, UnitRange
from nearzero.torch_models.batches import Batch
from nearzero.torch_models.data import MemoryBudget
from nearzero.torch_models.forward import logits_with_hooks
from nearzero.torch_models.hooks import LayerHook
from nearzero.torch_models.layer import Layer
from nearzero.torch_models.state import Model

__all__ = ["by_unit", "counted_rows", "layer_ranges", "row_owners"]

BINS = 256
ROUNDS = 3
CHUNK = 2**18  # values that are sorted into bins at a time
SIDES: tuple[Side, Side] = ("pre", "post")


def by_unit(values: Tensor, layer: Layer, batch: Batch) -> Tensor:
    """Return the values of a layer, units last, without what the masks of a batch leave out, (..., U).

    A value that is of a whole example (a pooled one, say) counts if any of its tokens does. Targets that are
    ignored (-100) leave out what they fit.

    Raises:
        InputError: a mask over tokens, and values that have neither these nor one row an example.
    """
    rows = values.movedim(layer.axis_of(values), -1)
    chosen = counted_rows(values, layer, batch)
    return rows if chosen is None else rows[chosen]


def counted_rows(values: Tensor, layer: Layer, batch: Batch) -> Tensor | None:
    """Return which rows of a layer's values count, of their shape without the units; None if all do."""
    lead = values.movedim(layer.axis_of(values), -1).shape[:-1]
    chosen: Tensor | None = None
    for mask, strict in batch.counted(layer.reads, "decoder" in layer.path):
        fitted = _fitted(mask, lead)
        if fitted is None and strict:
            raise InputError(
                f"the mask {tuple(mask.shape)} doesn't fit layer {layer.name!r}, whose values are "
                f"{tuple(values.shape)}; leave the layer out, or give data without a mask by prepare=..."
            )
        if fitted is not None:
            chosen = fitted if chosen is None else chosen & fitted
    return chosen


def row_owners(values: Tensor, layer: Layer, batch: Batch) -> Tensor:
    """Return the place in the batch of each row's example, of the values' shape without the units.

    Where the values have the tokens of all examples one after the other as first dimension, each example has as many.

    Raises:
        InputError: rows that can't be shared out among the examples.
    """
    lead = values.movedim(layer.axis_of(values), -1).shape[:-1]
    each, rest = divmod(lead[0], len(batch))
    if rest or not each:
        raise InputError(
            f"layer {layer.name!r} has values {tuple(values.shape)} for {len(batch)} examples, so it isn't known which "
            "are whose; leave the layer out"
        )
    owners = torch.arange(len(batch), device=values.device).repeat_interleave(each)
    return owners.view(-1, *[1] * (len(lead) - 1)).expand(lead)


def _fitted(mask: Tensor, lead: torch.Size) -> Tensor | None:
    """A mask on values of some leading dimensions; None if it doesn't fit."""
    if lead[: mask.ndim] == mask.shape:
        return mask.reshape(*mask.shape, *[1] * (len(lead) - mask.ndim)).expand(lead)
    if len(lead) != 1:
        return None
    if lead[0] == mask.numel():
        return mask.reshape(-1)
    return mask.flatten(1).any(1) if lead[0] == mask.shape[0] else None


def layer_ranges(
    model: Model,
    layers: Sequence[Layer],
    batches: Iterable[Batch],
    room: MemoryBudget,
    quantiles: tuple[float, float] | None = None,
) -> list[Ranges]:
    """The unit ranges of each layer over all batches, which are gone through once, or four times for quantiles.

    Raises:
        InputError: no batches, or values that aren't finite.
    """
    extremes = {(index, side): _Extremes() for index in range(len(layers)) for side in SIDES}
    _stream(model, layers, batches, room, {key: [each] for key, each in extremes.items()})
    for (index, side), each in extremes.items():
        each.check(layers[index], side)
    bounds = {key: (each.low, each.high) for key, each in extremes.items()}
    if quantiles is not None:
        for some in _groups(layers, room.limit // 4):
            searches = {
                (index, side): [_Search(*bounds[index, side], quantile) for quantile in quantiles]
                for index in some
                for side in SIDES
            }
            for _ in range(ROUNDS):
                _stream(model, layers, batches, room, searches)
                for search in (each for both in searches.values() for each in both):
                    search.narrow()
            bounds |= {key: (low.high, high.high) for key, (low, high) in searches.items()}
    return [
        Ranges(*(_unit_range(*bounds[index, side], side) for side in SIDES)) for index in range(len(layers))
    ]


def _groups(layers: Sequence[Layer], limit: int) -> Iterator[list[int]]:
    """The numbers of layers whose histograms fit in memory together."""
    some: list[int] = []
    size = 0
    for index, layer in enumerate(layers):
        each = layer.units * (BINS + 2) * 8 * 2 * 2 * len(SIDES)  # of a block and of all, for two quantiles
        if some and size + each > limit:
            yield some
            some, size = [], 0
        some.append(index)
        size += each
    yield some


def _unit_range(low: Tensor, high: Tensor, side: Side) -> UnitRange:
    return UnitRange(low.cpu().double().numpy(), high.cpu().double().numpy(), side)


def _stream(
    model: Model,
    layers: Sequence[Layer],
    batches: Iterable[Batch],
    room: MemoryBudget,
    observers: Mapping[tuple[int, Side], Sequence[_Extremes | _Search]],
) -> None:
    """One pass over the data in which layers' values are shown to their observers."""

    def observe(batch: Batch) -> None:
        parts: list[tuple[_Extremes | _Search, Any]] = []  # gathered once the pass has gone through

        def visit(index: int, values: Tensor) -> None:
            layer = layers[index]
            after = layer.act(values) if layer.act is not None else values
            if after.shape != values.shape:
                raise InputError(f"the activation of layer {layer.name!r} must keep the shape of its values")
            for side, each in zip(SIDES, (values, after), strict=True):
                rows = by_unit(each, layer, batch)
                parts.extend((observer, observer.of(rows)) for observer in observers[index, side])

        hooks = [
            LayerHook(layers[index], "pre", partial(visit, index))
            for index, side in observers
            if side == "pre"
        ]
        logits_with_hooks(model, batch, hooks)
        for observer, part in parts:
            observer.add(part)

    for batch in batches:
        room.each(batch, observe)
        del batch  # so that it's gone when the next is made


class _Extremes:
    """Minimum and maximum of each unit, (U,)."""

    def __init__(self) -> None:
        self.low, self.high = torch.tensor(torch.inf), torch.tensor(-torch.inf)

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """Those of a block; None if it's empty."""
        all_but_units = tuple(range(rows.ndim - 1))
        return (rows.amin(all_but_units), rows.amax(all_but_units)) if rows.numel() else None

    def add(self, part: tuple[Tensor, Tensor] | None) -> None:
        """Those of one block more."""
        if part is not None:
            self.low, self.high = torch.minimum(self.low, part[0]), torch.maximum(self.high, part[1])

    def check(self, layer: Layer, side: Side) -> None:
        """Refuse ranges that aren't finite, or of nothing."""
        if not self.low.ndim:
            raise InputError("ranges need at least one example or token that counts; the mask leaves none")
        if not bool(self.low.isfinite().all() and self.high.isfinite().all()):
            raise InputError(
                f"layer {layer.name!r} has values that aren't finite ({side}-activation), so nothing can be measured "
                "there; did the model diverge, or overflow in half precision?"
            )


class _Search:
    """The smallest value that at least a share q of a unit's values don't exceed, in an ever narrower interval."""

    def __init__(self, low: Tensor, high: Tensor, quantile: float) -> None:
        self.low, self.high = low.cpu().double(), high.cpu().double()
        self._quantile = quantile
        self._counts = self._none()

    def _none(self) -> Tensor:
        return torch.zeros(len(self.low), BINS + 2, dtype=torch.int64)

    def of(self, rows: Tensor) -> Tensor:
        """(U, BINS + 2): how many of each unit's values lie in each bin."""
        rows = rows.reshape(-1, rows.shape[-1])
        rows = rows.cpu() if rows.device.type == "mps" else rows  # which has no float64
        counts = self._none().to(rows.device)
        low, high = self.low.to(rows.device), self.high.to(rows.device)
        width = (high - low).clamp(min=torch.finfo(torch.float64).tiny)
        first = torch.arange(len(low), device=rows.device) * (BINS + 2)
        for part in rows.split(max(1, CHUNK // rows.shape[1])):
            # a bin holds its upper edge: 0 is everything up to low, BINS + 1 everything beyond high
            place = ((part.double() - low) / width * BINS).ceil_().clamp_(0, BINS + 1).long()
            counts += torch.bincount((place + first).reshape(-1), minlength=counts.numel()).view_as(counts)
        return counts

    def add(self, part: Tensor) -> None:
        """Count one block more."""
        self._counts += part.cpu()

    def narrow(self) -> None:
        """Take the bin in which the quantile lies."""
        total = self._counts.sum(1, keepdim=True)
        reached = self._counts.cumsum(1) >= (self._quantile * total.double()).ceil().clamp(min=1)
        place = reached.int().argmax(1)
        step = (self.high - self.low) / BINS
        self.high = torch.where(place == 0, self.low, self.low + place.clamp(max=BINS) * step)
        self.low = torch.where(place == 0, self.low, self.high - step)
        self._counts = self._none()
