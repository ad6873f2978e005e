"""The work on one layer, batch after batch, and all of it gathered as labelled arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nearzero.evaluators.plan import LayerPlan
from nearzero.evaluators.scores import Items, Metric, Scorer
from nearzero.perturbations.perturbation import Addition, AnyPerturbation, Perturbation, Side
from nearzero.torch_models.batches import Batch
from nearzero.torch_models.forward import Change, Changed, Method, Passes, SharedPasses
from nearzero.torch_models.layer import Layer
from nearzero.torch_models.ranges import counted_rows
from nearzero.torch_models.state import Model

__all__ = ["ResponseCollector", "changes_of", "count_rows", "take_batch"]

Doubles = npt.NDArray[np.float64]
AT_ONCE = 2**18  # logits that are measured at a time; those of one level may be more


_Operation = Callable[..., Tensor]
_Step = tuple[_Operation, Doubles]


# Of a metric on one batch of n items: its sums (L + 1,), and if items are kept its values (L + 1, n).
_Gathered = tuple[Doubles, npt.NDArray[np.float32] | None]


class ResponseCollector:
    """The responses of one layer, gathered batch by batch.

    Args:
        model: within `nearzero.torch_models.state.untouched`.
        plan: what is done to the layer.
        metrics: what is measured.
        causal, method, keep_items: as in `nearzero.probing.probe`.

    Attributes:
        shifts: (L + 1, K), what is taken out of the logits at each perturbation for the metrics called "centred_...";
            there are none if None.
        metrics: by name.
        sums: for each metric, its sum over items at each perturbation, and last without one, (L + 1,).
        items, examples, rows: how many that was.
        kept: for each metric, its values item by item, (L + 1, n) a batch, if they're kept.
        places: (n, 2) a batch, the example and the token of each item, if they're kept.
        passes: by side, how the logits are had.
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
        self.items = self.examples = 0
        self.kept: defaultdict[str, list[npt.NDArray[Any]]] = defaultdict(list)
        self.places: list[npt.NDArray[np.int64]] = []
        self.passes = {side: Passes(model, plan.layer, side, method) for side, _ in plan.by_side()}
        self.keep_items = keep_items
        self.shifts: Tensor | None = None
        self.rows = 0
        self._causal = causal

    def centre(self, shifts: Doubles) -> None:
        """Measure everything a second time, with these logits (L + 1, K) taken out; to be said at the start."""
        self.shifts = torch.from_numpy(shifts)
        self.sums |= {f"centred_{name}": np.zeros_like(sums) for name, sums in self.sums.items()}

    def logit_changes(self, batch: Batch) -> Doubles:
        """Return what perturbations do to the logits of one more batch, summed over items, (L + 1, K)."""
        sums: Doubles | None = None
        items: Items | None = None
        rows = 0
        for side, places in self.plan.by_side():
            changed = self.passes[side].on(batch)
            items = self._items(batch, changed.logits) if items is None else items
            unperturbed = items.logits(changed.logits)
            rows = count_rows(changed.values, self.plan.layer, batch)
            if sums is None:
                sums = np.zeros((len(self.plan.perturbations) + 1, unperturbed.shape[-1]))
            for some, logits in self._levels(changed, places, batch):
                for place, each in zip(some, logits, strict=False):  # one for all that are the identity
                    change = (items.logits(each) - unperturbed).detach().cpu()
                    sums[place] = change.sum(dim=0, dtype=torch.float64).numpy()
        assert sums is not None
        assert items is not None
        self.items += len(items)
        self.rows += rows
        return sums

    def add(self, gathered: Mapping[str, _Gathered], items: Items, rows: int) -> None:
        """Take the metrics on one more batch."""
        for name, (sums, values) in gathered.items():
            self.sums[name] += sums
            if values is not None:
                self.kept[name].append(values)
        if self.keep_items:
            self.places.append(items.place.cpu().numpy() + np.array([self.examples, 0]))
        self.items += len(items)
        self.rows += rows
        self.examples += len(items.batch)

    def score(
        self, changed: Changed, side: Side, scorer: Scorer, scored: defaultdict[str, dict[int, Tensor]]
    ) -> None:
        """Put what is kept of each metric's scores on one side, by number of the perturbation; last is without one."""
        places = [*dict(self.plan.by_side())[side], len(self.plan.perturbations)]
        for some, logits in self._levels(changed, places, scorer.items.batch):
            own = logits[0] is changed.logits
            found = self._unperturbed(scorer) if own else scorer.score(self.metrics, logits)
            if self.shifts is not None:
                exact = torch.float64 if logits[0].dtype == torch.float64 else torch.float32
                shifts = self.shifts[some].to(logits[0].device, exact)
                centred = scorer.score(self.metrics, logits, shifts)
                found = found | {f"centred_{name}": each for name, each in centred.items()}
            for name, scores in found.items():
                kept = self._kept(scores)
                for place, row in zip(some, kept.expand(len(some), *kept.shape[1:]), strict=True):
                    scored[name][place] = row

    def gathered(self, scored: Mapping[str, Mapping[int, Tensor]]) -> dict[str, _Gathered]:
        """Return what is gathered of the scores of one batch."""
        tables = {
            name: torch.stack([rows[place] for place in sorted(rows)]).cpu().numpy()
            for name, rows in scored.items()
        }
        if not self.keep_items:
            return {name: (table, None) for name, table in tables.items()}
        return {
            name: (table.sum(axis=1, dtype=np.float64), table.astype(np.float32))
            for name, table in tables.items()
        }

    def _unperturbed(self, scorer: Scorer) -> dict[str, Tensor]:
        """Return the scores without a perturbation, (1, n) each, which layers share."""
        missing = {name: each for name, each in self.metrics.items() if name not in scorer.own}
        if missing:
            scorer.own |= scorer.score(missing, [scorer.logits])
        return {name: scorer.own[name] for name in self.metrics}

    def _items(self, batch: Batch, logits: Tensor) -> Items:
        """What counts in a batch."""
        items = Items.of(batch, logits, self._causal)
        if any(metric.of_classes for metric in self.metrics.values()):
            items.check_classes(items.flat(logits).shape[1])
        return items

    def _levels(
        self, changed: Changed, places: Sequence[int], batch: Batch
    ) -> Iterator[tuple[list[int], list[Tensor]]]:
        """The logits at some perturbations, by number: small ones many at a time, as metrics are then few steps.

        Where nothing is done, the unperturbed ones stand for all.
        """
        known = [*self.plan.perturbations, Perturbation()]
        if still := [place for place in places if known[place].is_identity]:
            yield still, [changed.logits]
        moved = [place for place in places if not known[place].is_identity]
        at_once = max(1, AT_ONCE // max(1, changed.logits.numel()))
        several = [known[place] for place in moved]
        logits = map(changed.run, changes_of(several, changed.values, self.plan.layer, batch, self.rows))
        for first in range(0, len(moved), at_once):
            some = moved[first : first + at_once]
            yield some, list(islice(logits, len(some)))

    def _kept(self, scores: Tensor) -> Tensor:
        """What is kept of the scores (L, n) of some levels: themselves, or their sums over items (L,)."""
        scores = scores.detach()
        if self.keep_items:
            return scores
        scores = scores.cpu() if scores.device.type == "mps" else scores  # which has no float64
        return scores.sum(-1, dtype=torch.float64)


def take_batch(works: Sequence[ResponseCollector], passes: SharedPasses, batch: Batch) -> None:
    """Perturb several layers of one model on one more batch; where that fails, nothing of it is kept.

    Args:
        works: of the layers.
        passes: those of all sides of all layers.
        batch: the batch.
    """
    owners = {each: (work, side) for work in works for side, each in work.passes.items()}
    scored: dict[ResponseCollector, defaultdict[str, dict[int, Tensor]]] = {
        work: defaultdict(dict) for work in works
    }
    counts: dict[ResponseCollector, int] = {}
    scorer: Scorer | None = None
    for each, changed in passes.on(batch):
        work, side = owners[each]
        counts[work] = count_rows(changed.values, work.plan.layer, batch)
        if scorer is None or scorer.logits is not changed.logits:
            scorer = Scorer(work._items(batch, changed.logits), changed.logits)
        work.score(changed, side, scorer, scored[work])
        del changed
    assert scorer is not None
    for work, gathered in [(work, work.gathered(scored[work])) for work in works]:
        work.add(gathered, scorer.items, counts[work])


def changes_of(
    perturbations: Sequence[AnyPerturbation], like: Tensor, layer: Layer, batch: Batch, first_row: int
) -> Iterator[Change]:
    """Return perturbations as functions of tensors like a layer's values on a batch.

    Args:
        perturbations: of one side.
        like: the values.
        layer: whose they are.
        batch: what they are of.
        first_row: how many rows came before the batch.
    """
    per_unit = iter(
        _changes([_steps(each) for each in perturbations if isinstance(each, Perturbation)], like, layer)
    )
    for each in perturbations:
        if isinstance(each, Addition):
            yield _added(each, like, layer, batch, first_row)
        else:
            yield next(per_unit)


def _added(addition: Addition, like: Tensor, layer: Layer, batch: Batch, first_row: int) -> Change:
    """Numbers of their own added to each row that counts."""
    chosen, count = counted_rows(like, layer, batch), count_rows(like, layer, batch)

    def change(values: Tensor) -> Tensor:
        rows = torch.from_numpy(addition.added(slice(first_row, first_row + count))).to(values)
        out = values.clone()
        by_unit = out.movedim(layer.axis_of(like), -1)
        if chosen is None:
            by_unit += rows.view(by_unit.shape)
        else:
            by_unit[chosen] += rows
        return out

    return change


def count_rows(values: Tensor, layer: Layer, batch: Batch) -> int:
    """Return how many rows of a layer's values on a batch count."""
    chosen = counted_rows(values, layer, batch)
    return values.numel() // values.shape[layer.axis_of(values)] if chosen is None else int(chosen.sum())


def _steps(perturbation: Perturbation) -> list[_Step]:
    """y = min(scale * x + offset, clip) as operations, each with its parameter, without those that do nothing."""
    scale, offset, clip = map(np.asarray, (perturbation.scale, perturbation.offset, perturbation.clip))
    steps: list[tuple[_Operation, Doubles, float]] = [
        (torch.mul, scale, 1.0), (torch.add, offset, 0.0), (torch.minimum, clip, np.inf)
    ]  # fmt: skip
    return [(operation, each) for operation, each, nothing in steps if np.any(each != nothing)]


def _changes(several: Sequence[Sequence[_Step]], like: Tensor, layer: Layer) -> list[Change]:
    """Perturbations, as steps, as functions of tensors like a layer's values; computed in float32 at least.

    They're made anew for each batch, since those of all layers together would be large.
    """
    parameters = [parameter for steps in several for _, parameter in steps]
    shape = [1] * like.ndim
    shape[layer.axis_of(like)] = layer.units
    exact = np.float64 if like.dtype == torch.float64 else np.float32
    table = np.empty((len(parameters), layer.units), exact)
    with np.errstate(over="ignore"):  # a clip beyond float32 is no clip
        for row, parameter in zip(table, parameters, strict=True):
            row[:] = parameter
    ready = iter(torch.from_numpy(table).to(like.device).view(len(parameters), *shape))
    return [_change([(operation, next(ready)) for operation, _ in steps]) for steps in several]


def _change(steps: Sequence[tuple[_Operation, Tensor]]) -> Change:
    """Operations with their parameters, one after the other."""

    def change(values: Tensor) -> Tensor:
        if not steps:
            return values.clone()
        x, room = values, torch.empty_like(values, dtype=steps[0][1].dtype)
        for operation, parameter in steps:
            x = operation(x, parameter, out=room)
        return x.to(values.dtype)

    return change
