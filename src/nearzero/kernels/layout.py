"""How weights lie in memory while kernels work on them.

Units are cut into *strips* of 128, 64, 32 and 16, up to what the processor's registers hold. A strip is a
network of its own until the classes are summed: its weights, pre-activations and gradients lie together, pixel
by pixel (or example by example, class by class), one row of the strip's width each. So no stride grows with
the number of units, and any number of units, padded with silent ones to a multiple of 16, comes to a few strips.

A flat array that holds rows of all units has strip s, which begins at unit u, at ``u * rows``; row r of it
at ``u * rows + r * width``. Everything is aligned to cache lines: loads that straddle two of them cost half
the speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from nearzero.kernels.compile import has_feature
from nearzero.kernels.simd import LANES, inlined, jit, splat_n

__all__ = [
    "BYTES",
    "MANY_REGISTERS",
    "aligned",
    "by_strip",
    "by_width",
    "each_strip",
    "even",
    "from_strips",
    "padded",
    "strip_width",
    "strips",
    "to_strips",
]

Floats = npt.NDArray[np.float32]


# thirty-two vectors of sixteen floats fit in the registers with AVX-512; else it's about eight
MANY_REGISTERS = has_feature("avx512f")
WIDEST = 128 if MANY_REGISTERS else 32  # what the registers hold: the sums of two examples
BYTES = np.arange(256, dtype=np.float32)  # a byte as float32 by one load, which is quicker than a conversion


def padded(count: int) -> int:
    """`count`, rounded up to a multiple of sixteen."""
    return -(-count // LANES) * LANES


def even(count: int) -> int:
    """`count`, or one more: rows that loops take two at a time."""
    return count + count % 2


@jit
def strip_width(units):  # type: ignore[no-untyped-def]
    """The width of the next strip when `units` units, a multiple of sixteen, are left."""
    if units >= 128 and WIDEST >= 128:
        return 128
    if units >= 64 and WIDEST >= 64:
        return 64
    return 32 if units >= 32 else 16


# not kept: Numba can't compile a caller of a generator that it has loaded
@njit(nogil=True, error_model="numpy")
def each_strip(units):  # type: ignore[no-untyped-def]
    """(first unit, width) of every strip of `units` units, a multiple of sixteen."""
    unit = 0
    while unit < units:
        width = strip_width(units - unit)
        yield unit, width
        unit += width


def strips(units: int) -> list[tuple[int, int]]:
    """(first unit, width) of every strip; the last one may reach beyond `units`."""
    return list(each_strip.py_func(padded(units)))


def by_width(strip: Callable[..., Any]) -> Callable[..., Any]:
    """Return the work on a strip whose width isn't known before, ``chosen(width, unit, job)``, for kernels.

    strip: an `inlined` function, compiled for each width. It's given the width, as many zeros in registers, the
    strip's first unit, and `job`, a tuple of all else.
    """

    @inlined
    def chosen(width, unit, job):  # type: ignore[no-untyped-def]
        zero = np.float32(0.0)
        if MANY_REGISTERS and width == 128:
            strip(128, splat_n(zero, 8), unit, job)
        elif MANY_REGISTERS and width == 64:
            strip(64, splat_n(zero, 4), unit, job)
        elif width == 32:
            strip(32, splat_n(zero, 2), unit, job)
        else:
            strip(16, splat_n(zero, 1), unit, job)

    return chosen


def aligned(size: int, dtype: Any = np.float32) -> Any:
    """A flat array of zeros that begins at a cache line."""
    itemsize = np.dtype(dtype).itemsize
    memory = np.zeros(size * itemsize + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size * itemsize].view(dtype)


def _pieces(rows: Floats, flat: Floats) -> Iterator[tuple[Floats, Floats]]:
    """The part of each strip that holds units, as a view of `rows`, (rows, units), and one of `flat`."""
    count, units = rows.shape
    for first, width in strips(units):
        inside = min(width, units - first)
        strip = flat[first * count : (first + width) * count].reshape(count, width)
        yield rows[:, first : first + inside], strip[:, :inside]


def to_strips(rows: Floats, out: Floats) -> None:
    """Write (rows, units) into a flat array of strips; padded units stay as they are."""
    for piece, strip in _pieces(rows, out):
        strip[:] = piece


def from_strips(flat: Floats, out: Floats) -> None:
    """The reverse of `to_strips`: fill `out`, (rows, units)."""
    for piece, strip in _pieces(out, flat):
        piece[:] = strip


def by_strip(rows: Floats) -> Floats:
    """(rows, units) as a new flat array of strips, padded with zeros."""
    flat: Floats = aligned(rows.shape[0] * padded(rows.shape[1]))
    to_strips(rows, flat)
    return flat
