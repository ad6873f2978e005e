"""From pre-activations to predictions along a line of perturbations, for activations linear on either side of zero.

A family moves its parameters along a straight line. Then each perturbed activation is made of two linear pieces of
the level t, and the logits are I + t S between *events*, the levels at which some unit passes from its first piece
to its second. Where `respond` forms every sum anew at every level, an event is added once here, at the first
level behind it, and a level costs as much as its classes.

Other sums have other roundings. So each example keeps a bound on how far the two ways can lie apart, and where the
greatest logit doesn't lead by more than that, the sums of `respond` are formed after all: predictions are those of
`respond`, bit for bit. Which perturbations lie on a line, and where the bound comes from:
`nearzero.evaluators.affine_path`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nearzero.kernels.activations import activate, slope
from nearzero.kernels.layout import aligned
from nearzero.kernels.respond import BLOCK, perturb
from nearzero.kernels.simd import (
    copy_items,
    first_bit,
    first_equal,
    fma,
    hmax,
    hsum,
    jit,
    lanes_reaching,
    last_lane,
    load,
    select_gt,
    splat,
    splat_at,
    store,
    vabs,
)

__all__ = ["FOLLOWED_CLASSES", "AffinePath", "follow_path", "path_workspace"]

FOLLOWED_CLASSES = 15  # a vector's last lane keeps the bound
TURNS = 8  # rows for events before the levels, and behind: sums into one row would wait for each other
SHARE = 8  # a block with more than one prediction in so many undecided is left to `respond`

_F = np.float32
Floats = npt.NDArray[np.float32]


class AffinePath(NamedTuple):
    """What the loops need of a line with L levels, for U units, padded to a multiple of sixteen by zeros.

    Attributes:
        cut: whether y = min(x, at + t step), x the pre-activation or the activation; else
            y = (gain + t growth) z + at + t step.
        at, step, gain, growth: (U,).
        levels: (L + 1,), t ascending, 1 from first to last, then +inf.
        origin: the last level that isn't above t = 0.
        table: (cells + 1,), for equal cells from the first level on, a level that no level of this cell precedes.
        crowd: the most levels that a cell holds.
        start: (32,), I and S before any event; without the units' first pieces where these aren't the same for all
            examples.
        closed: (16,), 0 for the classes, -inf beyond them.
        w2: (U, 16) flat, one row for each unit, 0 beyond the classes, and in the last lane what the unit's sums count
            for in the bound.
        b2: (16,), -inf beyond the classes.
        weights: (U,), the greatest |W2| of each unit.
        base: what the biases count for in the bound.
        terms, inputs: what the bound allows for each summand, and for what cancels in the perturbation of a z.
        limit: beyond it the terms of the sums may overflow float32.
        late, farthest: what rounding may do to a perturbed z, as a share of its terms; the greatest |t|.
        scale, offset, clip: (L, U) flat, as `respond` has them.
        post: whether a cut is of activations.
    """

    cut: bool
    at: Floats
    step: Floats
    gain: Floats
    growth: Floats
    levels: Floats
    origin: int
    table: npt.NDArray[np.int16]
    crowd: int
    start: Floats
    closed: Floats
    w2: Floats
    b2: Floats
    weights: Floats
    base: np.float32
    terms: np.float32
    inputs: np.float32
    limit: np.float32
    late: np.float32
    farthest: np.float32
    scale: Floats
    offset: Floats
    clip: Floats
    post: bool


class PathWorkspace(NamedTuple):
    """What a thread works in: predictions, (L, BLOCK); what is added to I and S; an example's units, (U,) each.

    The first `TURNS` rows of `added`, 32 wide, are added at the first level, the last `TURNS` at none.
    """

    rows: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.uint16]
    added: Floats
    row: Floats
    when: Floats
    cell: Floats
    i0: Floats
    d0: Floats
    i1: Floats
    d1: Floats


def path_workspace(line: AffinePath) -> PathWorkspace:
    """Room for the examples of a line, one after the other."""
    levels, units = len(line.levels) - 1, line.at.size
    rows, chosen = np.zeros(units, np.int64), np.zeros(levels * BLOCK, np.uint16)
    return PathWorkspace(
        rows, chosen, aligned((levels + 2 * TURNS) * 32), *(aligned(units) for _ in range(7))
    )


@jit
def _bend(act, line, workspace):  # type: ignore[no-untyped-def]
    """Write the two pieces of act((gain + t growth) z + at + t step); what their sums count for in the bound."""
    zero, one, late = splat(_F(0.0)), splat(_F(1.0)), splat(line.late)
    low, high = slope(act, zero - one), slope(act, one)
    first, farthest = splat_at(line.levels, 0), splat(line.farthest)
    still, moving, read, drift = zero, zero, zero, zero
    for u in range(0, line.at.size, 16):
        z, weight = load(workspace.row, u), load(line.weights, u)
        at, step = load(line.at, u), load(line.step, u)
        gain, growth = load(line.gain, u), load(line.growth, u)
        i = fma(gain, z, at)
        d = fma(growth, z, step) + zero  # + 0 for -0, which would have its event at the wrong end
        size, rate = fma(vabs(gain), vabs(z), vabs(at)), fma(vabs(growth), vabs(z), vabs(step))
        # early by what rounding may make: whatever bends in the sums of `respond` has bent here
        early = late * fma(farthest, rate, size)
        when = -(i + select_gt(zero, d, -early, early)) / d
        before, after = select_gt(zero, d, high, low), select_gt(zero, d, low, high)
        before = select_gt(when, first, before, after)  # one piece, where the event lies before the levels
        change = after - before
        store(workspace.when, u, when)
        store(workspace.i0, u, before * i)
        store(workspace.d0, u, before * d)
        store(workspace.i1, u, change * i)
        store(workspace.d1, u, change * d)
        still = fma(weight, vabs(before * i), still)
        moving = fma(weight, vabs(before * d), moving)
        read = fma(weight, size - vabs(i), read)
        drift = fma(weight, rate - vabs(d), drift)
    terms, inputs = line.terms, line.inputs
    return line.base + terms * hsum(still) + inputs * hsum(read), terms * hsum(moving) + inputs * hsum(drift)


@jit
def _cut(act, line, workspace):  # type: ignore[no-untyped-def]
    """Write the event and the change of min(x, at + t step); what their sums count for in the bound."""
    zero, never = splat(_F(0.0)), splat(_F(-np.inf))
    still, moving = zero, zero
    for u in range(0, line.at.size, 16):
        z, at, step = load(workspace.row, u), load(line.at, u), load(line.step, u)
        a = activate(act, z)
        x = a if line.post else z
        store(workspace.when, u, select_gt(step, zero, (x - at) / step, never))
        store(workspace.i1, u, a - at)
        store(workspace.d1, u, -step)
        weight = load(line.weights, u)
        still = fma(weight, vabs(a) + vabs(at) + vabs(at), still)
        moving = fma(weight, step + step, moving)
    return line.base + line.terms * hsum(still), line.terms * hsum(moving)


@jit
def _begin(line, workspace):  # type: ignore[no-untyped-def]
    """I and S of the units' first pieces."""
    zero = splat(_F(0.0))
    i, s, other_i, other_s = load(line.start, 0), load(line.start, 16), zero, zero
    if line.cut:  # they are the same for all examples
        return i, s
    # two chains of sums, or each product would wait for the one before it
    for u in range(0, line.at.size, 2):
        row, other = load(line.w2, u * 16), load(line.w2, u * 16 + 16)
        i, s = fma(splat_at(workspace.i0, u), row, i), fma(splat_at(workspace.d0, u), row, s)
        other_i = fma(splat_at(workspace.i0, u + 1), other, other_i)
        other_s = fma(splat_at(workspace.d0, u + 1), other, other_s)
    return i + other_i, s + other_s


@jit
def _scatter(line, workspace):  # type: ignore[no-untyped-def]
    """Add up, for each level, the changes of the events between the level before it and itself."""
    levels, cells = line.levels.size - 1, line.table.size - 1
    first, most = splat_at(line.levels, 0), splat(_F(cells))
    for u in range(0, line.at.size, 16):
        cell = (load(workspace.when, u) - first) * most
        cell = select_gt(cell, splat(_F(0.0)), cell, splat(_F(0.0)))  # also of what is no number
        store(workspace.cell, u, select_gt(most, cell, cell, most))
    for u in range(line.at.size):  # without branches, which would be guessed wrong
        when, place = workspace.when[u], np.uint64(line.table[np.uint64(np.int64(workspace.cell[u]))])
        for _ in range(line.crowd):
            place += np.uint64(line.levels[place] < when)
        workspace.rows[u] = place
    for u in range(line.at.size):
        place, turn = workspace.rows[u], u % TURNS
        workspace.rows[u] = 32 * (place + TURNS - 1 + (place == levels) * turn - (place == 0) * turn)
    for u in range(line.at.size):
        to, row = workspace.rows[u], load(line.w2, u * 16)
        store(workspace.added, to, fma(splat_at(workspace.i1, u), row, load(workspace.added, to)))
        store(workspace.added, to + 16, fma(splat_at(workspace.d1, u), row, load(workspace.added, to + 16)))


@jit
def _chosen(act, line, workspace, level):  # type: ignore[no-untyped-def]
    """The class with the greatest logit, by the sums of `respond`."""
    units, base, a = line.at.size, level * line.at.size, workspace.cell
    for u in range(0, units, 16):
        s, o, c = load(line.scale, base + u), load(line.offset, base + u), load(line.clip, base + u)
        store(a, u, perturb(act, load(workspace.row, u), s, o, c, line.post))
    total = splat(_F(0.0))
    for u in range(units):
        total = fma(splat_at(a, u), load(line.w2, u * 16), total)
    logits = total + load(line.b2, 0)
    return first_equal(logits, splat(hmax(logits)))


@jit
def _follow(act, line, workspace, still, moving, k, most):  # type: ignore[no-untyped-def]
    """Write the prediction at every level; how many were undecided, and `most` at once where there's no bound.

    still, moving: what the sums of the first pieces count for in the bound, and what with t; k: the column of
    `workspace.chosen` that is written.
    """
    i, s = _begin(line, workspace)
    still, moving, sign = still - last_lane(i), moving - last_lane(s), _F(1.0)
    zero, closed, undecided = splat(_F(0.0)), load(line.closed, 0), 0
    for at in range(0, (TURNS - 1) * 32, 32):
        i, s = i + load(workspace.added, at), s + load(workspace.added, at + 16)
        store(workspace.added, at, zero)
        store(workspace.added, at + 16, zero)
    first, last = 0, line.origin + 1
    while first < last:
        for level in range(first, last):
            at, t = (level + TURNS - 1) * 32, line.levels[level]
            i, s = i + load(workspace.added, at), s + load(workspace.added, at + 16)
            store(workspace.added, at, zero)
            store(workspace.added, at + 16, zero)
            logits = fma(splat(t), s, i) + closed
            size, rate = still + sign * last_lane(i), moving + last_lane(s)
            lead = lanes_reaching(logits, splat(hmax(logits) - (size + abs(t) * rate)))
            if lead == 0:
                undecided = most
            elif lead & (lead - 1) == 0 and size + rate < line.limit:
                workspace.chosen[level * BLOCK + k] = first_bit(lead)
            else:
                undecided += 1
                workspace.chosen[level * BLOCK + k] = _chosen(act, line, workspace, level)
        # behind the origin, what is added to I has the other sign
        still, sign = still + _F(2.0) * last_lane(i), _F(-1.0)
        first, last = last, line.levels.size - 1
    return undecided


@jit
def follow_path(act, z, line, workspace, out, rows, first_block, last_block, left):  # type: ignore[no-untyped-def]
    """Predictions along a line, for blocks `first_block` to `last_block` (excluded).

    act: kernel activation; z: flat (N, U); line: a `Line`; workspace: of this thread; out: (..., N) uint16, of which
    the given rows (L,) are written; left: (blocks,) bool, written: whether a block has too much undecided, so that
    its part of `out` means nothing.
    """
    levels, examples, flat = rows.size, out.shape[1], out.reshape(-1)
    units = z.size // examples
    most = BLOCK * levels // SHARE
    for block in range(first_block, last_block):
        start, undecided = block * BLOCK, 0
        count = min(BLOCK, examples - start)
        for k in range(count):
            if undecided < most:
                for u in range(units):
                    workspace.row[u] = z[(start + k) * units + u]
                still, moving = _cut(act, line, workspace) if line.cut else _bend(act, line, workspace)
                _scatter(line, workspace)
                undecided += _follow(act, line, workspace, still, moving, k, most)
        left[block] = undecided >= most
        for level in range(levels):
            copy_items(workspace.chosen, level * BLOCK, flat, rows[level] * examples + start, count)
