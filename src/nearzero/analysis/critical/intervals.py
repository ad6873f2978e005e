"""The two methods that find intervals of levels with one prediction: exact, and by search on a grid.

Exact. For ReLU, Abs and leaky ReLU, act(z) is linear on either side of zero. Families that move z along a
line, y = begin + step p, have one bend, where y passes zero. Families with a threshold, base + rise p,
have bends where the threshold passes zero and where it passes z. So the perturbed activation of each unit is
linear in the level on a few pieces. The loop over the pieces is compiled, in `nearzero.kernels.critical`.

Search. The evaluator predicts all items on the grid. Where a prediction changes from one level of the grid to
the next, both are predicted again, each item at its own levels: in float64 for a two-layer network, in the
precision of the model otherwise. If the two predictions agree with the grid, the change is located between
the levels. If they don't, two logits nearly tie there, and all predictions of the item are computed again in
this way. The search misses an interval that lies between two neighbours of the grid with the same prediction,
and an interval whose levels on the grid all have a lead that is lost in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nearzero.evaluators.base import (
    Integers,
    LayerEvaluator,
    LevelParameters,
    PinnedBlock,
    PinnedLogits,
    not_finite_at,
)
from nearzero.evaluators.two_layer import TwoLayerEvaluator
from nearzero.kernels.critical import walk
from nearzero.perturbations.activations import Activation
from nearzero.perturbations.families import Cap, Clip, Family, Floor, Gains, Scale
from nearzero.perturbations.ranges import Ranges

__all__ = ["SLOPES", "Intervals", "by_pieces", "by_search", "grid_of", "is_piecewise_linear"]

Doubles = npt.NDArray[np.float64]
Classes = npt.NDArray[np.intp]
Whole = npt.NDArray[np.integer[Any]]
Pieces = tuple[Doubles, Doubles, Doubles]

# slopes of act below and above zero
SLOPES = {"relu": (0.0, 1.0), "abs": (-1.0, 1.0), "leaky_relu": (0.01, 1.0)}
CAPACITY = 16  # intervals per example for which memory is allocated at first
TOLERANCE = 4e-15  # of a change in the search, as a share of the greatest level


@dataclass(frozen=True, eq=False)
class Intervals:
    """The intervals of n examples, one example after the other.

    Attributes:
        counts: (n,), the number of intervals of each example.
        starts, classes: (m,), the level at which each interval begins, and its prediction.
        unperturbed: (n,), the prediction without perturbation.
    """

    counts: Integers
    starts: Doubles
    classes: Whole
    unperturbed: Whole


def _joined(parts: Sequence[Intervals]) -> Intervals:
    """Return the intervals of several blocks of examples, one block after the other."""
    names = [field.name for field in fields(Intervals)]
    return Intervals(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _merged(counts: Integers, starts: Doubles, classes: Whole, unperturbed: Whole) -> Intervals:
    """Return the intervals with neighbours of the same class merged.

    Rounding can split an interval where two logits touch.
    """
    first = np.cumsum(counts) - counts
    new = np.append(True, classes[1:] != classes[:-1])
    new[first] = True
    return Intervals(np.add.reduceat(new, first), starts[new], classes[new], unperturbed)


# --- exact ---------------------------------------------------------------------------------------------


def is_piecewise_linear(family: Family, activation: str | None) -> bool:
    """Return True if the logits are piecewise linear in the level. Gains are exponential in it."""
    return activation in SLOPES and not isinstance(family, Gains)


def by_pieces(
    evaluator: TwoLayerEvaluator, family: Family, ranges: Ranges, low: float, high: float
) -> Intervals:
    """Return the intervals of all examples from `low` to `high`."""
    network = evaluator.hidden.network
    w2 = np.ascontiguousarray(network.w2.T.astype(np.float64))
    b2 = network.b2.astype(np.float64)

    def find(z: Doubles, _: slice) -> Intervals:
        pieces = _pieces(z, network.act, family, ranges)
        unperturbed = evaluator.exact_logits(network.act(z)).argmax(axis=1).astype(np.uint16)
        counts = np.empty(len(z), np.int64)
        capacity = CAPACITY * len(z)
        while True:
            levels, classes = np.empty(capacity), np.empty(capacity, np.uint16)
            total = walk(*pieces, w2, b2, low, high, counts, levels, classes)
            if total <= capacity:
                return _merged(counts, levels[:total], classes[:total], unperturbed)
            capacity = total

    return _joined(evaluator.gather_exact(find))


def _pieces(z: Doubles, act: Activation, family: Family, ranges: Ranges) -> Pieces:
    """Return where the pieces of each unit begin, and their slopes and intercepts, (n, U, P) each."""
    zero, one = (family.at(level, ranges) for level in (0.0, 1.0))
    slopes = SLOPES[act.name]
    if not isinstance(family, Clip | Cap | Floor):
        begin = z * zero.scale + zero.offset
        step = z * (np.asarray(one.scale) - zero.scale) + (np.asarray(one.offset) - zero.offset)
        return _bent(begin, step, slopes)
    at_zero, at_one = (bound.low if isinstance(family, Floor) else bound.clip for bound in (zero, one))
    cut = np.isfinite(at_zero)  # dead units have no threshold
    base = np.where(cut, at_zero, 0.0)
    rise = np.where(
        cut, at_one - base, 1.0
    )  # negative for a floor, which sinks to the activation as a cap rises to it
    if zero.side == "post":
        a = act(z)
        return _stacked(
            [np.full_like(z, -np.inf), np.where(cut, (a - base) / rise, -np.inf)], [rise, 0.0], [base, a]
        )
    free = np.where(cut, (z - base) / rise, -np.inf)
    # if the threshold passes z below zero, the second piece has no length
    above_zero = np.minimum(np.where(cut, -base / rise, -np.inf), free)
    below, above = slopes
    return _stacked(
        [np.full_like(z, -np.inf), above_zero, free],
        [below * rise, above * rise, 0.0],
        [below * base, above * base, act(z)],
    )


def _bent(begin: Doubles, step: Doubles, slopes: tuple[float, float]) -> Pieces:
    """Return act(begin + step p) as two pieces that meet where the argument passes zero."""
    below, above = slopes
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = np.where(step != 0, -begin / step, np.inf)
    first = np.where(step != 0, np.where(step > 0, below, above), np.where(begin > 0, above, below))
    second = np.where(step > 0, above, below)
    return _stacked(
        [np.full_like(zero, -np.inf), zero], [first * step, second * step], [first * begin, second * begin]
    )


def _stacked(*columns: Sequence[npt.ArrayLike]) -> Pieces:
    """Return starts, slopes and intercepts, each given piece by piece, as arrays (n, U, P)."""
    shape = np.shape(columns[0][0])
    starts, slopes, intercepts = (
        np.stack([np.broadcast_to(piece, shape) for piece in column], axis=-1) for column in columns
    )
    return starts, slopes, intercepts


# --- on a grid -----------------------------------------------------------------------------------------


def grid_of(family: Family, low: float, high: float, count: int) -> Doubles:
    """Return the levels of the search: evenly spaced from low to high, and the family's own between them.

    For scale the spacing is even in the logarithm.
    """
    spaced = np.geomspace if isinstance(family, Scale) else np.linspace
    own = family.levels
    grid = np.union1d(spaced(low, high, count), own[(own > low) & (own < high)])
    grid[[0, -1]] = low, high  # exact: exp(log(low)) may differ from low in the last bit
    return grid


def by_search(evaluator: LayerEvaluator, family: Family, ranges: Ranges, grid: Doubles) -> Intervals:
    """Return the intervals of all items between the first and the last level of the grid.

    Raises:
        InputError: logits that are NaN or infinite.
    """
    perturbations = [family.at(level, ranges) for level in grid]
    table = evaluator.scores(perturbations, ["prediction"]).predictions
    assert table is not None
    not_finite = (table < 0).any(axis=1)
    if not_finite.any():
        raise not_finite_at(grid[not_finite])
    kind: type[np.unsignedinteger[Any]] = np.uint16 if table.max(initial=0) < 2**16 else np.uint32

    def find(block: PinnedBlock) -> Intervals:
        return _intervals(block, grid, table[:, block.rows].astype(np.intp))

    joined = _joined(evaluator.gather_pinned(LevelParameters(family, ranges), find))
    return replace(joined, classes=joined.classes.astype(kind), unperturbed=joined.unperturbed.astype(kind))


def _intervals(block: PinnedBlock, grid: Doubles, table: Classes) -> Intervals:
    """Return the intervals of n items from their predictions on the grid, (L, n)."""
    items = table.shape[1]
    if not items:  # a mask can remove all items of the block
        return Intervals(np.empty(0, np.int64), np.empty(0), np.empty(0, np.intp), block.unperturbed)
    _predict_ties_again(block, grid, table)
    starts, classes, owners = [np.full(items, grid[0])], [table[0]], [np.arange(items)]
    place, owner = np.nonzero(table[1:] != table[:-1])
    left, right, before, after = grid[place], grid[place + 1], table[place, owner], table[place + 1, owner]
    while len(owner):
        change, became = _changes(block, owner, left, right, before)
        starts.append(change)
        classes.append(became)
        owners.append(owner)
        more = (became != after) & (left < change) & (change < right)  # a third class lies between
        # beyond the last change, the prediction is that at `right`, even if a tie is rounded to another class
        became[~more] = after[~more]
        owner, left, right, before, after = (values[more] for values in (owner, change, right, became, after))
    order = np.lexsort((np.concatenate(starts), np.concatenate(owners)))
    counts = np.bincount(np.concatenate(owners), minlength=items)
    return _merged(counts, np.concatenate(starts)[order], np.concatenate(classes)[order], block.unperturbed)


def _predicted(block: PinnedBlock, items: Integers, levels: Doubles) -> Classes:
    """Return the predictions of items, each at its own level."""
    parts = [np.empty(0, np.intp)]
    for first in range(0, len(items), block.most):
        group = items[first : first + block.most]
        logits = block.pin(group)(np.arange(len(group)), levels[first : first + block.most])
        parts.append(logits.argmax(axis=1))
    return np.concatenate(parts)


def _predict_ties_again(block: PinnedBlock, grid: Doubles, table: Classes) -> None:
    """Correct, in place, the predictions of items with near ties beside a change or at the first level."""
    items = np.arange(table.shape[1])
    doubtful = _predicted(block, items, np.full(len(items), grid[0])) != table[0]
    place, item = np.nonzero(table[1:] != table[:-1])
    for end in (place, place + 1):
        doubtful[item[_predicted(block, item, grid[end]) != table[end, item]]] = True
    for n in np.flatnonzero(doubtful):
        table[:, n] = _predicted(block, np.full(len(grid), n), grid)


def _changes(
    block: PinnedBlock, items: Integers, left: Doubles, right: Doubles, before: Classes
) -> tuple[Doubles, Classes]:
    """Return the levels between left and right where predictions change from `before`, and the new ones."""
    groups = [slice(first, first + block.most) for first in range(0, len(items), block.most)]
    pairs = [
        _pinned_changes(block.pin(items[group]), left[group], right[group], before[group]) for group in groups
    ]
    changes, became = zip(*pairs, strict=True)
    return np.concatenate(changes), np.concatenate(became)


def _pinned_changes(
    logits_at: PinnedLogits, left: Doubles, right: Doubles, before: Classes
) -> tuple[Doubles, Classes]:
    """Return the result of `_changes` for items that are pinned.

    The lead of `before` over the greatest other logit changes its sign at the change. Chandrupatla's method
    (Advances in Engineering Software 28, 1997) finds this level to the last bits. At `left` itself two logits
    may tie, and sums in another order than before may give another prediction. `before` therefore counts as
    the winner there.
    """

    def lead(levels: Doubles, place: Doubles) -> Doubles:
        """Return the lead: above zero where the prediction is `before`, below zero elsewhere."""
        items = place.astype(np.int64)
        values = logits_at(items, levels).astype(np.float64)
        own, winner = before[items, None], values.argmax(axis=1)
        own_logit = np.take_along_axis(values, own, axis=1)[:, 0]
        np.put_along_axis(values, own, -np.inf, axis=1)
        size = np.maximum(np.abs(own_logit - values.max(axis=1)), np.finfo(np.float64).tiny)
        own_wins = (winner == before[items]) | (levels == left[items])
        return np.asarray(np.where(own_wins, size, -size))

    from scipy.optimize import elementwise  # takes 0.2 s, and everything else here doesn't need it

    places = np.arange(len(left))
    nearest = TOLERANCE * float(np.maximum(np.abs(left), np.abs(right)).max())
    tolerances = {"xatol": nearest, "xrtol": 0, "fatol": 0, "frtol": 0}
    numbers = places.astype(np.float64)
    root = elementwise.find_root(lead, (left, right), args=(numbers,), tolerances=tolerances)
    (end, other_end), (lead_at_end, _) = root.bracket, root.f_bracket
    change = np.where(lead_at_end < 0, end, other_end)
    return change, logits_at(places, change).argmax(axis=1)
