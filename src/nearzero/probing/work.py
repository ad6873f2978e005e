"""The work on one layer, batch after batch, and all of it gathered as labelled arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from nearzero.errors import InputError
from nearzero.perturbation import Perturbation
from nearzero.probing.batches import Batch
from nearzero.probing.model import Model
from nearzero.probing.passes import Change, Method, Passes
from nearzero.probing.plan import Plan
from nearzero.probing.result import FORMAT
from nearzero.probing.scores import Items, Score

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
        scores: the metrics.
        causal, method, keep_items: as in `nearzero.probing.probe`.

    Attributes:
        open: the metrics that are measured on each batch.
        sums: for each metric, its sum over items at each perturbation, and last without one, (L + 1,).
        items: how many items that was.
        kept: for each metric, its values item by item, (L + 1, n) a batch, if they're kept.
        places: (n, 2) a batch, the example and the token of each item.
        passes: by side, how the logits are had.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        scores: Mapping[str, Score],
        causal: bool,
        method: Method,
        keep_items: bool,
    ) -> None:
        self.plan = plan
        self.open = dict(scores)
        self.sums: dict[str, Doubles] = {name: np.zeros(len(plan.perturbations) + 1) for name in scores}
        self.items = self.examples = 0
        self.kept: defaultdict[str, list[npt.NDArray[Any]]] = defaultdict(list)
        self.places: list[npt.NDArray[np.int64]] = []
        self.passes = {side: Passes(model, plan.layer, side, method) for side, _ in plan.by_side()}
        self.keep_items = keep_items
        self._causal = causal
        self._changes: dict[tuple[torch.device, torch.dtype], list[Change | None]] = {}

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
        self.items = self.examples = len(places)
        self.places = [places]

    def take(self, batch: Batch) -> None:
        """Perturb the layer on one more batch; in halves where the device's memory doesn't hold it."""
        part = None
        try:
            part = self._respond(batch)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(batch) < 2 or not batch.divisible:
                raise InputError(
                    f"the device's memory doesn't hold a batch of {batch.describe()}; use smaller batches"
                ) from error
        if part is None:  # outside of the handler, whose traceback holds on to memory
            half = len(batch) // 2
            self.take(batch.rows(slice(0, half)))
            self.take(batch.rows(slice(half, None)))
            return
        self._add(part, len(batch))

    def _add(self, part: _Part, examples: int) -> None:
        for name, sums in part.sums.items():
            self.sums[name] += sums
            self.kept[name] += [part.values[name]] if self.keep_items else []
        self.places.append(part.places + np.array([self.examples, 0]))
        self.items += len(part.places)
        self.examples += examples

    def _respond(self, batch: Batch) -> _Part:
        """The open metrics at each perturbation, and last without one."""
        levels = len(self.plan.perturbations)
        sums = {name: np.zeros(levels + 1) for name in self.open}
        values: dict[str, list[Any]] = {name: [None] * (levels + 1) for name in self.open}
        items: Items | None = None
        for side, places in self.plan.by_side():
            changed = self.passes[side].on(batch)
            items = items or Items.of(batch, changed.logits, self._causal)
            unperturbed = items.logits(changed.logits)
            changes = self._changes_for(changed.values)
            for place in (*places, levels):
                change = changes[place] if place < levels else None
                logits = unperturbed if change is None else items.logits(changed.run(change))
                for name, score in self.open.items():
                    scored = score(logits, items.target, unperturbed).detach().cpu().numpy()
                    sums[name][place] = scored.sum(dtype=np.float64)
                    if self.keep_items:
                        values[name][place] = scored.astype(np.float32)
        assert items is not None
        kept = {name: np.stack(each) for name, each in values.items()} if self.keep_items else {}
        return _Part(sums, kept, items.place.cpu().numpy())

    def _changes_for(self, values: Tensor) -> list[Change | None]:
        """The perturbations as functions of tensors like `values`; None where nothing changes."""
        key = (values.device, values.dtype)
        if key not in self._changes:
            layer = self.plan.layer
            self._changes[key] = [
                None if each.is_identity else _change(each, values, layer.units, layer.unit_axis)
                for each in self.plan.perturbations
            ]
        return self._changes[key]


def _change(perturbation: Perturbation, like: Tensor, units: int, axis: int) -> Change:
    """y = min(scale * x + offset, clip) along one dimension; half precision is computed in float32."""
    exact = torch.float64 if like.dtype == torch.float64 else torch.float32
    shape = [1] * like.ndim
    shape[axis if like.ndim > axis else -1] = units
    parameters = (perturbation.scale, perturbation.offset, perturbation.clip)
    scale, offset, clip = (
        torch.from_numpy(np.broadcast_to(np.asarray(each), (units,)).copy())
        .to(like.device, exact)
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


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


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
