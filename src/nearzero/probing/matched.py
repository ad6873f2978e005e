"""Responses of layers at matched displacement: what `nearzero.matched` is to the paper's networks, for any model.

Each batch is cut in two. Unit ranges and levels come from the first half of every batch, responses from the second.
What displacement is, and how a level is found that gives one, is in `nearzero.displacement`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from nearzero.displacement import match
from nearzero.errors import InputError
from nearzero.families import Family
from nearzero.matched import SIDES, Design
from nearzero.memory import memory_text
from nearzero.noise import NOISES
from nearzero.perturbation import Perturbation
from nearzero.probing.batches import Batch
from nearzero.probing.layer import Layer
from nearzero.probing.model import Model
from nearzero.probing.passes import Method
from nearzero.probing.plan import Plan, check_place, conduct_of
from nearzero.probing.ranges import by_unit, layer_ranges
from nearzero.probing.scores import Metric
from nearzero.probing.source import Room
from nearzero.probing.taps import Tap, tapped
from nearzero.probing.work import Work, change_of
from nearzero.ranges import Ranges

__all__ = ["matched_responses"]

Doubles = npt.NDArray[np.float64]
ROWS = 2**18  # numbers that are changed at a time


@dataclass(frozen=True, eq=False)
class _Half:
    """One half of every batch: of its examples; where those can't be told apart, every other batch."""

    batches: Iterable[Batch]
    part: int

    def __iter__(self) -> Iterator[Batch]:
        found = 0
        for count, batch in enumerate(self.batches):
            if batch.divisible and len(batch) > 1:
                middle = len(batch) // 2
                found += 1
                yield batch.rows(slice(middle, len(batch)) if self.part else slice(0, middle))
            elif count % 2 == self.part:
                found += 1
                yield batch
        if not found:
            raise InputError(
                "data hold one batch that can't be cut in two; give more batches, or larger ones"
            )


@dataclass(frozen=True)
class _Condition:
    """One family, side and draw at one displacement, and the level that gives it."""

    family: str
    side: str
    target: float
    draw: int
    level: float
    displacement: float
    perturbation: Perturbation


def matched_responses(
    model: Model,
    layers: Sequence[Layer],
    batches: Iterable[Batch],
    room: Room,
    design: Design,
    metrics: Mapping[str, Metric],
    *,
    causal: bool,
    method: Method,
) -> xr.Dataset:
    """The metrics on (layer, family, side, target), NaN where a displacement isn't reached; levels likewise. Each
    metric stands there a second time, as "centred_...", with the mean change of the logits on the first halves
    taken out.

    Families of noise, which is drawn for each example, are left out.

    Raises:
        InputError: as `nearzero.probing.probe`; or values of a layer that don't fit in memory.
    """
    reference, responding = _Half(batches, 0), _Half(batches, 1)
    families = [name for name in design.families if name not in NOISES]
    ranges = layer_ranges(model, layers, reference, room)
    works, conditions = [], []
    for layer, each in zip(layers, ranges, strict=True):
        values = _values(model, layer, reference, room)
        conditions.append(list(_conditions(layer, each, values, families, design)))
        plan = Plan(
            layer, each, conduct_of(layer, design.conduct), {}, [c.perturbation for c in conditions[-1]]
        )
        works.append(Work(model, plan, metrics, causal, method, keep_items=False))
    for work, shifts in zip(works, _logit_shifts(works, reference, room), strict=True):
        work.centre(shifts)
    for batch in responding:
        for work in works:
            room.each(batch, work.take)
    return _dataset(works, conditions, families, design)


def _logit_shifts(works: Sequence[Work], reference: Iterable[Batch], room: Room) -> list[Doubles]:
    """For each layer, the mean change of the logits at each perturbation, (L + 1, K), on the reference half."""
    sums: list[Doubles | float] = [0.0] * len(works)
    items = [0] * len(works)

    def gather(number: int, batch: Batch) -> None:
        changes, count = works[number].logit_changes(batch)
        sums[number] = sums[number] + changes
        items[number] += count

    for batch in reference:
        for number in range(len(works)):
            room.each(batch, partial(gather, number))
    return [np.asarray(total) / max(count, 1) for total, count in zip(sums, items, strict=True)]


def _values(model: Model, layer: Layer, batches: Iterable[Batch], room: Room) -> Tensor:
    """z of a layer on all batches, (rows, U) float32, without what masks leave out.

    Raises:
        InputError: they take more than a quarter of the memory.
    """
    kept: list[Tensor] = []
    size = 0

    def gather(batch: Batch) -> None:
        nonlocal size
        seen: list[Tensor] = []
        with tapped(
            model.module, [Tap(layer, "pre", lambda values: seen.append(by_unit(values, layer, batch)))]
        ):
            model.logits(batch)
        rows = [each.reshape(-1, each.shape[-1]).float() for each in seen]
        size += sum(each.nbytes for each in rows)
        if size > room.limit // 4:
            raise InputError(
                f"the values of layer {layer.name!r} take more than a quarter of {memory_text(room.limit)}, and levels "
                "are matched on all of them; give fewer examples, or more memory by NEARZERO_MEMORY or memory=..."
            )
        kept.extend(each.clone() for each in rows)

    for batch in batches:
        room.each(batch, gather)
    return torch.cat(kept)


def _conditions(
    layer: Layer, ranges: Ranges, values: Tensor, families: Sequence[str], design: Design
) -> Iterator[_Condition]:
    """Every level that gives a displacement of the design."""
    conduct = conduct_of(layer, design.conduct)
    size_of = _sizes(layer, ranges, values)
    for name in families:
        drawn = design.drawn(name, conduct)
        if drawn[0].identity is None:
            continue
        for draw, family in enumerate(drawn):
            check_place(
                layer, [family.at(family.sides["below"][1] if "below" in family.sides else 0.5, ranges)]
            )
            for side, (begin, end) in family.sides.items():
                found = match(size_of(family), begin, end, design.targets)
                for target, each in zip(design.targets, found, strict=True):
                    if each.reached:
                        changed = family.at(each.level, ranges)
                        yield _Condition(name, side, target, draw, each.level, each.displacement, changed)


def _sizes(
    layer: Layer, ranges: Ranges, values: Tensor
) -> Callable[[Family], Callable[[npt.ArrayLike], Doubles]]:
    """For a family, d as a function of levels."""
    act = layer.act if layer.act is not None else lambda z: z
    live = torch.from_numpy(ranges.live).to(values.device)
    blocks = values.split(max(1, ROWS // values.shape[1]))
    energy = sum(_energy(act(block), live) for block in blocks)
    if not energy > 0:
        raise InputError(
            f"layer {layer.name!r}: the activations of all live units are 0; nothing can be displaced"
        )

    def size(perturbation: Perturbation) -> float:
        change = change_of(perturbation, values, layer)
        total = 0.0
        for block in blocks:
            before = act(block)
            after = change(before) if perturbation.side == "post" else act(change(block))
            total += _energy(after - before, live)
        return float(np.sqrt(total / energy))

    def of(family: Family) -> Callable[[npt.ArrayLike], Doubles]:
        return lambda levels: np.array([size(family.at(float(each), ranges)) for each in np.asarray(levels)])

    return of


def _energy(values: Tensor, live: Tensor) -> float:
    return float(values[:, live].square().sum(dtype=torch.float64))


def _dataset(
    works: Sequence[Work], conditions: Sequence[Sequence[_Condition]], families: Sequence[str], design: Design
) -> xr.Dataset:
    """Everything as labelled arrays, means over draws; NaN where a draw doesn't reach the displacement."""
    shape = (len(works), len(families), len(SIDES), len(design.targets))
    names = ["level", "displacement", *works[0].sums]
    tables = {name: np.zeros(shape) for name in names}
    reached = np.zeros(shape, np.int64)
    for number, (work, found) in enumerate(zip(works, conditions, strict=True)):
        for index, each in enumerate(found):
            place = (
                number,
                families.index(each.family),
                SIDES.index(each.side),
                design.targets.index(each.target),
            )
            reached[place] += 1
            tables["level"][place] += each.level
            tables["displacement"][place] += each.displacement
            for name, sums in work.sums.items():
                tables[name][place] += sums[index] / max(work.items, 1)
    drawn = [len(design.drawn(name, works[0].plan.conduct)) for name in families]
    complete = reached == np.array(drawn)[None, :, None, None]
    dims = ("layer", "family", "side", "target")
    data: dict[str, Any] = {
        name: (dims, np.where(complete, table / np.maximum(reached, 1), np.nan))
        for name, table in tables.items()
    }
    for name in (name for name in works[0].sums if not name.startswith("centred_")):
        unperturbed = [work.sums[name][-1] / max(work.items, 1) for work in works]
        data[f"unperturbed_{name}"] = (("layer",), np.array(unperturbed))
    data["dead_units"] = (("layer",), np.array([work.plan.ranges.dead_units for work in works]))
    coords = {
        "layer": [work.plan.layer.name for work in works],
        "family": list(families),
        "side": list(SIDES),
        "target": list(design.targets),
    }
    attributes = {
        "draws": design.draws,
        "seed": design.seed,
        "first_draw": design.first_draw,
        "items": works[0].items,
    }
    return xr.Dataset(data, coords, attributes)
