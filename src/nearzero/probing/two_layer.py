"""The paper's networks in the probe: accuracy and agreement by the engine that sweeps studies.

A model of the shape Linear, activation, Linear goes through `nearzero.hidden` like any study's network, so
that `probe` and `sweep` can't give two answers.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nearzero import metrics
from nearzero.errors import InputError
from nearzero.hidden import HiddenLayer
from nearzero.networks import TwoLayer
from nearzero.networks.modules import from_module
from nearzero.perturbation import Perturbation
from nearzero.probing.batches import Batch
from nearzero.probing.layer import Layer
from nearzero.probing.model import Model
from nearzero.probing.plan import make_plan
from nearzero.probing.scores import METRICS
from nearzero.probing.work import Work
from nearzero.ranges import Ranges

__all__ = ["Exact", "exact_data"]

SAME = 1e-4  # of the largest logit: above what float32 sums in another order differ by


class Exact:
    """A two-layer network and all the data, for the metrics that predictions are enough for.

    Args:
        network: the network.
        inputs: (N, D).
        target: (N,), or None.
        limit: bytes that the work may take.
    """

    def __init__(
        self,
        network: TwoLayer,
        inputs: npt.NDArray[np.float32],
        target: npt.NDArray[np.int64] | None,
        limit: int,
    ) -> None:
        self._hidden = HiddenLayer(network, inputs, memory=limit)
        self._references: dict[str, npt.NDArray[np.integer]] = {"agreement": self._hidden.unperturbed}
        if target is not None:
            self._references["accuracy"] = target

    def answer(self, work: Work, ranges: Ranges | None) -> None:
        """Fill in accuracy and agreement, if it's the hidden layer; unit ranges are of these data unless given."""
        by_metric = {METRICS[name]: reference for name, reference in self._references.items()}
        references = {name: by_metric[each] for name, each in work.open.items() if each in by_metric}
        plan = work.plan
        if not references or not self._is_hidden(plan.layer):
            return
        plan = make_plan(
            plan.layer, ranges or self._hidden.ranges, list(plan.grids), plan.grids, plan.conduct
        )
        everything = [*plan.perturbations, Perturbation()]
        matches = {name: np.zeros(len(everything)) for name in references}
        kept: dict[str, list[npt.NDArray[np.bool_]]] = {name: [] for name in references}
        for rows in self._hidden.blocks(len(everything)):
            predictions = self._hidden.predict(everything, rows)
            for name, reference in references.items():
                matches[name] += metrics.matches(predictions, reference[rows])
                if work.keep_items:
                    kept[name].append(predictions == reference[rows])
        count = len(self._hidden)
        places = np.stack([np.arange(count), np.zeros(count, np.int64)], axis=1)
        work.fill(plan, matches, kept, places)

    def _is_hidden(self, layer: Layer) -> bool:
        """Whether a layer is the hidden one, by its activation or by the linear layer before it."""
        placed = layer.kind == "activation" or layer.follows is not None
        return placed and layer.activation == self._hidden.network.activation


def exact_data(model: Model, batches: Iterable[Batch], limit: int) -> Exact | None:
    """The engine for a model of the two-layer shape; None if it has another, or its data are too large or masked.

    Args:
        model: the model.
        batches: all the data, on which its logits must be those of such a network.
        limit: bytes that the work may take; a quarter of that goes to the data.
    """
    if model.output is not None:
        return None
    try:
        network = from_module(model.module)
    except InputError:
        return None
    module = network.to_module().to(model.device)
    inputs, targets, size = [], [], 0
    for batch in batches:
        array = _plain_inputs(batch)
        # A model may be of that shape on some inputs alone.
        if array is None or not _same_logits(model.logits(batch), module(batch.inputs[0].flatten(1))):
            return None
        size += array.nbytes
        if size > limit // 4:
            return None
        inputs.append(array)
        targets.append(None if batch.target is None else batch.target.cpu().numpy())
    known = [each for each in targets if each is not None]
    target = np.concatenate(known) if len(known) == len(inputs) else None
    if target is not None and not (
        target.dtype == np.int64 and target.ndim == 1 and 0 <= target.min() <= target.max() < network.classes
    ):
        return None
    return Exact(network, np.concatenate(inputs), target, limit)


def _same_logits(logits: Tensor, known: Tensor) -> bool:
    """Whether a model's logits are those of the two-layer network, but for rounding and a constant per example."""
    if logits.shape != known.shape or logits.dtype != known.dtype:
        return False
    logits, known = (each - each.mean(dim=1, keepdim=True) for each in (logits, known))
    return bool(torch.allclose(logits, known, rtol=0.0, atol=SAME * float(known.abs().amax())))


def _plain_inputs(batch: Batch) -> npt.NDArray[np.float32] | None:
    """(n, D): the inputs of a batch that holds nothing else than these and targets; None for all others."""
    given = [*batch.arguments, *batch.keywords.values()]
    if len(given) != 1 or batch.mask is not None:
        return None
    (inputs,) = given
    if not isinstance(inputs, Tensor) or inputs.ndim < 2 or str(inputs.dtype) != "torch.float32":
        return None
    return np.asarray(inputs.reshape(len(batch), -1).cpu().numpy())
