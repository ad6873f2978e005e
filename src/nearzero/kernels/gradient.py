"""The gradient of the first layer, sum over examples of dz x^T, a tile of sixty-four examples at a time.

Pixel by pixel: the tile's dz stays in the first-level cache, the sums of a row in registers; rows of pixels that are zero
in the whole tile aren't touched.
"""

from __future__ import annotations

import numpy as np

from nearzero.kernels.bytes import trailing_zeros
from nearzero.kernels.layout import strip_width
from nearzero.kernels.registers import inlined, load_like
from nearzero.kernels.simd import add_n, axpy_n, jit, splat_n, store_n

__all__ = ["pixel_gradient"]

_F = np.float32
_ONE = np.uint64(1)


@inlined
def _strip(columns, masks, first, inputs, dz, base, g_w1, start, width, none, fresh):  # type: ignore[no-untyped-def]
    for p in range(inputs):
        mask = masks[first + p]
        if mask == 0 and not fresh:
            continue
        at, sums = (first + p) * 64, none
        while mask:
            e = trailing_zeros(mask)
            mask &= mask - _ONE
            sums = axpy_n(_F(columns[np.uint64(at) + e]), dz, base + np.int64(e) * width, sums)
        row = start + p * width
        store_n(g_w1, row, sums if fresh else add_n(load_like(g_w1, row, sums), sums))


@jit
def pixel_gradient(columns, masks, tile, inputs, dz, units, fresh, g_w1):  # type: ignore[no-untyped-def]
    """Add tile `tile`'s share to the gradient of w1, strips of `inputs` rows; if `fresh`, start it from 0.

    columns, masks: as in `Tiles`; dz: strips of 64 rows.
    """
    first, none = tile * (-(-inputs // 64) * 64), _F(0.0)
    unit = 0
    while unit < units:
        width = strip_width(units - unit)
        base, start = unit * 64, unit * inputs
        if width == 128:
            _strip(columns, masks, first, inputs, dz, base, g_w1, start, 128, splat_n(none, 8), fresh)
        elif width == 64:
            _strip(columns, masks, first, inputs, dz, base, g_w1, start, 64, splat_n(none, 4), fresh)
        elif width == 32:
            _strip(columns, masks, first, inputs, dz, base, g_w1, start, 32, splat_n(none, 2), fresh)
        else:
            _strip(columns, masks, first, inputs, dz, base, g_w1, start, 16, splat_n(none, 1), fresh)
        unit += width
