"""Intervals where the logits aren't piecewise linear in the level: a grid of levels, and each change on it refined.

The grid is read from the sweep's predictions, in float32. Wherever they change from one of its levels to the next,
both are predicted again in float64. If these agree, the change is followed in float64 to where it happens; if they
don't, two logits nearly tie there, and the example's whole grid is read in float64. What is missed is an interval
between two neighbours of the grid with the same prediction, and one that reaches only levels of the grid at which its
lead is lost in float32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nearzero.critical.blocks import Doubles, Found, Intervals, find_in_blocks, logits, merged
from nearzero.families import Family, Gains, Scale
from nearzero.hidden import HiddenLayer
from nearzero.networks import TwoLayer
from nearzero.ranges import Ranges

__all__ = ["by_search", "grid_of"]

Classes = npt.NDArray[np.intp]

CHUNK_BYTES = 2**23  # what an array of activations may take
ROUNDS = 100  # bisection alone takes about fifty
TOLERANCE = 4e-15  # of the greatest level


def grid_of(family: Family, low: float, high: float, count: int) -> Doubles:
    """Levels from low to high, for scale evenly spaced in the logarithm, and the family's own between them."""
    spaced = np.geomspace if isinstance(family, Scale) else np.linspace
    own = family.levels
    grid = np.union1d(spaced(low, high, count), own[(own > low) & (own < high)])
    grid[[0, -1]] = low, high  # a logarithm and back may miss them by the last bit
    return grid


def by_search(hidden: HiddenLayer, family: Family, ranges: Ranges, grid: Doubles) -> Found:
    """The intervals of all examples between the first and the last level of the grid."""
    perturbations = [family.at(level, ranges) for level in grid]
    logits_at = _Logits(hidden.network, family, ranges)
    parts = []
    for rows in hidden.blocks(len(grid)):
        table = hidden.predict(perturbations, rows)

        def find(
            z: Doubles, block: slice, table: npt.NDArray[np.uint16] = table, begin: int = rows.start
        ) -> Intervals:
            part = table[:, block.start - begin : block.stop - begin].astype(np.intp)
            return _intervals(logits_at, z, grid, part)

        parts.append(find_in_blocks(hidden, find, rows))
    columns = ("counts", "starts", "classes", "unperturbed")
    return Found(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


class _Logits:
    """Logits in float64 of examples at levels of their own."""

    def __init__(self, network: TwoLayer, family: Family, ranges: Ranges) -> None:
        self.network = network
        self.zero, self.one = (family.at(level, ranges) for level in (0.0, 1.0))
        self.cut = np.isfinite(self.zero.clip)
        self.growth = np.log(np.asarray(self.one.scale)) if isinstance(family, Gains) else None

    def __call__(self, z: Doubles, levels: Doubles) -> Doubles:
        """(n, K): of z (n, U) at levels (n,)."""
        rows = max(1, CHUNK_BYTES // (8 * self.network.units))
        pieces = range(0, len(z), rows)
        parts = [
            logits(self.network, self._activations(z[at : at + rows], levels[at : at + rows]))
            for at in pieces
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.network.classes))

    def _activations(self, z: Doubles, levels: Doubles) -> Doubles:
        """As `family.at(level)` does it, with parameters that are affine in the level; gains are exponential in it."""
        act, zero, one, p = self.network.act, self.zero, self.one, levels[:, None]
        scale = _between(zero.scale, one.scale, p) if self.growth is None else np.exp(p * self.growth)
        x = z if zero.side == "pre" else np.asarray(act(z))
        y = scale * x + _between(zero.offset, one.offset, p)
        if self.cut.any():
            low, high = (np.where(self.cut, each.clip, 0.0) for each in (zero, one))
            y = np.where(self.cut, np.minimum(y, _between(low, high, p)), y)
        return np.asarray(act(y) if zero.side == "pre" else y)


def _between(zero: npt.ArrayLike, one: npt.ArrayLike, p: Doubles) -> Doubles:
    zero, one = np.asarray(zero), np.asarray(one)
    if (zero == one).all():
        return zero
    return one * p if not zero.any() else zero * (1 - p) + one * p


def _intervals(logits_at: _Logits, z: Doubles, grid: Doubles, table: Classes) -> Intervals:
    """Counts, starts and classes of n examples, from their predictions on the grid, (L, n)."""
    examples = len(z)
    _read_again(logits_at, z, grid, table)
    starts, classes, owners = [np.full(examples, grid[0])], [table[0]], [np.arange(examples)]
    place, owner = np.nonzero(table[1:] != table[:-1])
    left, right, before, after = grid[place], grid[place + 1], table[place, owner], table[place + 1, owner]
    while len(owner):
        change, became = _follow(logits_at, z[owner], left, right, before)
        starts.append(change)
        classes.append(became)
        owners.append(owner)
        more = (became != after) & (left < change) & (change < right)  # a third class lies between
        owner, left, right, before, after = (each[more] for each in (owner, change, right, became, after))
    order = np.lexsort((np.concatenate(starts), np.concatenate(owners)))
    counts = np.bincount(np.concatenate(owners), minlength=examples)
    return merged(counts, np.concatenate(starts)[order], np.concatenate(classes).astype(np.uint16)[order])


def _read_again(logits_at: _Logits, z: Doubles, grid: Doubles, table: Classes) -> None:
    """Put right in float64 what float32 has said of examples with near ties beside a change, or at the first level."""
    doubtful = logits_at(z, np.full(len(z), grid[0])).argmax(axis=1) != table[0]
    place, example = np.nonzero(table[1:] != table[:-1])
    for side in (place, place + 1):
        wrong = logits_at(z[example], grid[side]).argmax(axis=1) != table[side, example]
        doubtful[example[wrong]] = True
    for n in np.flatnonzero(doubtful):
        table[:, n] = logits_at(np.broadcast_to(z[n], (len(grid), z.shape[1])), grid).argmax(axis=1)


def _follow(
    logits_at: _Logits, z: Doubles, left: Doubles, right: Doubles, before: Classes
) -> tuple[Doubles, Classes]:
    """Where predictions that are `before` at `left`, and others at `right`, change; and what they change to.

    The lead of `before` over the greatest other logit changes its sign there. Chandrupatla's method (Advances in
    Engineering Software 28, 1997): inverse quadratic steps where they can be trusted, else halves.
    """

    def lead(part: npt.NDArray[np.intp], levels: Doubles) -> tuple[Doubles, Classes]:
        """Above zero where the prediction is `before`, below elsewhere; and the prediction."""
        values = logits_at(z[part], levels)
        own, winner = before[part, None], values.argmax(axis=1)
        mine = np.take_along_axis(values, own, axis=1)[:, 0]
        np.put_along_axis(values, own, -np.inf, axis=1)
        size = np.maximum(np.abs(mine - values.max(axis=1)), np.finfo(np.float64).tiny)
        return np.where(winner == before[part], size, -size), winner

    active = np.arange(len(z))
    x1, x2 = right.copy(), left.copy()
    (f1, became), (f2, first) = lead(active, x1), lead(active, x2)
    at_left = f2 < 0  # sums in another order than before, and a tie
    x1[at_left], became[at_left] = left[at_left], first[at_left]
    nearest, share = TOLERANCE * np.maximum(np.abs(left), np.abs(right)), np.full(len(z), 0.5)
    for _ in range(ROUNDS):
        active = active[np.abs(x2 - x1)[active] > 2 * nearest[active]]
        if not len(active):
            break
        old_x1, old_x2, old_f1, old_f2 = x1[active], x2[active], f1[active], f2[active]
        x = old_x1 + share[active] * (old_x2 - old_x1)
        f, winner = lead(active, x)
        became[active] = np.where(f < 0, winner, became[active])
        same = (f > 0) == (old_f1 > 0)
        x1[active], f1[active] = x, f
        x2[active], f2[active] = np.where(same, old_x2, old_x1), np.where(same, old_f2, old_f1)
        x3, f3 = np.where(same, old_x1, old_x2), np.where(same, old_f1, old_f2)
        share[active] = _share(x, x2[active], x3, f, f2[active], f3, nearest[active])
    return np.where(f1 < 0, x1, x2), became


def _share(
    x1: Doubles, x2: Doubles, x3: Doubles, f1: Doubles, f2: Doubles, f3: Doubles, nearest: Doubles
) -> Doubles:
    """How far from x1 to x2 the next step goes: to the zero of the inverse quadratic, or halfway."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
        quadratic = f1 / (f2 - f1) * f3 / (f2 - f3) + (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f3 - f2)
        least = np.minimum(nearest / np.abs(x2 - x1), 0.5)
    share = np.where((phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi), quadratic, 0.5)
    return np.clip(np.where(np.isfinite(share), share, 0.5), least, 1 - least)
