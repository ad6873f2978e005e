"""The paper's networks in the probe: accuracy and agreement by the engine that sweeps studies.

A model of the shape Linear, activation, Linear goes through `nearzero.hidden` like any study's network, so
that `probe` and `sweep` can't give two answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from nearzero import metrics
from nearzero.errors import InputError
from nearzero.hidden import HiddenLayer
from nearzero.networks import TwoLayer
from nearzero.networks.modules import from_module
from nearzero.perturbation import Perturbation
from nearzero.probing.batches import Batch
from nearzero.probing.plan import make_plan
from nearzero.probing.scores import METRICS
from nearzero.probing.work import Work
from nearzero.ranges import Ranges

__all__ = ["Exact", "exact_data"]


class Exact:
    """A two-layer network and all the data, for the metrics that predictions are enough for."""

    def __init__(
        self, network: TwoLayer, inputs: npt.NDArray[np.float32], target: npt.NDArray[np.int64] | None
    ) -> None:
        self._hidden = HiddenLayer(network, inputs)
        self._references: dict[str, npt.NDArray[np.integer]] = {"agreement": self._hidden.unperturbed}
        if target is not None:
            self._references["accuracy"] = target

    def answer(self, work: Work, ranges: Ranges | None) -> None:
        """Fill in accuracy and agreement, if it's the hidden layer; unit ranges are of these data unless given."""
        names = [
            name for name in self._references if name in work.open and work.open[name] is METRICS[name].score
        ]
        plan = work.plan
        if not names or plan.layer.activation is None:
            return
        plan = make_plan(
            plan.layer, ranges or self._hidden.ranges, list(plan.grids), plan.grids, plan.conduct
        )
        everything = [*plan.perturbations, Perturbation()]
        matches = {name: np.zeros(len(everything)) for name in names}
        kept: dict[str, list[npt.NDArray[np.bool_]]] = {name: [] for name in names}
        for rows in self._hidden.blocks(len(everything)):
            predictions = self._hidden.predict(everything, rows)
            for name in names:
                reference = self._references[name][rows]
                matches[name] += metrics.matches(predictions, reference)
                if work.keep_items:
                    kept[name].append(predictions == reference)
        count = len(self._hidden)
        places = np.stack([np.arange(count), np.zeros(count, np.int64)], axis=1)
        work.fill(plan, matches, kept, places)


def exact_data(
    module: nn.Module, batches: Callable[[], Iterable[Batch]], causal: bool, limit: int
) -> Exact | None:
    """The engine for a module of the two-layer shape; None if it has another, or its data are too large or masked."""
    try:
        network = from_module(module)
    except InputError:
        return None
    inputs, targets, size = [], [], 0
    for batch in batches():
        plain = len(batch.arguments) == 1 and not batch.keywords and batch.mask is None and not causal
        if not plain or not isinstance(batch.arguments[0], Tensor) or batch.arguments[0].ndim < 2:
            return None
        inputs.append(batch.arguments[0].reshape(len(batch), -1).cpu().numpy())
        targets.append(None if batch.target is None else batch.target.cpu().numpy())
        size += inputs[-1].nbytes
        if size > limit or inputs[-1].dtype != np.float32:
            return None
    known = [each for each in targets if each is not None]
    target = np.concatenate(known) if len(known) == len(inputs) else None
    if target is not None and not (
        target.dtype == np.int64 and target.ndim == 1 and 0 <= target.min() <= target.max() < network.classes
    ):
        return None
    return Exact(network, np.concatenate(inputs), target)
