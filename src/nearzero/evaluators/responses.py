"""Collect the responses of layers, batch after batch.

`take_batch` perturbs several layers on one batch. For each layer, a `ResponseCollector` computes the scores
under all of the layer's perturbations and adds them up over batches. If anything fails on a batch, nothing of
it is added, so that the batch can be repeated in smaller blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nearzero.evaluators.metrics.own import OwnMetric
from nearzero.evaluators.plan import LayerPlan
from nearzero.evaluators.scores import NOT_FINITE, Items, Metric, Scorer
from nearzero.perturbations.perturbation import Addition, AnyPerturbation, Perturbation, Side
from nearzero.torch_models.batches import Batch
from nearzero.torch_models.forward import Change, Changed, Method, Passes, SharedPasses, Unreached
from nearzero.torch_models.layer import Layer
from nearzero.torch_models.ranges import counted_rows
from nearzero.torch_models.state import Model

__all__ = ["ResponseCollector", "changes_of", "count_rows", "take_batch"]

Doubles = npt.NDArray[np.float64]
OF_BATCHES = (
    "one number for each batch, averaged over batches by their items",
    "numbers for halves of a batch have another mean",
)
AT_ONCE = 2**18  # logits that are scored at a time; a single level may have more

_Operation = Callable[..., Tensor]
_Step = tuple[_Operation, Doubles]

# Scores of one side by metric and by index of the perturbation: (n,), or sums over items. Index L is no
# perturbation.
_Scored = defaultdict[str, dict[int, Tensor]]

# A metric on one batch of n items: its sums (L + 1,) and, if items are kept, its values (L + 1, n).
_Gathered = tuple[Doubles, npt.NDArray[np.float32] | None]


class ResponseCollector:
    """Collect the responses of one layer, batch by batch.

    Args:
        model: the model, within `nearzero.torch_models.state.untouched`.
        plan: the layer and its L perturbations.
        metrics: by name.
        causal, method, keep_items: as in `nearzero.probing.probe`.

    Attributes:
        shifts: (L + 1, K), subtracted from the logits for the metrics called "centred_..."; None if there are
            none.
        metrics: as given.
        sums: by metric, its sum over items under each perturbation and, last, without one, (L + 1,).
        not_finite: how many items have logits that can't be ranked under each perturbation, (L + 1,).
        items, examples, rows: how many of each have been added.
        partial: whether some examples don't reach the layer, or give it another number of rows.
        kept: by metric, its values item by item, (L + 1, n) for each batch, if they are kept.
        positions: for each batch (n, 2), the example and the token of each item, if they are kept.
        targets: for each batch (n,), the classes that are the items' targets, if items are kept and have such.
        passes: by side, the forward passes with this side of the layer changed.
    """

    def __init__(
        self,
        model: Model,
        plan: LayerPlan,
        metrics: Mapping[str, Metric],
        causal: bool,
        method: Method,
        keep_items: bool,
    ) -> None:
        self.plan = plan
        self.metrics = metrics
        self.sums: dict[str, Doubles] = {name: np.zeros(len(plan.perturbations) + 1) for name in metrics}
        self.not_finite = np.zeros(len(plan.perturbations) + 1)
        self.items = self.examples = 0
        self.kept: defaultdict[str, list[npt.NDArray[Any]]] = defaultdict(list)
        self.positions: list[npt.NDArray[np.int64]] = []
        self.targets: list[npt.NDArray[np.int64]] = []
        self.passes = {side: Passes(model, plan.layer, side, method) for side, _ in plan.by_side()}
        self.keep_items = keep_items
        self.shifts: Tensor | None = None
        self.rows, self.partial = 0, plan.layer.conditional
        self._causal = causal
        self._model = model

    def centre(self, shifts: Doubles) -> None:
        """Also compute all metrics with `shifts` (L + 1, K) subtracted from the logits; call this before any batch."""
        self.shifts = torch.from_numpy(shifts)
        self.sums |= {f"centred_{name}": np.zeros_like(sums) for name, sums in self.sums.items()}

    def logit_changes(self, batch: Batch) -> Doubles:
        """Return the change of the logits of one more batch under each perturbation, summed over items, (L + 1, K).

        Changes to or from a logit that isn't finite count as 0.
        """
        sums: Doubles | None = None
        items: Items | None = None
        rows = 0
        for side, indices in self.plan.by_side():
            changed = self.passes[side].on(batch)
            items = self.items_of(batch, changed.logits) if items is None else items
            unperturbed = items.logits(changed.logits)
            rows = count_rows(changed.values, self.plan.layer, batch)
            if sums is None:
                sums = np.zeros((len(self.plan.perturbations) + 1, unperturbed.shape[-1]))
            for group, logits_of_group in self._levels(changed, indices, batch):
                # strict=False, since identities share one; their sums stay 0
                for index, logits in zip(group, logits_of_group, strict=False):
                    change = (items.logits(logits) - unperturbed).detach().cpu().double()
                    sums[index] = change.nan_to_num_(0.0, 0.0, 0.0).sum(dim=0).numpy()
        assert sums is not None
        assert items is not None
        self.items += len(items)
        self.rows += rows
        return sums

    def add(self, gathered: Mapping[str, _Gathered], items: Items, rows: int | None) -> None:
        """Add the metrics of one more batch, with the layer's rows that count; None if it doesn't reach the layer."""
        for name, (sums, values) in gathered.items():
            if name == NOT_FINITE:
                self.not_finite += sums
                continue
            self.sums[name] += sums
            if values is not None:
                self.kept[name].append(values)
        if self.keep_items:
            self.positions.append(items.position.cpu().numpy() + np.array([self.examples, 0]))
            target = items.target
            if target is not None and target.ndim == 1 and not target.is_floating_point():
                self.targets.append(target.cpu().numpy().astype(np.int64))
        for name, metric in self.metrics.items() if self.items else ():
            if isinstance(metric.score, OwnMetric) and metric.score.of_batches:
                self._model.assumptions.record(f"metric {name}", *OF_BATCHES, "metrics=")
        self.items += len(items)
        self.rows += rows or 0
        self.partial |= rows is None
        self.examples += len(items.batch)

    def score(self, changed: Changed | Unreached, side: Side, scorer: Scorer, scored: _Scored) -> None:
        """Score all perturbations of one side of the layer on a batch.

        Args:
            changed: the passes on the batch.
            side: the side.
            scorer: the scorer of the batch.
            scored: receives the scores.
        """
        indices = [*dict(self.plan.by_side())[side], len(self.plan.perturbations)]
        for group, logits in self._levels(changed, indices, scorer.items.batch):
            unperturbed = logits[0] is changed.logits
            scores = self._unperturbed(scorer) if unperturbed else scorer.score(self.metrics, logits)
            if self.shifts is not None:
                dtype = torch.float64 if logits[0].dtype == torch.float64 else torch.float32
                shifts = self.shifts[group].to(logits[0].device, dtype)
                centred = scorer.score(self.metrics, logits, shifts)
                scores = scores | {f"centred_{name}": centred[name] for name in self.metrics}
            for name, values in scores.items():
                kept = self._kept(values)
                for index, row in zip(group, kept.expand(len(group), *kept.shape[1:]), strict=True):
                    scored[name][index] = row
            del logits  # frees them before the next are computed

    def gathered(self, scored: Mapping[str, Mapping[int, Tensor]]) -> dict[str, _Gathered]:
        """Return the scores of one batch as arrays, ordered by perturbation."""
        gathered: dict[str, _Gathered] = {}
        for name, rows in scored.items():
            table = torch.stack([rows[index] for index in sorted(rows)]).cpu().numpy()
            sums = table.sum(axis=1, dtype=np.float64) if self.keep_items else table
            if name == NOT_FINITE:  # of some perturbations only
                counts = np.zeros_like(self.not_finite)
                counts[sorted(rows)] = sums
                gathered[name] = counts, None
            else:
                gathered[name] = sums, table.astype(np.float32) if self.keep_items else None
        return gathered

    def items_of(self, batch: Batch, logits: Tensor) -> Items:
        """Return the items of a batch.

        Raises:
            InputError: a metric needs classes, and the targets aren't classes; or logits can't be ranked.
        """
        items = Items.of(batch, logits, self._causal, self._model.reading)
        items.check_finite(logits)
        if any(metric.of_classes for metric in self.metrics.values()):
            items = items.with_classes(items.flat(logits).shape[1])
        return items

    def _unperturbed(self, scorer: Scorer) -> dict[str, Tensor]:
        """Return the scores without a perturbation, (1, n) each; all layers share them."""
        missing = {name: metric for name, metric in self.metrics.items() if name not in scorer.own}
        if missing:
            scorer.own |= scorer.score(missing, [scorer.logits])
        return {name: scorer.own[name] for name in self.metrics}

    def _levels(
        self, changed: Changed | Unreached, indices: Sequence[int], batch: Batch
    ) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Yield groups of perturbations, by index, with their logits.

        Small logits come many at a time, which makes metrics faster. All identities are one group that has
        the unperturbed logits once; so are all perturbations where the batch doesn't reach the layer.
        """
        if isinstance(changed, Unreached):
            yield list(indices), [changed.logits]
            return
        perturbations = [*self.plan.perturbations, Perturbation()]
        if identities := [index for index in indices if perturbations[index].is_identity]:
            yield identities, [changed.logits]
        others = [index for index in indices if not perturbations[index].is_identity]
        at_once = max(1, AT_ONCE // max(1, changed.logits.numel()))
        applied = [perturbations[index] for index in others]
        changes = changes_of(applied, changed.values, self.plan.layer, batch, self.rows)
        logits = map(changed.run, changes)
        for first in range(0, len(others), at_once):
            group = others[first : first + at_once]
            yield group, list(islice(logits, len(group)))

    def _kept(self, scores: Tensor) -> Tensor:
        """Return scores (L, n) of some levels if items are kept, else their sums over items (L,)."""
        scores = scores.detach()
        if self.keep_items:
            return scores
        scores = scores.cpu() if scores.device.type == "mps" else scores  # MPS has no float64
        return scores.sum(-1, dtype=torch.float64)


def take_batch(collectors: Sequence[ResponseCollector], passes: SharedPasses, batch: Batch) -> None:
    """Perturb several layers of one model on one more batch; if this fails, nothing of the batch is added.

    Args:
        collectors: one for each layer.
        passes: the passes of all sides of all layers.
        batch: the batch.
    """
    owners = {each: (collector, side) for collector in collectors for side, each in collector.passes.items()}
    scored: dict[ResponseCollector, _Scored] = {collector: defaultdict(dict) for collector in collectors}
    rows: dict[ResponseCollector, int | None] = {}
    scorer: Scorer | None = None
    for side_passes, changed in passes.on(batch):
        collector, side = owners[side_passes]
        values = None if isinstance(changed, Unreached) else changed.values
        rows[collector] = None if values is None else count_rows(values, collector.plan.layer, batch)
        collector.partial |= values is not None and _is_partial(values, collector.plan.layer, batch)
        if scorer is None or scorer.logits is not changed.logits:
            scorer = Scorer(collector.items_of(batch, changed.logits), changed.logits)
        collector.score(changed, side, scorer, scored[collector])
        del changed, values  # frees its memory before the next is computed
    assert scorer is not None
    # all are gathered before any is added, since gathering may fail too
    gathered = {collector: collector.gathered(scored[collector]) for collector in collectors}
    for collector in collectors:
        collector.add(gathered[collector], scorer.items, rows[collector])


def changes_of(
    perturbations: Sequence[AnyPerturbation], like: Tensor, layer: Layer, batch: Batch, first_row: int
) -> Iterator[Change]:
    """Yield perturbations as functions of tensors like a layer's values on a batch.

    Args:
        perturbations: perturbations of one side.
        like: the values of the layer.
        layer: the layer.
        batch: the batch.
        first_row: the number of rows before the batch, which noise depends on.
    """
    steps = [_steps(each) for each in perturbations if isinstance(each, Perturbation)]
    per_unit = iter(_changes(steps, like, layer))
    for perturbation in perturbations:
        if isinstance(perturbation, Addition):
            yield _added(perturbation, like, layer, batch, first_row)
        else:
            yield next(per_unit)


def _added(addition: Addition, like: Tensor, layer: Layer, batch: Batch, first_row: int) -> Change:
    """Return the function that adds an addition's numbers to each row that counts."""
    counted, count = counted_rows(like, layer, batch), count_rows(like, layer, batch)

    def change(values: Tensor) -> Tensor:
        added = torch.from_numpy(addition.added(slice(first_row, first_row + count))).to(values)

        def add(rows: Tensor) -> Tensor:
            return rows + added.view(rows.shape)

        out = values.clone()
        rows = out.movedim(layer.axis_of(like), -1)
        places: Any = ... if counted is None else counted
        rows[places] = layer.changed(rows[places], add).to(values.dtype)
        return out

    return change


def count_rows(values: Tensor, layer: Layer, batch: Batch) -> int:
    """Return how many rows of a layer's values on a batch count."""
    counted = counted_rows(values, layer, batch)
    return values.numel() // values.shape[layer.axis_of(values)] if counted is None else int(counted.sum())


def _is_partial(values: Tensor, layer: Layer, batch: Batch) -> bool:
    """Return whether the rows of a layer's values on a batch can't be as many for each example."""
    routed = batch.routed.get(layer.key)
    if routed is not None:
        times = torch.bincount(routed.index, minlength=routed.count)
        return bool((times != times[0]).any())
    rows = values.numel() // values.shape[layer.axis_of(values)]
    return batch.axis is not None and rows % len(batch) != 0


def _steps(perturbation: Perturbation) -> list[_Step]:
    """Return y = min(max(scale * x + offset, low), clip) as operations with parameters, those of no effect left out."""
    steps: list[tuple[_Operation, Any, float]] = [
        (torch.mul, perturbation.scale, 1.0),
        (torch.add, perturbation.offset, 0.0),
        (torch.maximum, perturbation.low, -np.inf),
        (torch.minimum, perturbation.clip, np.inf),
    ]
    return [(operation, np.asarray(x)) for operation, x, neutral in steps if np.any(np.asarray(x) != neutral)]


def _changes(steps_of_all: Sequence[Sequence[_Step]], like: Tensor, layer: Layer) -> list[Change]:
    """Return perturbations, given as steps, as functions of tensors like a layer's values.

    They compute in float32, or in float64 for such values. They are made again for each batch, since the
    parameters of all layers together can be large.
    """
    parameters = [parameter for steps in steps_of_all for _, parameter in steps]
    shape = [1] * like.ndim
    shape[layer.axis_of(like) if layer.coordinates is None else -1] = layer.units
    dtype = np.float64 if like.dtype == torch.float64 else np.float32
    table = np.empty((len(parameters), layer.units), dtype)
    with np.errstate(over="ignore"):  # a bound beyond float32 becomes infinite, and changes nothing
        for row, parameter in zip(table, parameters, strict=True):
            row[:] = parameter
    tensors = iter(torch.from_numpy(table).to(like.device).view(len(parameters), *shape))
    changes = [_change([(operation, next(tensors)) for operation, _ in steps]) for steps in steps_of_all]
    return changes if layer.coordinates is None else [_of_coordinates(change, layer) for change in changes]


def _of_coordinates(change: Change, layer: Layer) -> Change:
    """Return a function of coordinates as one of the values that have them."""

    def changed(values: Tensor) -> Tensor:
        axis = layer.axis_of(values)
        rows = layer.changed(values.movedim(axis, -1), change).movedim(-1, axis)
        if torch.is_grad_enabled() and values.requires_grad:
            return rows.to(values.dtype)
        return torch.empty_like(values).copy_(rows)  # in the order of the values in memory

    return changed


def _change(steps: Sequence[tuple[_Operation, Tensor]]) -> Change:
    """Return the function that applies the operations one after the other, with one new tensor for all results.

    Where the model takes gradients, the results keep theirs, and each is a tensor of its own.
    """

    def change(values: Tensor) -> Tensor:
        if not steps:
            return values.clone()
        if torch.is_grad_enabled() and values.requires_grad:
            return reduce(lambda x, step: step[0](x, step[1]), steps, values).to(values.dtype)
        x, workspace = values, torch.empty_like(values, dtype=steps[0][1].dtype)
        for operation, parameter in steps:
            x = operation(x, parameter, out=workspace)
        return x.to(values.dtype)

    return change
