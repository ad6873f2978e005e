"""The gradient of the first layer, sum over examples of dz x^T, a tile of sixty-four examples at a time.

Pixel by pixel: the tile's dz stays in the first-level cache, the sums of a row in registers; rows of pixels that are zero
in the whole tile aren't touched.
"""

from __future__ import annotations

import numpy as np

from nearzero.kernels.bytes import trailing_zeros
from nearzero.kernels.layout import strip_width
from nearzero.kernels.simd import add_n, axpy_n, jit, load_n, splat_n, store_n

__all__ = ["pixel_gradient"]

_F = np.float32
_ONE = np.uint64(1)


@jit
def _walk(mask, columns, at, dz, base, width, sums):  # type: ignore[no-untyped-def]
    """Add pixel times dz over the examples of a mask."""
    while mask:
        e = trailing_zeros(mask)
        mask &= mask - _ONE
        sums = axpy_n(_F(columns[np.uint64(at) + e]), dz, base + np.int64(e) * width, sums)
    return sums


@jit
def pixel_gradient(columns, masks, tile, inputs, dz, units, fresh, g_w1):  # type: ignore[no-untyped-def]
    """Add tile `tile`'s share to the gradient of w1, strips of `inputs` rows; if `fresh`, start it from 0.

    columns, masks: as in `Tiles`; dz: strips of 64 rows.
    """
    stride = -(-inputs // 64) * 64
    unit = 0
    while unit < units:
        width = strip_width(units - unit)
        base = unit * 64
        for p in range(inputs):
            row = tile * stride + p
            mask = masks[row]
            if mask == 0 and not fresh:
                continue
            at = unit * inputs + p * width
            if width == 128:
                sums = _walk(mask, columns, row * 64, dz, base, 128, splat_n(_F(0.0), 8))
                store_n(g_w1, at, sums if fresh else add_n(load_n(g_w1, at, 8), sums))
            elif width == 64:
                sums4 = _walk(mask, columns, row * 64, dz, base, 64, splat_n(_F(0.0), 4))
                store_n(g_w1, at, sums4 if fresh else add_n(load_n(g_w1, at, 4), sums4))
            elif width == 32:
                sums2 = _walk(mask, columns, row * 64, dz, base, 32, splat_n(_F(0.0), 2))
                store_n(g_w1, at, sums2 if fresh else add_n(load_n(g_w1, at, 2), sums2))
            else:
                sums1 = _walk(mask, columns, row * 64, dz, base, 16, splat_n(_F(0.0), 1))
                store_n(g_w1, at, sums1 if fresh else add_n(load_n(g_w1, at, 1), sums1))
        unit += width
