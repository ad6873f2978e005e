"""The gradient of the first layer, sum over examples of dz x^T, a tile of sixty-four examples at a time.

The tile's dz stays in the first-level cache, and the sums of a pixel's row in registers. Pixels are taken
two at a time: in the examples where either isn't zero, and that's mostly both, one load of dz serves two rows
of sums. Rows of pixels that are zero in the whole tile aren't touched.
"""

from __future__ import annotations

import numpy as np

from nearzero.kernels.bytes import prefetch, trailing_zeros
from nearzero.kernels.layout import BYTES, MANY_REGISTERS, strip_width
from nearzero.kernels.registers import axpy_pair, halves, inlined, load_like
from nearzero.kernels.simd import add_n, jit, splat_at, splat_n, store_n

__all__ = ["pixel_gradient"]

_F = np.float32
_ONE, _TILE = np.uint64(1), np.uint64(64)


@inlined
def _put(g_w1, row, sums, fresh):  # type: ignore[no-untyped-def]
    store_n(g_w1, row, sums if fresh else add_n(load_like(g_w1, row, sums), sums))


@inlined
def _strip(tiles, first, ahead, inputs, dz, base, g_w1, start, width, none, fresh):  # type: ignore[no-untyped-def]
    columns, masks = tiles.columns, tiles.masks
    for p in range(0, inputs, 2):
        if ahead:
            prefetch(columns, (first + ahead + p) * 64)
            prefetch(columns, (first + ahead + p + 1) * 64)
        one, two = masks[first + p], masks[first + p + 1]
        if one | two == 0 and not fresh:
            continue
        at, either, sums = np.uint64((first + p) * 64), one | two, none + none
        while either:
            e = trailing_zeros(either)
            either &= either - _ONE
            factors = splat_at(BYTES, columns[at + e]), splat_at(BYTES, columns[at + e + _TILE])
            sums = axpy_pair(*factors, dz, base + np.int64(e) * width, sums)
        its, other = halves(sums)
        _put(g_w1, start + p * width, its, fresh)
        if p + 1 < inputs:
            _put(g_w1, start + (p + 1) * width, other, fresh)


@jit
def pixel_gradient(tiles, tile, inputs, dz, units, fresh, g_w1):  # type: ignore[no-untyped-def]
    """Add the share of tile number `tile` to the gradient of w1, strips of `inputs` rows.

    dz: strips of 64 rows; fresh: whether the gradient starts here, from 0.
    """
    stride, none = -(-inputs // 64) * 64, _F(0.0)
    first = tile * stride
    ahead = stride if first + 2 * stride <= tiles.masks.size else 0  # rows to the next tile, if there is one
    unit = 0
    while unit < units:
        width = strip_width(units - unit)
        base, start = unit * 64, unit * inputs
        if MANY_REGISTERS and width == 128:
            _strip(tiles, first, ahead, inputs, dz, base, g_w1, start, 128, splat_n(none, 8), fresh)
        elif MANY_REGISTERS and width == 64:
            _strip(tiles, first, ahead, inputs, dz, base, g_w1, start, 64, splat_n(none, 4), fresh)
        elif width == 32:
            _strip(tiles, first, ahead, inputs, dz, base, g_w1, start, 32, splat_n(none, 2), fresh)
        else:
            _strip(tiles, first, ahead, inputs, dz, base, g_w1, start, 16, splat_n(none, 1), fresh)
        unit += width
