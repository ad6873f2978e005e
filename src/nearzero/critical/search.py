"""Intervals where the logits aren't piecewise linear in the level: a grid of levels, and each change on it refined.

The grid is read from the evaluator's predictions. Wherever they change from one of its levels to the next, both are
predicted again at levels of their own, for a two-layer network in float64, for another model in its own precision. If
these agree, the change is followed to where it happens; if they don't, two logits nearly tie there, and the item's
whole grid is read in that way. What is missed is an interval between two neighbours of the grid with the same
prediction, and one that reaches only levels of the grid at which its lead is lost in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import elementwise

from nearzero.critical.blocks import Doubles, Found, Intervals, joined, merged
from nearzero.evaluators.base import Integers, LayerEvaluator, LevelParameters, PinnedBlock, PinnedLogits
from nearzero.families import Family, Scale
from nearzero.ranges import Ranges

__all__ = ["by_search", "grid_of"]

Classes = npt.NDArray[np.intp]

TOLERANCE = 4e-15  # of the greatest level


def grid_of(family: Family, low: float, high: float, count: int) -> Doubles:
    """Return levels from low to high, for scale evenly spaced in the logarithm, and the family's own between them."""
    spaced = np.geomspace if isinstance(family, Scale) else np.linspace
    own = family.levels
    grid = np.union1d(spaced(low, high, count), own[(own > low) & (own < high)])
    grid[[0, -1]] = low, high  # a logarithm and back may miss them by the last bit
    return grid


def by_search(evaluator: LayerEvaluator, family: Family, ranges: Ranges, grid: Doubles) -> Found:
    """Return the intervals of all items between the first and the last level of the grid."""
    perturbations = [family.at(level, ranges) for level in grid]
    table = evaluator.scores(perturbations, ["prediction"]).predictions
    assert table is not None

    kind: type[np.unsignedinteger[Any]] = np.uint16 if table.max(initial=0) < 2**16 else np.uint32

    def find(block: PinnedBlock) -> Found:
        counts, starts, classes = _intervals(block, grid, table[:, block.rows].astype(np.intp), kind)
        return Found(counts, starts, classes, block.unperturbed.astype(kind))

    return joined(evaluator.gather_pinned(LevelParameters(family, ranges), find))


def _intervals(
    block: PinnedBlock, grid: Doubles, table: Classes, kind: type[np.unsignedinteger[Any]]
) -> Intervals:
    """Counts, starts and classes of n items, from their predictions on the grid, (L, n)."""
    items = table.shape[1]
    if not items:  # a mask leaves none of the block
        return np.empty(0, np.int64), np.empty(0), np.empty(0, kind)
    _read_again(block, grid, table)
    starts, classes, owners = [np.full(items, grid[0])], [table[0]], [np.arange(items)]
    place, owner = np.nonzero(table[1:] != table[:-1])
    left, right, before, after = grid[place], grid[place + 1], table[place, owner], table[place + 1, owner]
    while len(owner):
        change, became = _followed(block, owner, left, right, before)
        starts.append(change)
        classes.append(became)
        owners.append(owner)
        more = (became != after) & (left < change) & (change < right)  # a third class lies between
        # at the end of a step its prediction stands, whatever a tie is rounded to
        became[~more] = after[~more]
        owner, left, right, before, after = (each[more] for each in (owner, change, right, became, after))
    order = np.lexsort((np.concatenate(starts), np.concatenate(owners)))
    counts = np.bincount(np.concatenate(owners), minlength=items)
    return merged(counts, np.concatenate(starts)[order], np.concatenate(classes)[order].astype(kind))


def _predicted(block: PinnedBlock, items: Integers, levels: Doubles) -> Classes:
    """The predictions of items, each at a level of its own."""
    parts = [np.empty(0, np.intp)]
    for first in range(0, len(items), block.most):
        some = items[first : first + block.most]
        logits = block.pin(some)(np.arange(len(some)), levels[first : first + block.most])
        parts.append(logits.argmax(axis=1))
    return np.concatenate(parts)


def _read_again(block: PinnedBlock, grid: Doubles, table: Classes) -> None:
    """Put right what the grid says of items with near ties beside a change, or at the first level."""
    items = np.arange(table.shape[1])
    doubtful = _predicted(block, items, np.full(len(items), grid[0])) != table[0]
    place, item = np.nonzero(table[1:] != table[:-1])
    for side in (place, place + 1):
        doubtful[item[_predicted(block, item, grid[side]) != table[side, item]]] = True
    for n in np.flatnonzero(doubtful):
        table[:, n] = _predicted(block, np.full(len(grid), n), grid)


def _followed(
    block: PinnedBlock, items: Integers, left: Doubles, right: Doubles, before: Classes
) -> tuple[Doubles, Classes]:
    """Where predictions that are `before` at `left`, and others at `right`, change; and what they change to."""
    groups = [slice(first, first + block.most) for first in range(0, len(items), block.most)]
    found = [_follow(block.pin(items[each]), left[each], right[each], before[each]) for each in groups]
    changes, became = zip(*found, strict=True)
    return np.concatenate(changes), np.concatenate(became)


def _follow(
    logits_at: PinnedLogits, left: Doubles, right: Doubles, before: Classes
) -> tuple[Doubles, Classes]:
    """`_followed` for items that are pinned.

    The lead of `before` over the greatest other logit changes its sign at the change. It's found by Chandrupatla's
    method (Advances in Engineering Software 28, 1997), to the last bits. At `left` itself logits may tie, and sums in
    another order than before give another prediction: what comes beyond it decides.
    """

    def lead(levels: Doubles, place: Doubles) -> Doubles:
        """Above zero where the prediction is `before`, below elsewhere."""
        items = place.astype(np.int64)
        values = logits_at(items, levels).astype(np.float64)
        own, winner = before[items, None], values.argmax(axis=1)
        mine = np.take_along_axis(values, own, axis=1)[:, 0]
        np.put_along_axis(values, own, -np.inf, axis=1)
        size = np.maximum(np.abs(mine - values.max(axis=1)), np.finfo(np.float64).tiny)
        own_wins = (winner == before[items]) | (levels == left[items])
        return np.asarray(np.where(own_wins, size, -size))

    places = np.arange(len(left))
    numbers = places.astype(np.float64)
    nearest = TOLERANCE * float(np.maximum(np.abs(left), np.abs(right)).max())
    found = elementwise.find_root(
        lead,
        (left, right),
        args=(numbers,),
        tolerances={"xatol": nearest, "xrtol": 0, "fatol": 0, "frtol": 0},
    )
    (one, other), (at_one, _) = found.bracket, found.f_bracket
    change = np.where(at_one < 0, one, other)
    return change, logits_at(places, change).argmax(axis=1)
