"""The gradient of the first layer, sum over examples of dz x^T, a tile at a time.

The rows of dz of a strip stay in the first-level cache, and the sums of a pixel's row in registers. Pixels are
taken two at a time: in the examples where either isn't zero, and that's mostly both, one load of dz serves two rows
of sums. Each sum goes over a batch's examples in order, so the size of tiles can't be seen in it. Rows of pixels that
are zero in the whole tile aren't touched.
"""

from __future__ import annotations

import numpy as np

from nearzero.kernels.layout import MANY_REGISTERS
from nearzero.kernels.registers import halves, inlined, load_like
from nearzero.kernels.simd import jit, splat_n, store_n
from nearzero.kernels.tiles import TILE, add_list, pixel_pairs

__all__ = ["pixel_gradient"]

_F = np.float32


@inlined
def _strip(entries, starts, lists, inputs, dz, base, g_w1, start, width, none, fresh):  # type: ignore[no-untyped-def]
    for p in range(0, inputs, 2):
        its, row = lists + p // 2, start + p * width
        if starts[its] == starts[its + 1] and not fresh:
            continue
        one, other = none, none
        if not fresh:
            one = load_like(g_w1, row, none)
            if p + 1 < inputs:
                other = load_like(g_w1, row + width, none)
        one, other = halves(add_list(entries, starts[its], starts[its + 1], dz, base, width, one + other))
        store_n(g_w1, row, one)
        if p + 1 < inputs:
            store_n(g_w1, row + width, other)


@jit
def pixel_gradient(entries, starts, tile, inputs, dz, unit, width, fresh, g_w1):  # type: ignore[no-untyped-def]
    """Add the share of tile number `tile` to the gradient of w1, in the strip of `width` units from `unit` on.

    entries, starts: lists of pairs of pixels; dz: strips of `TILE` rows; fresh: whether the gradient starts here,
    from 0; g_w1: strips of `inputs` rows.
    """
    lists, none, base, start = tile * pixel_pairs(inputs), _F(0.0), unit * TILE, unit * inputs
    if MANY_REGISTERS and width == 128:
        _strip(entries, starts, lists, inputs, dz, base, g_w1, start, 128, splat_n(none, 8), fresh)
    elif MANY_REGISTERS and width == 64:
        _strip(entries, starts, lists, inputs, dz, base, g_w1, start, 64, splat_n(none, 4), fresh)
    elif width == 32:
        _strip(entries, starts, lists, inputs, dz, base, g_w1, start, 32, splat_n(none, 2), fresh)
    else:
        _strip(entries, starts, lists, inputs, dz, base, g_w1, start, 16, splat_n(none, 1), fresh)
