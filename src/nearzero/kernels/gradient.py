"""The gradient of the first layer, sum over examples of dz x^T, a tile at a time.

The rows of dz of a strip stay in the first-level cache, and the sums of a pixel's row in registers. Pixels are
taken two at a time: in the examples where either isn't zero, and that's mostly both, one load of dz serves two rows
of sums. Each sum goes over a batch's examples in order, so the size of tiles can't be seen in it. Rows of pixels that
are zero in the whole tile aren't touched.
"""

from __future__ import annotations

from nearzero.kernels.layout import by_width
from nearzero.kernels.simd import halves, inlined, jit, load_like, store_n
from nearzero.kernels.tiles import TILE, add_list, pixel_pairs

__all__ = ["pixel_gradient"]


@by_width
@inlined
def _strip(width, none, unit, job):  # type: ignore[no-untyped-def]
    entries, starts, tile, inputs, dz, fresh, g_w1 = job
    lists, base, start = tile * pixel_pairs(inputs), unit * TILE, unit * inputs
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
    _strip(width, unit, (entries, starts, tile, inputs, dz, fresh, g_w1))
