"""The memory layout of weights, pre-activations and gradients in kernels.

Units are divided into *strips* of 128, 64, 32 and 16 units; the widest fits in the processor's registers. Up
to the sum over units that gives the logits, a strip is treated as a separate network: its weights,
pre-activations and gradients are contiguous, pixel by pixel (or example by example, class by class), in rows
of the strip's width. So no stride grows with the number of units, and any number of units, padded with zeros
to a multiple of 16, is divided into a few strips.

A strip that begins at unit u begins at ``u * rows`` of a flat array with `rows` rows of all units; its row r
begins at ``u * rows + r * width``. Arrays are aligned to cache lines, since loads that straddle two lines
take twice the time.
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


# with AVX-512 the registers hold thirty-two vectors of sixteen floats, else about eight
MANY_REGISTERS = has_feature("avx512f")
WIDEST = 128 if MANY_REGISTERS else 32  # the registers hold the sums of two examples
BYTES = np.arange(256, dtype=np.float32)  # converts a byte to float32 by one load, which is faster


def padded(count: int) -> int:
    """Return `count`, rounded up to a multiple of sixteen."""
    return -(-count // LANES) * LANES


def even(count: int) -> int:
    """Return `count`, rounded up to an even number, for loops that take two rows at a time."""
    return count + count % 2


@jit
def strip_width(units):  # type: ignore[no-untyped-def]
    """Return the width of the next strip if `units` units, a multiple of sixteen, are left."""
    if units >= 128 and WIDEST >= 128:
        return 128
    if units >= 64 and WIDEST >= 64:
        return 64
    return 32 if units >= 32 else 16


# not cached: Numba can't compile a caller of a generator that it has loaded from a cache
@njit(nogil=True, error_model="numpy")
def each_strip(units):  # type: ignore[no-untyped-def]
    """Yield (first unit, width) of every strip of `units` units, a multiple of sixteen."""
    unit = 0
    while unit < units:
        width = strip_width(units - unit)
        yield unit, width
        unit += width


def strips(units: int) -> list[tuple[int, int]]:
    """Return (first unit, width) of every strip; the last strip may reach beyond `units`."""
    return list(each_strip.py_func(padded(units)))


def by_width(strip: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function for kernels that processes a strip of any width: ``dispatch(width, unit, arguments)``.

    strip: an `inlined` function ``strip(width, zeros, unit, arguments)``, which is compiled for each width.
    `zeros` are as many zeros in registers as the strip is wide, `unit` is the strip's first unit, `arguments`
    a tuple of the rest.
    """

    @inlined
    def dispatch(width, unit, arguments):  # type: ignore[no-untyped-def]
        zero = np.float32(0.0)
        if MANY_REGISTERS and width == 128:
            strip(128, splat_n(zero, 8), unit, arguments)
        elif MANY_REGISTERS and width == 64:
            strip(64, splat_n(zero, 4), unit, arguments)
        elif width == 32:
            strip(32, splat_n(zero, 2), unit, arguments)
        else:
            strip(16, splat_n(zero, 1), unit, arguments)

    return dispatch


def aligned(size: int, dtype: Any = np.float32) -> Any:
    """Return a flat array of zeros that begins at a cache line."""
    itemsize = np.dtype(dtype).itemsize
    memory = np.zeros(size * itemsize + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size * itemsize].view(dtype)


def _pieces(rows: Floats, flat: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Yield the part of each strip that holds units, as views of `rows`, (rows, units), and of `flat`."""
    count, units = rows.shape
    for first, width in strips(units):
        count_inside = min(width, units - first)
        strip = flat[first * count : (first + width) * count].reshape(count, width)
        yield rows[:, first : first + count_inside], strip[:, :count_inside]


def to_strips(rows: Floats, out: Floats) -> None:
    """Write `rows`, (rows, units), to a flat array of strips; padding stays as it is."""
    for piece, strip in _pieces(rows, out):
        strip[:] = piece


def from_strips(flat: Floats, out: Floats) -> None:
    """Write a flat array of strips to `out`, (rows, units): the reverse of `to_strips`."""
    for piece, strip in _pieces(out, flat):
        piece[:] = strip


def by_strip(rows: Floats) -> Floats:
    """Return `rows`, (rows, units), as a new flat array of strips, padded with zeros."""
    flat: Floats = aligned(rows.shape[0] * padded(rows.shape[1]))
    to_strips(rows, flat)
    return flat
