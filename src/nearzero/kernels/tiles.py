"""Tiles: sixty-four examples made ready for products that skip their zeros.

Most pixels of most images are zero, so both products with the images go over non-zeros only, in the form that suits each:

- *forward*, z = W1 x + b1: examples are taken in pairs, and for each pair the pixels where either isn't zero are
  listed, ascending. One row of W1 serves both, and the sums of 2 x 128 units stay in registers to the end of the list.
- *gradient*, sum of dz x^T: pixel by pixel, over the tile's examples. Their bytes are turned to lie together, and a mask of
  64 bits says which of them aren't zero. The sums of 128 units stay in registers while the mask is walked.

A full batch has its tiles built once (`Tiles`); mini-batches and evaluation build each tile where it's used, in some
microseconds, by the same code. Pairs of similar images make shorter lists: see `nearzero.kernels.matching`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.kernels.bytes import copy_bytes, list_pair, nonzero_mask, transpose_block
from nearzero.kernels.layout import aligned
from nearzero.kernels.simd import jit

__all__ = ["TILE", "TileScratch", "Tiles", "build_tile", "tile_scratch"]

TILE = 64  # examples in a tile
MAX_INPUTS = 1 << 16  # an entry of a pair's list keeps the column in 16 bits


class TileScratch(NamedTuple):
    """One tile, built where it's used.

    Attributes:
        rows: 64 images, padded with zeros to a multiple of 64 pixels.
        entries, starts: the lists of the 32 pairs; list j is ``entries[starts[j]:starts[j + 1]]``.
        columns, masks: for each pixel the bytes of 64 examples, and which of them aren't zero.
    """

    rows: npt.NDArray[np.uint8]
    entries: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]
    columns: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.uint64]


def row_stride(inputs: int) -> int:
    """Bytes from one row of a tile to the next."""
    return -(-inputs // 64) * 64


def tile_scratch(inputs: int) -> TileScratch:
    """Room for one tile: about 300 KB for 784 pixels."""
    stride = row_stride(inputs)
    return TileScratch(
        aligned(TILE * stride, np.uint8),
        aligned(TILE // 2 * stride + 16, np.uint32),
        np.zeros(TILE // 2 + 1, np.int64),
        aligned(TILE * stride, np.uint8),
        aligned(stride, np.uint64),
    )


@jit
def build_tile(tile, values, order, first, count, turned):  # type: ignore[no-untyped-def]
    """Fill a `TileScratch` with examples ``order[first : first + count]`` of `values`, (N, D); absent ones are zero.

    Columns and masks, which the gradient alone needs, are made only if `turned`.
    """
    inputs = values.shape[1]
    flat = values.reshape(-1)
    stride = tile.masks.size
    for k in range(64):
        row = k * stride
        if k < count:
            copy_bytes(flat, np.int64(order[first + k]) * inputs, tile.rows, row, inputs)
        else:
            tile.rows[row : row + inputs] = 0
    cursor = 0
    tile.starts[0] = 0
    for pair in range(32):
        if 2 * pair < count:
            row = 2 * pair * stride
            for p in range(0, stride, 16):
                cursor = list_pair(tile.rows, row + p, row + stride + p, p, tile.entries, cursor)
        tile.starts[pair + 1] = cursor
    if turned:
        for p in range(0, stride, 64):
            for k in range(0, 64, 16):
                transpose_block(tile.rows, k * stride + p, stride, tile.columns, p * 64 + k, 64)
        for p in range(inputs):
            tile.masks[p] = nonzero_mask(tile.columns, p * 64)


@jit
def _append_tiles(tile, values, order, first, last, entries, starts, columns, masks):  # type: ignore[no-untyped-def]
    """Build tiles `first` to `last` (excluded) and copy them; returns the number of entries copied."""
    stride = tile.masks.size
    turned = masks.size > 0
    total = 0
    for t in range(first, last):
        build_tile(tile, values, order, t * 64, min(64, order.size - t * 64), turned)
        size = tile.starts[32]
        entries[total : total + size] = tile.entries[:size]
        for pair in range(32):
            starts[t * 32 + pair + 1] = tile.starts[pair + 1] - tile.starts[pair]
        total += size
        if turned:
            columns[t * 64 * stride : (t + 1) * 64 * stride] = tile.columns
            masks[t * stride : (t + 1) * stride] = tile.masks
    return total


@dataclass(frozen=True, eq=False)
class Tiles:
    """All tiles of a data set, in a given order of its examples; the last one is padded with zero images.

    Memory for MNIST's 60,000 images: 21 MB of entries and, for the gradient, 50 MB of columns and 6 MB of masks.

    Attributes:
        order: (N,) which example stands where.
        entries, starts: the lists of all pairs.
        columns, masks: of all tiles; empty unless made for gradients.
    """

    order: npt.NDArray[np.int32]
    entries: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]
    columns: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return -(-len(self.order) // TILE)

    @classmethod
    def build(
        cls, values: npt.NDArray[np.uint8], order: npt.NDArray[np.int32], *, gradients: bool, step: int = 64
    ) -> Tiles:
        """Tiles of `values`, (N, D); `step` tiles at a time are held twice."""
        examples, inputs = values.shape
        check_inputs(inputs)
        stride, count = row_stride(inputs), -(-examples // TILE)
        kept = count * stride if gradients else 0
        columns, masks = aligned(kept * TILE, np.uint8), aligned(kept, np.uint64)
        starts = np.zeros(count * TILE // 2 + 1, np.int64)
        scratch = tile_scratch(inputs)
        room = np.empty(min(step, count) * TILE // 2 * stride, np.uint32)
        parts = []
        for first in range(0, count, step):
            last = min(first + step, count)
            size = _append_tiles(scratch, values, order, first, last, room, starts, columns, masks)
            parts.append(room[:size].copy())
        entries = np.concatenate(parts) if parts else np.empty(0, np.uint32)
        return cls(order, entries, np.cumsum(starts), columns, masks)


def check_inputs(inputs: int) -> None:
    """Refuse images that the lists can't address.

    Raises:
        InputError: more than 65,536 pixels.
    """
    if inputs > MAX_INPUTS:
        raise InputError(f"images have {inputs} pixels; the sparse kernels take at most {MAX_INPUTS}")
