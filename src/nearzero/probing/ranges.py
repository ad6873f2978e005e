"""Unit ranges of any layer, streamed over batches: minimum and maximum, or two quantiles, on both sides of the
activation.

Quantiles come from histograms: a first pass over the data finds minimum and maximum, and each of three more the
one of 256 bins of the last in which the quantile lies. So they're exact to 2^-24 of a unit's range, in memory
that doesn't grow with the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from nearzero.errors import InputError
from nearzero.perturbation import Side
from nearzero.probing.batches import Batch
from nearzero.probing.layer import Layer
from nearzero.probing.model import Model
from nearzero.probing.passes import Tap, tapped
from nearzero.ranges import Ranges, UnitRange

__all__ = ["by_unit", "layer_ranges"]

BINS = 256
ROUNDS = 3
SIDES: tuple[Side, Side] = ("pre", "post")

Observe = Callable[[Tensor], None]


def by_unit(values: Tensor, layer: Layer, mask: Tensor | None) -> Tensor:
    """(n, U): the values of a layer, units last, without what the mask leaves out.

    Raises:
        InputError: a mask over tokens, and values that have neither these nor one row an example.
    """
    axis = layer.unit_axis if values.ndim == len(layer.shape) else values.ndim - 1
    rows = values.movedim(axis, -1)
    if mask is None:
        return rows.reshape(-1, rows.shape[-1])
    lead = rows.shape[:-1]
    if lead[: mask.ndim] == mask.shape:
        return rows[mask].reshape(-1, rows.shape[-1])
    if len(lead) == 1 and lead[0] == mask.numel():
        return rows[mask.reshape(-1)]
    if lead[0] == mask.shape[0] and len(lead) == 1:  # pooled: one row an example
        return rows
    raise InputError(
        f"the mask {tuple(mask.shape)} doesn't fit layer {layer.name!r}, whose values are {tuple(values.shape)}; "
        "prepare=... can leave it out"
    )


def layer_ranges(
    model: Model,
    layers: Sequence[Layer],
    batches: Callable[[], Iterable[Batch]],
    quantiles: tuple[float, float] | None = None,
) -> list[Ranges]:
    """The unit ranges of each layer over all batches; `batches()` goes through them once.

    Raises:
        InputError: no batches, or values that aren't finite.
    """
    extremes = {(index, side): _Extremes() for index in range(len(layers)) for side in SIDES}
    _stream(model, layers, batches, {key: each.observe for key, each in extremes.items()})
    for (index, side), each in extremes.items():
        each.check(layers[index], side)
    bounds = {key: (each.low, each.high) for key, each in extremes.items()}
    if quantiles is not None:
        bounds = _quantiles(model, layers, batches, bounds, quantiles)
    return [
        Ranges(*(_unit_range(*bounds[index, side], side) for side in SIDES)) for index in range(len(layers))
    ]


def _unit_range(low: Tensor, high: Tensor, side: Side) -> UnitRange:
    return UnitRange(low.cpu().double().numpy(), high.cpu().double().numpy(), side)


def _stream(
    model: Model,
    layers: Sequence[Layer],
    batches: Callable[[], Iterable[Batch]],
    observers: dict[tuple[int, Side], Observe],
) -> None:
    """One pass over the data in which every layer's values are shown to its observers, (n, U)."""
    for batch in batches():

        def visit_of(index: int, batch: Batch = batch) -> Callable[[Tensor, bool], None]:
            layer = layers[index]

            def visit(values: Tensor, in_place: bool) -> None:
                after = layer.act(values) if layer.act is not None else values
                for side, each in zip(SIDES, (values, after), strict=True):
                    observers[index, side](by_unit(each, layer, batch.mask))

            return visit

        taps = [Tap(layer, "pre", visit_of(index)) for index, layer in enumerate(layers)]
        with tapped(model.module, taps):
            model.logits(batch)
        missed = [tap.layer.name for tap in taps if not tap.seen]
        if missed:
            raise InputError(f"layer {missed[0]!r} isn't reached on every batch; leave it out")


class _Extremes:
    """Minimum and maximum of each unit, (U,)."""

    def __init__(self) -> None:
        self.low = self.high = torch.empty(0)

    def observe(self, rows: Tensor) -> None:
        if not len(rows):
            return
        low, high = rows.amin(0), rows.amax(0)
        if self.low.numel():
            low, high = torch.minimum(low, self.low), torch.maximum(high, self.high)
        self.low, self.high = low, high

    def check(self, layer: Layer, side: Side) -> None:
        """Refuse ranges that aren't finite, or of nothing."""
        if not self.low.numel():
            raise InputError("ranges need at least one example or token that counts; the mask leaves none")
        if not bool(self.low.isfinite().all() and self.high.isfinite().all()):
            raise InputError(
                f"layer {layer.name!r} has values that aren't finite ({side}-activation); nothing can be measured there"
            )


def _quantiles(
    model: Model,
    layers: Sequence[Layer],
    batches: Callable[[], Iterable[Batch]],
    bounds: dict[tuple[int, Side], tuple[Tensor, Tensor]],
    quantiles: tuple[float, float],
) -> dict[tuple[int, Side], tuple[Tensor, Tensor]]:
    """Two quantiles of each unit in place of its minimum and maximum."""
    searches = {key: [_Search(*each, quantile) for quantile in quantiles] for key, each in bounds.items()}

    def observer(both: list[_Search]) -> Observe:
        def observe(rows: Tensor) -> None:
            for each in both:
                each.observe(rows)

        return observe

    for _ in range(ROUNDS):
        _stream(model, layers, batches, {key: observer(each) for key, each in searches.items()})
        for both in searches.values():
            for each in both:
                each.narrow()
    return {key: (each[0].high, each[1].high) for key, each in searches.items()}


class _Search:
    """The smallest value that at least a share q of a unit's values don't exceed, in an ever narrower interval."""

    def __init__(self, low: Tensor, high: Tensor, quantile: float) -> None:
        self.low, self.high = low.double(), high.double()
        self._quantile = quantile
        self._begin()

    def _begin(self) -> None:
        self._counts = torch.zeros(len(self.low), BINS + 2, dtype=torch.int64, device=self.low.device)

    def observe(self, rows: Tensor) -> None:
        width = (self.high - self.low).clamp(min=torch.finfo(torch.float64).tiny)
        # a bin holds its upper edge: 0 is everything up to low, BINS + 1 everything beyond high
        place = ((rows.double() - self.low) / width * BINS).ceil().clamp(0, BINS + 1).long()
        flat = place + torch.arange(len(self.low), device=place.device) * (BINS + 2)
        self._counts += torch.bincount(flat.reshape(-1), minlength=self._counts.numel()).view_as(self._counts)

    def narrow(self) -> None:
        """Take the bin in which the quantile lies."""
        total = self._counts.sum(1, keepdim=True)
        reached = self._counts.cumsum(1) >= (self._quantile * total).ceil().clamp(min=1)
        place = reached.int().argmax(1)
        step = (self.high - self.low) / BINS
        self.high = torch.where(place == 0, self.low, self.low + place.clamp(max=BINS) * step)
        self.low = torch.where(place == 0, self.low, self.high - step)
        self._begin()
