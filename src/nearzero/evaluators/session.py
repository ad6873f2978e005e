"""A user's model and data, opened for a while: layers found, batches that can be read again, memory shared out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from nearzero.errors import InputError
from nearzero.evaluators.base import Integers, in_reference
from nearzero.evaluators.plan import Request
from nearzero.evaluators.scores import Metric, choose_metrics
from nearzero.torch_models.batches import Batch, read_batch
from nearzero.torch_models.data import BatchSource, MemoryBudget
from nearzero.torch_models.discovery import CannotRunError, Discovery, find_layers, select_layers
from nearzero.torch_models.layer import Layer
from nearzero.torch_models.state import Model, as_module, untouched

__all__ = ["Half", "Session", "open_session"]

SAMPLE = 2  # examples on which a model's layers are found
# While a pass is recorded, all that it computes is kept; then what the suffix needs of that, and what it computes.
# Metrics need several copies of the logits.
PASSES, LOGITS = 2, 8


@dataclass(frozen=True)
class Half:
    """One half of the data, see `evaluators.base`: of the examples, or of the batches where these can't be cut."""

    seed: int
    reference: bool


@dataclass(frozen=True, eq=False)
class Session:
    """A user's model and data, as all layers of one analysis share them.

    Attributes:
        model: within `nearzero.torch_models.state.untouched`.
        source: the data.
        ranges_source: other data to take the unit ranges from, if there are any.
        request: what the user said of both.
        found: what one pass showed.
        room: how many examples fit in memory at a time.
        layers: those that were asked for, with what the user said of them.
        metrics: by name.
        causal: whether logits are of the next token.
    """

    model: Model
    source: BatchSource
    ranges_source: BatchSource | None
    request: Request
    found: Discovery
    room: MemoryBudget
    layers: list[Layer]
    metrics: dict[str, Metric]
    causal: bool

    @property
    def halves(self) -> Literal["example", "batch"]:
        """Return what halves are cut from: "example", or "batch" where examples can't be told apart."""
        return "example" if self.found.batch.divisible else "batch"

    def batches(self, half: Half | None = None) -> Iterator[tuple[Integers, Batch]]:
        """Return the batches, or what one half has of each, with the numbers of their examples in the data.

        Raises:
            InputError: a half without examples, or batches of which some can be cut and some can't.
        """
        by_batch, first, count, found = self.halves == "batch", 0, 0, False
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
                    f"batch {count - 1} ({batch.describe()}) can't be cut into examples, and earlier ones could; give "
                    "batches of one kind"
                )
            if own.any():
                found = True
                yield numbers[own], batch if own.all() else batch.take(torch.from_numpy(np.flatnonzero(own)))
        if not found:
            seen = f"{count}, whose examples can't be told apart" if by_batch else str(first)
            raise InputError(
                f"two halves need at least two {'batches' if by_batch else 'examples'}; got {seen}"
            )


@contextmanager
def open_session(model: object, data: Any, request: Request, ranges_from: Any = None) -> Iterator[Session]:
    """Within, a model can be run on data with its layers changed; afterwards it is bitwise as it was.

    Args:
        model, data: as in `nearzero.probe`.
        request: what the user said of both.
        ranges_from: other data to take the unit ranges from.

    Raises:
        InputError: a model, a layer or data that can't be used, with why and what to do.
    """
    module = as_module(model)
    with untouched(module) as before:
        known = Model(module, before, request.output)
        source = source_of(known, data, request)
        other = None if ranges_from is None else source_of(known, ranges_from, request)
        found = look(known, [source] if other is None else [source, other])
        example = (PASSES * found.bytes + LOGITS * found.logits) / len(found.batch)
        yield Session(
            known,
            source,
            other,
            request,
            found,
            MemoryBudget(example, found.batch.elements, request.limit),
            [request.told(each) for each in select_layers(known, found, request.wanted)],
            choose_metrics(request.metrics, found.batch.target),
            known.is_causal if request.causal is None else request.causal,
        )


def source_of(model: Model, data: Any, request: Request) -> BatchSource:
    """Return data as batches that the model takes."""

    def read(item: Any, dtype: torch.dtype | None) -> Batch:
        return read_batch(item, model.device, request.prepare, dtype=dtype, keep_labels=model.takes_labels)

    return BatchSource(data, read, request.batch_size, request.limit)


def look(model: Model, sources: list[BatchSource]) -> Discovery:
    """Return the layers, found on a few examples of the first batch.

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
