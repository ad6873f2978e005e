"""The inner loops of a sweep: predictions and displacement under many perturbations, in one pass over z.

Examples are in blocks of 32. One vector contains the same unit of 16 examples, so that the parameters of a
unit are scalars and no sum goes over lanes. A block, or half of it if there are few registers, stays in the
first-level cache while all levels are processed. Each level takes two loops over the units: the first writes
perturbed activations, the second keeps the sums of `GROUP` classes in registers.

Sums have the order that is used everywhere in nearzero: over units ascending, from 0, by fused multiply-adds;
the bias is added last. So a prediction doesn't depend on the loop, block or thread that computes it. The
perturbations are defined in `nearzero.perturbations.families`; `nearzero.evaluators.hidden_layer` prepares
the arrays and calls these loops.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nearzero.kernels.activations import activate
from nearzero.kernels.layout import MANY_REGISTERS, aligned
from nearzero.kernels.simd import (
    fma,
    hsum,
    jit,
    load,
    load_like,
    outer_n,
    select_gt,
    splat,
    splat_at,
    splat_n,
    store,
    store_n,
    store_shorts,
    vmax,
    vmin,
)

__all__ = ["BLOCK", "GROUP", "add_changes", "perturb", "respond", "respond_scaled", "response_workspace"]

BLOCK = 32  # examples in a block
# classes, and vectors of examples, whose sums are in registers together: 20 of 32 registers, or 10 of 16
GROUP, VECTORS = (10, 2) if MANY_REGISTERS else (5, 1)
SUMS, WIDTH = GROUP * VECTORS, 16 * VECTORS

PIECE = 16  # blocks whose changes are added up in float32, 32 numbers per lane, before float64

_F = np.float32
_NEVER = _F(-np.inf)
Floats = npt.NDArray[np.float32]


class ResponseWorkspace(NamedTuple):
    """The arrays of one thread.

    Attributes:
        a: (U, WIDTH), perturbed activations.
        sums: (classes, WIDTH), W2 a, with classes padded to whole groups.
        places: (16,), predictions of the last few examples.
    """

    a: Floats
    sums: Floats
    places: Floats


def response_workspace(units: int, classes: int) -> ResponseWorkspace:
    """Return arrays for a number of units, and of classes padded to whole groups."""
    return ResponseWorkspace(aligned(units * WIDTH), aligned(classes * WIDTH), aligned(16))


@jit
def perturb(act, z, scale, offset, clip, low, post):  # type: ignore[no-untyped-def]
    """Return the perturbed activations of sixteen examples; all arguments but `post` are vectors."""
    if post:
        return vmin(vmax(fma(scale, activate(act, z), offset), low), clip)
    return activate(act, vmin(vmax(fma(scale, z, offset), low), clip))


@jit
def _perturb_units(act, z, base, scale, offset, clip, low, first, post, units, a):  # type: ignore[no-untyped-def]
    """Write perturbed activations, (U, WIDTH), of the examples whose z begins at `base`.

    first: the place of the level's parameters in `scale`, `offset`, `clip` and `low`.
    """
    for unit in range(units):
        s, o = splat_at(scale, first + unit), splat_at(offset, first + unit)
        c, b = splat_at(clip, first + unit), splat_at(low, first + unit)
        for lane in range(0, WIDTH, 16):
            value = load(z, base + unit * 32 + lane)
            store(a, unit * WIDTH + lane, perturb(act, value, s, o, c, b, post))


@jit
def _sum_units(workspace, w2, units):  # type: ignore[no-untyped-def]
    """Compute W2 a of the workspace's activations, for every class."""
    for group in range(w2.size // (units * GROUP)):
        total, zeros = splat_n(_F(0.0), SUMS), splat_n(_F(0.0), VECTORS)
        for unit in range(units):
            values = load_like(workspace.a, unit * WIDTH, zeros)
            total = outer_n(w2, (group * units + unit) * GROUP, 1, values, total)
        store_n(workspace.sums, group * GROUP * WIDTH, total)


@jit
def _choose(workspace, factor, b2, out, to, count):  # type: ignore[no-untyped-def]
    """Write the predictions, the first class with the greatest ``factor * sum + b2``, to ``out[to:]``.

    count: the number of remaining examples, of which `WIDTH` at most are processed.
    """
    gain = splat(factor)
    for lane in range(0, WIDTH, 16):
        best, winner = splat(_NEVER), splat(_F(0.0))
        for k in range(b2.size):
            logit = fma(gain, load(workspace.sums, k * WIDTH + lane), splat_at(b2, k))
            winner = select_gt(logit, best, splat(_F(k)), winner)
            best = vmax(logit, best)
        if lane + 16 <= count:
            store_shorts(out, to + lane, winner)
        else:
            store(workspace.places, 0, winner)
            for i in range(count - lane):
                out[to + lane + i] = np.uint16(workspace.places[i])


@jit
def respond(act, z, scale, offset, clip, low, post, w2, b2, workspace, out, rows, first_block, last_block):  # type: ignore[no-untyped-def]
    """Write the predictions under every perturbation, for blocks `first_block` to `last_block` (excluded).

    Args:
        act: the kernel activation.
        z: flat (blocks, U, 32).
        scale, offset, clip, low: flat (L, U).
        post: (L,) bool, whether the perturbation acts on activations.
        w2: flat (groups, U, GROUP), 0 in the padding of classes.
        b2: flat (groups, GROUP), -inf in the padding of classes.
        workspace: the arrays of this thread.
        out: (..., N) uint16, written.
        rows: (L,), the rows of `out` for the perturbations.
        first_block, last_block: the range of blocks.
    """
    units, examples, flat = w2.size // b2.size, out.shape[1], out.reshape(-1)
    for start in range(first_block * 32, min(last_block * 32, examples), WIDTH):
        base = start // 32 * units * 32 + start % 32
        for level in range(rows.size):
            first = level * units
            _perturb_units(act, z, base, scale, offset, clip, low, first, post[level], units, workspace.a)
            _sum_units(workspace, w2, units)
            _choose(workspace, _F(1.0), b2, flat, rows[level] * examples + start, examples - start)


@jit
def respond_scaled(act, z, scales, w2, b2, workspace, out, rows, first_block, last_block):  # type: ignore[no-untyped-def]
    """Write the predictions for activations multiplied by s, argmax(s * W2 act(z) + b2).

    One product serves all s. If the activation is positively homogeneous, this equals scaling the
    pre-activations by a positive s. At s = 1 the logits are the unperturbed ones to the last bit.

    scales: (L,) float32, the s; the other arguments are those of `respond`.
    """
    units, examples, flat = w2.size // b2.size, out.shape[1], out.reshape(-1)
    for start in range(first_block * 32, min(last_block * 32, examples), WIDTH):
        base = start // 32 * units * 32 + start % 32
        for unit in range(units):
            for lane in range(0, WIDTH, 16):
                store(workspace.a, unit * WIDTH + lane, activate(act, load(z, base + unit * 32 + lane)))
        _sum_units(workspace, w2, units)
        for level in range(rows.size):
            _choose(workspace, scales[level], b2, flat, rows[level] * examples + start, examples - start)


@jit
def add_changes(act, z, scale, offset, clip, low, post, examples, squares, sums, first_block, last_block):  # type: ignore[no-untyped-def]
    """Add up the changes of activations over the examples of some blocks, for every perturbation.

    act, z, scale, offset, clip, low, post: as in `respond`; examples: N, since the last block may be padded;
    squares, sums: (L, U) float64, to which (a' - a)^2 and a' - a are added. `nearzero.analysis.displacement`
    uses them.
    """
    units = squares.shape[1]
    lanes = np.arange(32).astype(np.float32)
    square, total = np.empty(16 * units, np.float32), np.empty(16 * units, np.float32)
    zero = splat(_F(0.0))
    for level in range(squares.shape[0]):
        for piece in range(first_block, last_block, PIECE):
            square[:], total[:] = _F(0.0), _F(0.0)
            for block in range(piece, min(piece + PIECE, last_block)):
                left = splat(_F(examples - block * 32))
                for unit in range(units):
                    at = level * units + unit
                    s, o, c, b = splat(scale[at]), splat(offset[at]), splat(clip[at]), splat(low[at])
                    for half in range(0, 32, 16):
                        value = load(z, (block * units + unit) * 32 + half)
                        change = perturb(act, value, s, o, c, b, post[level]) - activate(act, value)
                        change = select_gt(left, load(lanes, half), change, zero)
                        store(square, 16 * unit, fma(change, change, load(square, 16 * unit)))
                        store(total, 16 * unit, load(total, 16 * unit) + change)
            for unit in range(units):
                squares[level, unit] += hsum(load(square, 16 * unit))
                sums[level, unit] += hsum(load(total, 16 * unit))
