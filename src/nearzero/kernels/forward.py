"""Pre-activations z = W1 x + b1 of whole data sets, the same to the last bit in sweeps and in training.

For each example and unit the sum starts from b1 and goes over the pixels, ascending, by fused multiply-adds.
Zero pixels add nothing. So the result doesn't depend on the example with which an example is paired, nor on
its tile, batch or thread. The affine map of `Pixels` is folded into the weights first (`fold`). Other
packages call `preactivations`; training calls `forward_tile` for one tile at a time, and doesn't keep z.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.kernels.layout import aligned, by_strip, by_width, each_strip, padded
from nearzero.kernels.simd import fma, inlined, jit, load, load_like, splat, store, store_n
from nearzero.kernels.tiles import PARTS, TILE, add_list, build_tile, check_inputs, empty_tile
from nearzero.networks.pixels import Pixels
from nearzero.support.threads import parallel, thread_count

__all__ = ["fold", "forward_tile", "preactivations"]

CHUNK = 2048 // TILE  # tiles in one task of a thread


@by_width
@inlined
def _forward_strip(width, zeros, unit, arguments):  # type: ignore[no-untyped-def]
    tiles, tile, pairs, w, b, inputs, z = arguments
    entries, starts, first = tiles.entries, tiles.starts, tile * (TILE // 2)
    base, at, bias = unit * inputs, unit * TILE, load_like(b, unit, zeros)
    for part in range(PARTS):
        for pair in range(pairs):
            k, to, sums = (first + pair) * PARTS + part, at + 2 * pair * width, bias + bias
            if part:
                sums = load_like(z, to, sums)
            store_n(z, to, add_list(entries, starts[k], starts[k + 1], w, base, width, sums))


@jit
def forward_tile(tiles, tile, pairs, w, b, inputs, z):  # type: ignore[no-untyped-def]
    """Write z of the first `pairs` pairs of tile number `tile`, as strips of `TILE` rows.

    w: strips of `inputs` rows; b: (units,), units a multiple of 16.
    """
    for unit, width in each_strip(b.size):
        _forward_strip(width, unit, (tiles, tile, pairs, w, b, inputs, z))


@jit
def fold(w, b, inputs, gain, shift, folded_w, folded_b):  # type: ignore[no-untyped-def]
    """Fold the map x = g p + s into weights and biases: W1 (g p + s) + b1 = (g W1) p + (b1 + s W1 1).

    w, folded_w: strips of `inputs` rows; b, folded_b: (units,); gain, shift: float32.
    """
    g, s = splat(gain), splat(shift)
    for unit, width in each_strip(b.size):
        for lane in range(0, width, 16):
            total = splat(np.float32(0.0))
            for p in range(inputs):
                at = unit * inputs + p * width + lane
                weight = load(w, at)
                total = total + weight
                store(folded_w, at, g * weight)
            store(folded_b, unit + lane, fma(s, total, load(b, unit + lane)))


@jit
def _write_rows(z, units, all_units, order, first, count, out):  # type: ignore[no-untyped-def]
    """Copy a tile's strips to rows ``order[first : first + count]`` of `out`, flat (N, units)."""
    for unit, width in each_strip(all_units):
        for k in range(count):
            to = np.int64(order[first + k]) * units + unit
            at = unit * TILE + k * width
            for i in range(min(width, units - unit)):
                out[to + i] = z[at + i]


@jit
def _forward_rows(tile, values, inputs, order, first, last, w, b, units, z, out):  # type: ignore[no-untyped-def]
    """Build tiles `first` to `last` (excluded), and write their z to `out`."""
    # Numba would compile both functions once more for literals
    number, gradients = np.int64(0), np.bool_(False)
    for t in range(first, last):
        count = min(TILE, order.size - t * TILE)
        build_tile(tile, values, inputs, order, t * TILE, count, gradients)
        forward_tile(tile, number, (count + 1) // 2, w, b, inputs, z)
        _write_rows(z, units, b.size, order, t * TILE, count, out)


def preactivations(
    w1: npt.NDArray[np.float32],
    b1: npt.NDArray[np.float32],
    pixels: Pixels,
    *,
    order: npt.NDArray[np.int32] | None = None,
    threads: int | None = None,
) -> npt.NDArray[np.float32]:
    """Return z = w1 x + b1 of every example, (N, U) float32.

    Args:
        w1: (U, D) float32.
        b1: (U,) float32.
        pixels: N examples of D pixels.
        order: (N,) a permutation of the examples, in which adjacent ones are paired. That of `similar_order`
            takes a quarter less time; the result is the same to the last bit.
        threads: the number of threads; None stands for all that this process may use.

    Raises:
        InputError: the shapes don't fit each other, or there are too many pixels.
    """
    examples, inputs = pixels.values.shape
    if w1.ndim != 2 or w1.shape[1] != inputs or b1.shape != w1.shape[:1]:
        raise InputError(
            f"shapes don't fit: w1 {w1.shape}, b1 {b1.shape}, pixels {pixels.values.shape}; "
            "they must be (U, D), (U,), (N, D)"
        )
    check_inputs(inputs)
    threads = thread_count(threads)
    w, b = folded_weights(w1, b1, pixels)
    if order is None:
        order = np.arange(examples, dtype=np.int32)
    elif order.shape != (examples,):
        raise InputError(f"order must be a permutation of {examples} examples; got shape {order.shape}")
    units = len(b1)
    out = np.empty(examples * units, np.float32)
    tiles, values = -(-examples // TILE), pixels.values.reshape(-1)

    def work(first: int) -> None:
        z = aligned(TILE * b.size)
        last = min(first + CHUNK, tiles)
        _forward_rows(empty_tile(inputs), values, inputs, order, first, last, w, b, units, z, out)

    parallel(work, range(0, tiles, CHUNK), threads)
    return out.reshape(examples, units)


def folded_weights(
    w1: npt.NDArray[np.float32], b1: npt.NDArray[np.float32], pixels: Pixels
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the weights (strips of D rows) and biases (padded) by which `pixels.values` are multiplied."""
    w = by_strip(np.ascontiguousarray(w1.T, dtype=np.float32))
    b = aligned(padded(len(b1)))
    b[: len(b1)] = b1
    if (pixels.gain, pixels.shift) != (1.0, 0.0):
        fold(w, b, w1.shape[1], np.float32(pixels.gain), np.float32(pixels.shift), w, b)
    return w, b
