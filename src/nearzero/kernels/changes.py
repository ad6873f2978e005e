"""How far perturbations move activations: sums of (a' - a)^2 and of a' - a, per unit, in one pass over z.

z lies as in `respond`, and what is perturbed is perturbed by the same code. What the sums are good for is in
`nearzero.displacement`.
"""

from __future__ import annotations

import numpy as np

from nearzero.kernels.activations import activate
from nearzero.kernels.respond import perturb
from nearzero.kernels.simd import fma, hsum, jit, load, select_gt, splat, store

__all__ = ["add_changes"]

_F = np.float32
PIECE = 16  # blocks whose sums are float32: 32 numbers a lane


@jit
def add_changes(act, z, scale, offset, clip, post, examples, squares, sums, first_block, last_block):  # type: ignore[no-untyped-def]
    """Add up the changes of the examples of some blocks, for every perturbation.

    act, z, scale, offset, clip, post: as in `respond`; examples: N, beyond which the last block is padding;
    squares, sums: (L, U) float64, added to.
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
                    s, o, c = splat(scale[at]), splat(offset[at]), splat(clip[at])
                    for half in range(0, 32, 16):
                        value = load(z, (block * units + unit) * 32 + half)
                        change = perturb(act, value, s, o, c, post[level]) - activate(act, value)
                        change = select_gt(left, load(lanes, half), change, zero)
                        store(square, 16 * unit, fma(change, change, load(square, 16 * unit)))
                        store(total, 16 * unit, load(total, 16 * unit) + change)
            for unit in range(units):
                squares[level, unit] += hsum(load(square, 16 * unit))
                sums[level, unit] += hsum(load(total, 16 * unit))
