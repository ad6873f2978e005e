"""The work on one layer, batch after batch, and all of it gathered as labelled arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from nearzero.perturbation import Perturbation
from nearzero.probing.batches import Batch
from nearzero.probing.items import Items
from nearzero.probing.layer import Layer
from nearzero.probing.model import Model
from nearzero.probing.passes import Change, Changed, Method, Passes
from nearzero.probing.plan import Plan
from nearzero.probing.result import FORMAT
from nearzero.probing.scores import Metric

__all__ = ["Work", "dataset"]

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Part:
    """The metrics on one batch: sums (L + 1,), values (L + 1, n) if they're kept, places (n, 2)."""

    sums: dict[str, Doubles]
    values: dict[str, npt.NDArray[np.float32]]
    places: npt.NDArray[np.int64]


class Work:
    """The responses of one layer, gathered batch by batch.

    Args:
        model: within `nearzero.probing.model.untouched`.
        plan: what is done to the layer.
        metrics: what is measured.
        causal, method, keep_items: as in `nearzero.probing.probe`.

    Attributes:
        open: the metrics that are measured on each batch.
        sums: for each metric, its sum over items at each perturbation, and last without one, (L + 1,).
        items, examples: how many that was.
        kept: for each metric, its values item by item, (L + 1, n) a batch, if they're kept.
        places: (n, 2) a batch, the example and the token of each item.
        passes: by side, how the logits are had.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        metrics: Mapping[str, Metric],
        causal: bool,
        method: Method,
        keep_items: bool,
    ) -> None:
        self.plan = plan
        self.open = dict(metrics)
        self.sums: dict[str, Doubles] = {name: np.zeros(len(plan.perturbations) + 1) for name in metrics}
        self.items = self.examples = 0
        self.kept: defaultdict[str, list[npt.NDArray[Any]]] = defaultdict(list)
        self.places: list[npt.NDArray[np.int64]] = []
        self.passes = {side: Passes(model, plan.layer, side, method) for side, _ in plan.by_side()}
        self.keep_items = keep_items
        self._causal = causal
        self._changes: dict[tuple[torch.device, torch.dtype, int], list[Change | None]] = {}

    def fill(
        self,
        plan: Plan,
        sums: Mapping[str, Doubles],
        kept: Mapping[str, list[npt.NDArray[Any]]],
        places: npt.NDArray[np.int64],
    ) -> None:
        """Take the sums of some metrics over all the data from elsewhere; they are no longer open."""
        self.plan = plan
        for name, each in sums.items():
            del self.open[name]
            self.sums[name] = each
            self.kept[name] = kept[name]
        if not self.open:  # else they're counted as batches come
            self.items = self.examples = len(places)
            self.places = [places]

    def take(self, batch: Batch) -> None:
        """Perturb the layer on one more batch."""
        part = self._respond(batch)
        for name, sums in part.sums.items():
            self.sums[name] += sums
            self.kept[name] += [part.values[name]] if self.keep_items else []
        self.places.append(part.places + np.array([self.examples, 0]))
        self.items += len(part.places)
        self.examples += len(batch)

    def _respond(self, batch: Batch) -> _Part:
        """The open metrics at each perturbation, and last without one."""
        levels = len(self.plan.perturbations)
        scored: dict[str, list[Any]] = {name: [None] * (levels + 1) for name in self.open}
        items: Items | None = None
        for side, places in self.plan.by_side():
            changed = self.passes[side].on(batch)
            items = self._items(batch, changed.logits) if items is None else items
            unperturbed = items.logits(changed.logits)
            for place, logits in self._levels(changed, [*places, levels]):
                rows = unperturbed if logits is None else items.logits(logits)
                for name, metric in self.open.items():
                    scored[name][place] = self._kept(metric.score(rows, items.target, unperturbed))
        assert items is not None
        tables = {name: torch.stack(each).cpu().numpy() for name, each in scored.items()}
        places_ = items.place.cpu().numpy()
        if not self.keep_items:
            return _Part(tables, {}, places_)
        sums = {name: table.sum(axis=1, dtype=np.float64) for name, table in tables.items()}
        return _Part(sums, {name: table.astype(np.float32) for name, table in tables.items()}, places_)

    def _items(self, batch: Batch, logits: Tensor) -> Items:
        """What counts in a batch."""
        items = Items.of(batch, logits, self._causal)
        if any(metric.of_classes for metric in self.open.values()):
            items.check_classes(items.logits(logits).shape[1])
        return items

    def _levels(self, changed: Changed, places: Sequence[int]) -> Iterator[tuple[int, Tensor | None]]:
        """The logits at each perturbation, by its number; None where nothing changes."""
        changes = [*self._changes_for(changed.values), None]
        moved = [(place, change) for place in places if (change := changes[place]) is not None]
        yield from ((place, None) for place in places if changes[place] is None)
        logits = changed.each([change for _, change in moved])
        yield from zip((place for place, _ in moved), logits, strict=True)

    def _kept(self, score: Tensor) -> Tensor:
        """What is kept of an item's score at one level: itself, or the sum over all."""
        score = score.detach()
        if self.keep_items:
            return score
        score = score.cpu() if score.device.type == "mps" else score  # which has no float64
        return score.sum(dtype=torch.float64)

    def _changes_for(self, values: Tensor) -> list[Change | None]:
        """The perturbations as functions of tensors like `values`; None where nothing changes."""
        key = (values.device, values.dtype, values.ndim)
        if key not in self._changes:
            layer = self.plan.layer
            self._changes[key] = [
                None if each.is_identity else _change(each, values, layer) for each in self.plan.perturbations
            ]
        return self._changes[key]


def _change(perturbation: Perturbation, like: Tensor, layer: Layer) -> Change:
    """y = min(scale * x + offset, clip) along one dimension; half precision is computed in float32."""
    exact = torch.float64 if like.dtype == torch.float64 else torch.float32
    shape = [1] * like.ndim
    shape[layer.axis_of(like)] = layer.units
    parameters = (perturbation.scale, perturbation.offset, perturbation.clip)
    scale, offset, clip = (
        torch.from_numpy(np.broadcast_to(np.asarray(each), (layer.units,)).copy())
        .to(exact)
        .to(like.device)
        .view(shape)
        for each in parameters
    )
    scales, moves, clips = (
        bool((scale != 1).any()),
        bool((offset != 0).any()),
        bool((clip != torch.inf).any()),
    )

    def change(values: Tensor) -> Tensor:
        x = values.to(exact)
        if scales:
            x = scale * x
        if moves:
            x = x + offset
        if clips:
            x = torch.minimum(x, clip)
        return x.to(values.dtype, copy=x is values)

    return change


def dataset(work: Sequence[Work], model: str) -> xr.Dataset:
    """All layers' responses as labelled arrays."""
    plans = [each.plan for each in work]
    families = list(plans[0].grids)
    axis = np.unique(np.concatenate([grid for plan in plans for grid in plan.grids.values()]))
    metrics = list(work[0].sums)

    def on_axis(values: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """(L, ...) of each layer on (layer, family, level, ...), NaN where a family hasn't a level."""
        full = np.full((len(work), len(families), len(axis), *values[0].shape[1:]), np.nan, values[0].dtype)
        for index, (plan, rows) in enumerate(zip(plans, values, strict=True)):
            first = 0
            for number, grid in enumerate(plan.grids.values()):
                full[index, number, np.searchsorted(axis, grid)] = rows[first : first + len(grid)]
                first += len(grid)
        return full

    curve, layer = ("layer", "family", "level"), ("layer",)
    data: dict[str, Any] = {}
    for name in metrics:
        data[name] = (curve, on_axis([each.sums[name][:-1] / max(each.items, 1) for each in work]))
        data[f"unperturbed_{name}"] = ((), work[0].sums[name][-1] / max(work[0].items, 1))
    about: dict[str, list[Any]] = {
        "kind": [plan.layer.kind for plan in plans],
        "type": [plan.layer.type for plan in plans],
        "activation": [plan.layer.activation or "none" for plan in plans],
        "units": [plan.layer.units for plan in plans],
        "unit_axis": [plan.layer.unit_axis for plan in plans],
        "dead_units": [plan.ranges.dead_units for plan in plans],
        "offset": [plan.conduct.offset for plan in plans],
        "range": [plan.conduct.range for plan in plans],
        "method": [_method(each) for each in work],
        "reason": ["; ".join({each.reason for each in each.passes.values() if each.reason}) for each in work],
    }
    data |= {name: (layer, np.array(values)) for name, values in about.items()}
    coords: dict[str, Any] = {"layer": [plan.layer.name for plan in plans], "family": families, "level": axis}
    if work[0].keep_items:
        places = np.concatenate(work[0].places)
        coords |= {"sequence": ("item", places[:, 0]), "token": ("item", places[:, 1])}
        for name in metrics:
            values = [np.concatenate(each.kept[name], axis=1)[:-1].astype(np.float32) for each in work]
            data[f"{name}_items"] = ((*curve, "item"), on_axis(values))
    attributes = {
        "format": FORMAT, "model": model, "metrics": metrics, "examples": work[0].examples,
        "items": work[0].items,
    }  # fmt: skip
    return xr.Dataset(data, coords, attributes)


def _method(work: Work) -> str:
    """How the logits of a layer were had: the slower way of its sides."""
    if not work.open:
        return "two-layer"
    methods = {each.method for each in work.passes.values()}
    return "full" if "full" in methods else next(iter(methods))
