"""Pre-activations: z = W1 x + b1 for whole data sets, the same to the last bit whichever path asks for them.

For each example and unit the sum starts from b1 and goes over the pixels, ascending, by fused
multiply-adds. Zero pixels add nothing, so that neither the partner an example is paired with, nor its tile,
batch or thread, can be seen in the result. The affine map of `Pixels` is folded into the weights first
(`fold`). `preactivations` is what the rest of the package calls; training runs the loops beneath it tile by
tile and never writes z out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.kernels.layout import aligned, by_strip, by_width, each_strip, padded
from nearzero.kernels.simd import fma, inlined, jit, load, load_like, splat, store, store_n
from nearzero.kernels.tiles import PARTS, TILE, add_list, build_tile, check_inputs, tile_room
from nearzero.networks.pixels import Pixels
from nearzero.support.threads import parallel, thread_count

__all__ = ["fold", "forward_tile", "preactivations"]

CHUNK = 2048 // TILE  # tiles that a thread takes at a time


@by_width
@inlined
def _strip(width, none, unit, job):  # type: ignore[no-untyped-def]
    tiles, tile, pairs, w, b, inputs, z = job
    entries, starts, first = tiles.entries, tiles.starts, tile * (TILE // 2)
    base, at, bias = unit * inputs, unit * TILE, load_like(b, unit, none)
    for part in range(PARTS):
        for pair in range(pairs):
            its, to, sums = (first + pair) * PARTS + part, at + 2 * pair * width, bias + bias
            if part:
                sums = load_like(z, to, sums)
            store_n(z, to, add_list(entries, starts[its], starts[its + 1], w, base, width, sums))


@jit
def forward_tile(tiles, tile, pairs, w, b, inputs, z):  # type: ignore[no-untyped-def]
    """z of the first `pairs` pairs of tile number `tile`, as strips of `TILE` rows.

    w: strips of `inputs` rows; b: (units,), units a multiple of 16.
    """
    for unit, width in each_strip(b.size):
        _strip(width, unit, (tiles, tile, pairs, w, b, inputs, z))


@jit
def fold(w, b, inputs, gain, shift, folded_w, folded_b):  # type: ignore[no-untyped-def]
    """W1 (g p + s) + b1 = (g W1) p + (b1 + s W1 1): write the weights and biases that whole-number pixels see.

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
    """z of tiles `first` to `last` (excluded), each built here, written to `out`."""
    number, turned = np.int64(0), np.bool_(False)  # as literals they'd have both functions compiled once more
    for t in range(first, last):
        count = min(TILE, order.size - t * TILE)
        build_tile(tile, values, inputs, order, t * TILE, count, turned)
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
    """z = w1 x + b1 of every example: (N, U) float32.

    Args:
        w1: (U, D) float32.
        b1: (U,) float32.
        pixels: N examples of D pixels.
        order: (N,) which examples stand side by side; one of `similar_order` makes this a quarter faster,
            and changes no bit.
        threads: how many to use; all that this process may use unless given.

    Raises:
        InputError: shapes that don't fit each other.
    """
    examples, inputs = pixels.values.shape
    if w1.ndim != 2 or w1.shape[1] != inputs or b1.shape != w1.shape[:1]:
        raise InputError(
            f"shapes don't fit: w1 {w1.shape}, b1 {b1.shape}, pixels {pixels.values.shape}; "
            "needed are (U, D), (U,), (N, D)"
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
        _forward_rows(tile_room(inputs), values, inputs, order, first, last, w, b, units, z, out)

    parallel(work, range(0, tiles, CHUNK), threads)
    return out.reshape(examples, units)


def folded_weights(
    w1: npt.NDArray[np.float32], b1: npt.NDArray[np.float32], pixels: Pixels
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The weights (strips of D rows) and biases (padded) that `pixels.values` are multiplied by."""
    w = by_strip(np.ascontiguousarray(w1.T, dtype=np.float32))
    b = aligned(padded(len(b1)))
    b[: len(b1)] = b1
    if (pixels.gain, pixels.shift) != (1.0, 0.0):
        fold(w, b, w1.shape[1], np.float32(pixels.gain), np.float32(pixels.shift), w, b)
    return w, b
