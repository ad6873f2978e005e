"""The two ways to intervals of levels with one prediction: exact, and searched for on a grid.

Exact: for ReLU, Abs and leaky ReLU, act(z) = below z for z < 0 and above z for z > 0. Families that move z along a
line, y = begin + step p, bend once, where y passes zero. Families that cut at a threshold, base + rise p, bend where
the threshold passes zero and where it passes z. So each unit's perturbed activation is a few linear pieces of the
level. The walk over the pieces is in `nearzero.kernels.critical`.

Searched: the grid is read from the evaluator's predictions. Wherever they change from one of its levels to the next,
both are predicted again at levels of their own, for a two-layer network in float64, for another model in its own
precision. If these agree, the change is followed to where it happens; if they don't, two logits nearly tie there, and
the item's whole grid is read in that way. What is missed is an interval between two neighbours of the grid with the
same prediction, and one that reaches only levels of the grid at which its lead is lost in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import elementwise

from nearzero.evaluators.base import Integers, LayerEvaluator, LevelParameters, PinnedBlock, PinnedLogits
from nearzero.evaluators.two_layer import TwoLayerEvaluator
from nearzero.kernels.critical import walk
from nearzero.perturbations.activations import Activation
from nearzero.perturbations.families import Cap, Clip, Family, Gains, Scale
from nearzero.perturbations.ranges import Ranges

__all__ = ["SLOPES", "Found", "by_pieces", "by_search", "grid_of", "is_piecewise_linear"]

Doubles = npt.NDArray[np.float64]
Classes = npt.NDArray[np.intp]
Whole = npt.NDArray[np.integer[Any]]
Pieces = tuple[Doubles, Doubles, Doubles]

SLOPES = {"relu": (0.0, 1.0), "abs": (-1.0, 1.0), "leaky_relu": (0.01, 1.0)}  # of act below and above zero
ROOM = 16  # intervals an example, to begin with
TOLERANCE = 4e-15  # of the greatest level, for a change that is searched for


@dataclass(frozen=True, eq=False)
class Found:
    """Intervals of some examples, one example after the other.

    Attributes:
        counts: (n,) how many intervals each example has.
        starts, classes: (m,) where each begins, and its prediction.
        unperturbed: (n,) the prediction without perturbation.
    """

    counts: Integers
    starts: Doubles
    classes: Whole
    unperturbed: Whole


def _joined(parts: Sequence[Found]) -> Found:
    """Return the intervals of several blocks of examples, one block after the other."""
    return Found(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Found)))


def _merged(counts: Integers, starts: Doubles, classes: Whole, unperturbed: Whole) -> Found:
    """Without intervals of the class before them: where two logits touch, rounding can leave one."""
    first = np.cumsum(counts) - counts
    new = np.append(True, classes[1:] != classes[:-1])
    new[first] = True
    return Found(np.add.reduceat(new, first), starts[new], classes[new], unperturbed)


# --- exact ------------------------------------------------------------------------------------------------------


def is_piecewise_linear(family: Family, activation: str | None) -> bool:
    """Whether the logits are piecewise linear in the level; gains aren't, being exponentials of it."""
    return activation in SLOPES and not isinstance(family, Gains)


def by_pieces(evaluator: TwoLayerEvaluator, family: Family, ranges: Ranges, low: float, high: float) -> Found:
    """Return the intervals of all examples from `low` to `high`."""
    network = evaluator.hidden.network
    w2 = np.ascontiguousarray(network.w2.T.astype(np.float64))
    b2 = network.b2.astype(np.float64)

    def find(z: Doubles, _: slice) -> Found:
        pieces = _pieces(z, network.act, family, ranges)
        unperturbed = evaluator.exact_logits(network.act(z)).argmax(axis=1).astype(np.uint16)
        counts = np.empty(len(z), np.int64)
        room = ROOM * len(z)
        while True:
            levels, classes = np.empty(room), np.empty(room, np.uint16)
            total = walk(*pieces, w2, b2, low, high, counts, levels, classes)
            if total <= room:
                return _merged(counts, levels[:total], classes[:total], unperturbed)
            room = total

    return _joined(evaluator.gather_exact(find))


def _pieces(z: Doubles, act: Activation, family: Family, ranges: Ranges) -> Pieces:
    """Where the pieces of each unit begin, and their slopes and intercepts, (n, U, P) each."""
    zero, one = (family.at(level, ranges) for level in (0.0, 1.0))
    slopes = SLOPES[act.name]
    if not isinstance(family, Clip | Cap):
        begin = z * zero.scale + zero.offset
        step = z * (np.asarray(one.scale) - zero.scale) + (np.asarray(one.offset) - zero.offset)
        return _bent(begin, step, slopes)
    cut = np.isfinite(zero.clip)  # dead units have no threshold
    base = np.where(cut, zero.clip, 0.0)
    rise = np.where(cut, one.clip - base, 1.0)
    if zero.side == "post":
        a = act(z)
        return _stacked(
            [np.full_like(z, -np.inf), np.where(cut, (a - base) / rise, -np.inf)], [rise, 0.0], [base, a]
        )
    free = np.where(cut, (z - base) / rise, -np.inf)
    # where the threshold passes z while it's still negative, its second piece has no length
    above_zero = np.minimum(np.where(cut, -base / rise, -np.inf), free)
    below, above = slopes
    return _stacked(
        [np.full_like(z, -np.inf), above_zero, free],
        [below * rise, above * rise, 0.0],
        [below * base, above * base, act(z)],
    )


def _bent(begin: Doubles, step: Doubles, slopes: tuple[float, float]) -> Pieces:
    """act(begin + step p) in two pieces, bent where it passes zero."""
    below, above = slopes
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = np.where(step != 0, -begin / step, np.inf)
    first = np.where(step != 0, np.where(step > 0, below, above), np.where(begin > 0, above, below))
    second = np.where(step > 0, above, below)
    return _stacked(
        [np.full_like(zero, -np.inf), zero], [first * step, second * step], [first * begin, second * begin]
    )


def _stacked(*columns: Sequence[npt.ArrayLike]) -> Pieces:
    """Pieces side by side, (n, U, P): starts, slopes and intercepts, each given piece by piece."""
    shape = np.shape(columns[0][0])
    starts, slopes, intercepts = (
        np.stack([np.broadcast_to(piece, shape) for piece in column], axis=-1) for column in columns
    )
    return starts, slopes, intercepts


# --- on a grid ---------------------------------------------------------------------------------------------------


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
        return _intervals(block, grid, table[:, block.rows].astype(np.intp))

    found = _joined(evaluator.gather_pinned(LevelParameters(family, ranges), find))
    classes, unperturbed = found.classes.astype(kind), found.unperturbed.astype(kind)
    return Found(found.counts, found.starts, classes, unperturbed)


def _intervals(block: PinnedBlock, grid: Doubles, table: Classes) -> Found:
    """The intervals of n items, from their predictions on the grid, (L, n)."""
    items = table.shape[1]
    if not items:  # a mask leaves none of the block
        return Found(np.empty(0, np.int64), np.empty(0), np.empty(0, np.intp), block.unperturbed)
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
    begin, found = np.concatenate(starts)[order], np.concatenate(classes)[order]
    return _merged(counts, begin, found, block.unperturbed)


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
