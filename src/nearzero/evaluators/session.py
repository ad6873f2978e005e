"""Open a user's model and data: find the layers, read the batches repeatedly, and share out the memory."""

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
from nearzero.evaluators.scores import Metric, choose_metrics, name_metrics
from nearzero.torch_models.assumptions import Assumptions
from nearzero.torch_models.batches import Batch, read_batch
from nearzero.torch_models.data import BatchSource, MemoryBudget
from nearzero.torch_models.discovery import CannotRunError, Discovery, find_layers
from nearzero.torch_models.layer import Layer
from nearzero.torch_models.selection import select_layers
from nearzero.torch_models.state import Model, as_module, untouched

__all__ = ["Half", "Session", "open_session"]

SAMPLE = 2  # examples on which a model's layers are found
# Memory in multiples of the values that one pass computes, and of its logits. A recording keeps all values of
# its pass; afterwards the suffix needs some of them, and computes new ones. Metrics need several copies of
# the logits.
PASSES, LOGITS = 2, 8


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
    module, metrics = as_module(model), name_metrics(request.metrics)
    with untouched(module) as before:
        runnable = Model(module, before, request.output)
        source = source_of(runnable, data, request)
        ranges_source = None if ranges_from is None else source_of(runnable, ranges_from, request)
        discovery = discover(runnable, [source] if ranges_source is None else [source, ranges_source])
        bytes_per_example = (PASSES * discovery.bytes + LOGITS * discovery.logits) / len(discovery.batch)
        session = Session(
            runnable,
            source,
            ranges_source,
            request,
            discovery,
            MemoryBudget(bytes_per_example, discovery.batch.elements, request.limit),
            [request.with_overrides(layer) for layer in select_layers(runnable, discovery, request.wanted)],
            choose_metrics(metrics, discovery.batch.target),
            runnable.is_causal if request.causal is None else request.causal,
            runnable.assumptions,
        )
        _record(session)
        yield session


def _record(session: Session) -> None:
    """Record what is known about a model and its data before anything is measured."""
    request, record = session.request, session.assumptions.record
    for layer in session.layers:
        given = request.unit_axis is not None
        dimension = f"dimension {layer.unit_axis} of {layer.shape}"
        record(f"units of layer {layer.name}", dimension, _known(given, "the forward pass"), "unit_axis=")
        source = _known(request.activation is not None, "the forward pass")
        record(f"activation of layer {layer.name}", layer.activation or "none", source, "activation=")
    batch = session.discovery.batch
    cut = "as memory allows, along the first dimension of all inputs" if batch.divisible else "never"
    record("cuts of batches", cut, f"inputs {batch.describe()} of {len(batch)} examples", "prepare=")
    bounds = (
        "minimum and maximum"
        if request.quantiles is None
        else "quantiles {} and {}".format(*request.quantiles)
    )
    record("ranges", bounds, _known(request.quantiles is not None, "default"), "quantiles=")
    data = "the data that are measured" if session.ranges_source is None else "data of their own"
    record("data of the ranges", data, _known(session.ranges_source is not None, "default"), "ranges_from=")


def _known(given: bool, inferred: str) -> str:
    return "given" if given else inferred


def source_of(model: Model, data: Any, request: Request) -> BatchSource:
    """Return data as batches that the model takes."""

    def read(item: Any, dtype: torch.dtype | None) -> Batch:
        return read_batch(item, model.device, request.prepare, dtype=dtype, keep_labels=model.takes_labels)

    return BatchSource(data, read, request.batch_size, request.limit)


def discover(model: Model, sources: list[BatchSource]) -> Discovery:
    """Return the layers of a model, found on a few examples of the first batch of the first source.

    If the model fails on these, the whole batch is tried, and then inputs in the precision of the model's
    weights. All sources convert their inputs in the same way from then on.

    Raises:
        CannotRunError: the model fails in all of these ways; it is the first failure.
    """
    problem: CannotRunError | None = None
    for dtype in (None, model.dtype):
        first = sources[0].first(dtype)
        for rows in (SAMPLE, len(first)):
            try:
                discovery = find_layers(model, next(first.blocks(rows)))
            except CannotRunError as error:
                problem = problem or error
            else:
                for source in sources:
                    source.dtype = dtype
                return discovery
    assert problem is not None
    raise problem
