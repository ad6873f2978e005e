"""Predictions along an affine path, for activations that are linear on either side of zero.

On an affine path, the parameters of the perturbations are affine in a level t. Then each perturbed activation
consists of two pieces that are linear in t, and the logits are I + t S between *events*, the levels at which
a unit passes from its first piece to its second. `respond` computes each sum at each level. Here the change
of an event is added once, at the first level after it, so that the time for a level doesn't depend on the
number of units.

The sums have other roundings than those of `respond`. So for each example there is a bound on the difference.
If the lead of the greatest logit isn't greater than this bound, the sums of `respond` are computed as well.
So predictions are those of `respond`, bit for bit. `nearzero.evaluators.affine_path` finds affine paths, and
derives the bound.
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

FOLLOWED_CLASSES = 15  # at most, since a vector's last lane contains the bound
TURNS = 8  # rows for events before the levels, and after: additions to a single row would wait for each other
SHARE = 8  # a block is left to `respond` if more than one prediction in SHARE is undecided

_F = np.float32
Floats = npt.NDArray[np.float32]


class AffinePath(NamedTuple):
    """Perturbations on an affine path with L levels, for U units, padded to a multiple of sixteen by zeros.

    There are two kinds. A *cut* is y = min(x, at + t step), where x is the pre-activation or the activation.
    A *bend* is y = (gain + t growth) z + at + t step.

    Attributes:
        cut: whether the perturbations are cuts.
        at, step, gain, growth: (U,), the parameters.
        levels: (L + 1,), t ascending, scaled so that last - first is 1, then +inf.
        origin: the place of the last level with t <= 0.
        table: (cells + 1,), for equal cells from the first level on, the place of a level before which no
            level of the cell lies.
        crowd: the greatest number of levels in a cell.
        start: (32,), I and S before any event; for bends without the units' first pieces, which depend on the
            example.
        closed: (16,), 0 for the classes, -inf in the padding.
        w2: (U, 16) flat, one row for each unit, with 0 in the padding, and in the last lane the unit's weight
            in the bound.
        b2: (16,), -inf in the padding.
        weights: (U,), the greatest |W2| of each unit.
        base: the part of the bound that comes from the biases.
        terms, inputs: the parts of the bound per size of a summand, and per size of what cancels when z is
            perturbed.
        limit: the bound from which on the sums may overflow float32.
        late: the bound on the rounding of a perturbed z, relative to the sizes of its terms.
        farthest: the greatest |t|.
        scale, offset, clip: (L, U) flat, as in `respond`.
        post: whether a cut acts on activations.
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
    """The arrays of one thread.

    Attributes:
        places: (U,), the place in `added` of each unit's event.
        predicted: (L, BLOCK) flat, predictions.
        added: (L + 2 `TURNS`, 32) flat, the changes of I and S at each level. The first `TURNS` rows are
            added at the first level, the last `TURNS` at none.
        z: (U,), the pre-activations of one example.
        events: (U,), the level of each unit's event.
        cell: (U,), the cell of each event; also the perturbed activations of `_respond_at`.
        i0, d0, i1, d1: (U,), intercept and slope in t of each unit's first piece, and the changes at its
            event.
    """

    places: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.uint16]
    added: Floats
    z: Floats
    events: Floats
    cell: Floats
    i0: Floats
    d0: Floats
    i1: Floats
    d1: Floats


def path_workspace(path: AffinePath) -> PathWorkspace:
    """Return arrays for a path, for one block of examples at a time."""
    levels, units = len(path.levels) - 1, path.at.size
    places, predicted = np.zeros(units, np.int64), np.zeros(levels * BLOCK, np.uint16)
    return PathWorkspace(
        places, predicted, aligned((levels + 2 * TURNS) * 32), *(aligned(units) for _ in range(7))
    )


@jit
def _find_bends(act, path, workspace):  # type: ignore[no-untyped-def]
    """Write the pieces and the event of act((gain + t growth) z + at + t step), for every unit.

    Returns the bound on the rounding of the sums: the part that doesn't depend on t, and the factor of |t|.
    """
    zero, one, late = splat(_F(0.0)), splat(_F(1.0)), splat(path.late)
    low, high = slope(act, zero - one), slope(act, one)
    first, farthest = splat_at(path.levels, 0), splat(path.farthest)
    still, moving, cancelled, cancelled_rate = zero, zero, zero, zero
    for u in range(0, path.at.size, 16):
        z, weight = load(workspace.z, u), load(path.weights, u)
        at, step = load(path.at, u), load(path.step, u)
        gain, growth = load(path.gain, u), load(path.growth, u)
        i = fma(gain, z, at)
        d = fma(growth, z, step) + zero  # + 0 because a slope of -0 would move the event to the wrong end
        size, rate = fma(vabs(gain), vabs(z), vabs(at)), fma(vabs(growth), vabs(z), vabs(step))
        # earlier by the bound on rounding, so that a unit that is past its event in `respond` is past it here
        early = late * fma(farthest, rate, size)
        event = -(i + select_gt(zero, d, -early, early)) / d
        before, after = select_gt(zero, d, high, low), select_gt(zero, d, low, high)
        before = select_gt(event, first, before, after)  # a single piece if the event is before the levels
        change = after - before
        store(workspace.events, u, event)
        store(workspace.i0, u, before * i)
        store(workspace.d0, u, before * d)
        store(workspace.i1, u, change * i)
        store(workspace.d1, u, change * d)
        still = fma(weight, vabs(before * i), still)
        moving = fma(weight, vabs(before * d), moving)
        cancelled = fma(weight, size - vabs(i), cancelled)
        cancelled_rate = fma(weight, rate - vabs(d), cancelled_rate)
    terms, inputs = path.terms, path.inputs
    constant = path.base + terms * hsum(still) + inputs * hsum(cancelled)
    return constant, terms * hsum(moving) + inputs * hsum(cancelled_rate)


@jit
def _find_cuts(act, path, workspace):  # type: ignore[no-untyped-def]
    """Write the event and the change of min(x, at + t step), for every unit.

    Returns the bound like `_find_bends`.
    """
    zero, never = splat(_F(0.0)), splat(_F(-np.inf))
    still, moving = zero, zero
    for u in range(0, path.at.size, 16):
        z, at, step = load(workspace.z, u), load(path.at, u), load(path.step, u)
        a = activate(act, z)
        x = a if path.post else z
        store(workspace.events, u, select_gt(step, zero, (x - at) / step, never))
        store(workspace.i1, u, a - at)
        store(workspace.d1, u, -step)
        weight = load(path.weights, u)
        still = fma(weight, vabs(a) + vabs(at) + vabs(at), still)
        moving = fma(weight, step + step, moving)
    return path.base + path.terms * hsum(still), path.terms * hsum(moving)


@jit
def _first_sums(path, workspace):  # type: ignore[no-untyped-def]
    """Return I and S of the units' first pieces."""
    zero = splat(_F(0.0))
    i, s, other_i, other_s = load(path.start, 0), load(path.start, 16), zero, zero
    if path.cut:  # they're the same for all examples
        return i, s
    # two chains of sums, because in one chain each product would wait for the previous one
    for u in range(0, path.at.size, 2):
        row, other = load(path.w2, u * 16), load(path.w2, u * 16 + 16)
        i, s = fma(splat_at(workspace.i0, u), row, i), fma(splat_at(workspace.d0, u), row, s)
        other_i = fma(splat_at(workspace.i0, u + 1), other, other_i)
        other_s = fma(splat_at(workspace.d0, u + 1), other, other_s)
    return i + other_i, s + other_s


@jit
def _add_events(path, workspace):  # type: ignore[no-untyped-def]
    """Add up, for each level, the changes of the events between the level before it and itself."""
    levels, cells = path.levels.size - 1, path.table.size - 1
    first, most = splat_at(path.levels, 0), splat(_F(cells))
    for u in range(0, path.at.size, 16):
        cell = (load(workspace.events, u) - first) * most
        cell = select_gt(cell, splat(_F(0.0)), cell, splat(_F(0.0)))  # 0 also for NaN
        store(workspace.cell, u, select_gt(most, cell, cell, most))
    for u in range(path.at.size):  # without branches, which would be mispredicted
        event, place = workspace.events[u], np.uint64(path.table[np.uint64(np.int64(workspace.cell[u]))])
        for _ in range(path.crowd):
            place += np.uint64(path.levels[place] < event)
        workspace.places[u] = place
    for u in range(path.at.size):
        place, turn = workspace.places[u], u % TURNS
        workspace.places[u] = 32 * (place + TURNS - 1 + (place == levels) * turn - (place == 0) * turn)
    for u in range(path.at.size):
        to, row = workspace.places[u], load(path.w2, u * 16)
        store(workspace.added, to, fma(splat_at(workspace.i1, u), row, load(workspace.added, to)))
        store(workspace.added, to + 16, fma(splat_at(workspace.d1, u), row, load(workspace.added, to + 16)))


@jit
def _respond_at(act, path, workspace, level):  # type: ignore[no-untyped-def]
    """Return the class with the greatest logit, by the sums of `respond`."""
    units, base, a = path.at.size, level * path.at.size, workspace.cell
    for u in range(0, units, 16):
        s, o, c = load(path.scale, base + u), load(path.offset, base + u), load(path.clip, base + u)
        store(a, u, perturb(act, load(workspace.z, u), s, o, c, splat(_F(-np.inf)), path.post))
    total = splat(_F(0.0))
    for u in range(units):
        total = fma(splat_at(a, u), load(path.w2, u * 16), total)
    logits = total + load(path.b2, 0)
    return first_equal(logits, splat(hmax(logits)))


@jit
def _predict_along(act, path, workspace, still, moving, k, most):  # type: ignore[no-untyped-def]
    """Write the prediction at every level, and return the number of undecided ones.

    If there is no bound, since a logit is NaN or infinite, return at least `most`.
    still, moving: the bound on the sums of the first pieces, as of `_find_bends`; k: the column of
    `workspace.predicted`.
    """
    i, s = _first_sums(path, workspace)
    still, moving, sign = still - last_lane(i), moving - last_lane(s), _F(1.0)
    zero, closed, undecided = splat(_F(0.0)), load(path.closed, 0), 0
    for at in range(0, (TURNS - 1) * 32, 32):
        i, s = i + load(workspace.added, at), s + load(workspace.added, at + 16)
        store(workspace.added, at, zero)
        store(workspace.added, at + 16, zero)
    first, last = 0, path.origin + 1
    while first < last:
        for level in range(first, last):
            at, t = (level + TURNS - 1) * 32, path.levels[level]
            i, s = i + load(workspace.added, at), s + load(workspace.added, at + 16)
            store(workspace.added, at, zero)
            store(workspace.added, at + 16, zero)
            logits = fma(splat(t), s, i) + closed
            size, rate = still + sign * last_lane(i), moving + last_lane(s)
            lead = lanes_reaching(logits, splat(hmax(logits) - (size + abs(t) * rate)))
            if lead == 0:
                undecided = most
            elif lead & (lead - 1) == 0 and size + rate < path.limit:
                workspace.predicted[level * BLOCK + k] = first_bit(lead)
            else:
                undecided += 1
                workspace.predicted[level * BLOCK + k] = _respond_at(act, path, workspace, level)
        # beyond the origin, the changes of I have the other sign
        still, sign = still + _F(2.0) * last_lane(i), _F(-1.0)
        first, last = last, path.levels.size - 1
    return undecided


@jit
def follow_path(act, z, path, workspace, out, rows, first_block, last_block, undecided_blocks):  # type: ignore[no-untyped-def]
    """Write the predictions along an affine path, for blocks `first_block` to `last_block` (excluded).

    Args:
        act: the kernel activation.
        z: flat (N, U).
        path: an `AffinePath`.
        workspace: the arrays of this thread.
        out: (..., N) uint16, written.
        rows: (L,), the rows of `out` for the levels.
        first_block, last_block: the range of blocks.
        undecided_blocks: (blocks,) bool, written: whether a block has too many undecided predictions; its
            part of `out` is then invalid.
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
                    workspace.z[u] = z[(start + k) * units + u]
                still, moving = (
                    _find_cuts(act, path, workspace) if path.cut else _find_bends(act, path, workspace)
                )
                _add_events(path, workspace)
                undecided += _predict_along(act, path, workspace, still, moving, k, most)
        undecided_blocks[block] = undecided >= most
        for level in range(levels):
            copy_items(workspace.predicted, level * BLOCK, flat, rows[level] * examples + start, count)
