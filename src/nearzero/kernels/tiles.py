"""Tiles: a hundred examples or two made ready for products that skip their zeros.

Most pixels of most images are zero, so both products with the images go over lists of non-zeros:

- *forward*, z = W1 x + b1: examples are taken in pairs, and for each pair the pixels where either isn't
  zero are listed, ascending. One row of W1 serves both, and the sums of a strip's units stay in registers to
  the end of the list. Where strips are narrow, lists are cut in two in the middle of the image: the rows of W1
  that the upper halves of a tile's pairs need are few enough to stay in the first-level cache.
- *gradient*, sum of dz x^T: pixels are taken in pairs, and for each pair the examples where either isn't zero are
  listed, ascending; to list them, the tile's bytes are turned. One row of dz serves both pixels.

A full batch has its tiles built once (`build_tiles`); mini-batches and evaluation build each tile where it's
used, in some microseconds, by the same code.

The lists of a pair of examples are as long as the union of the two images' non-zeros. For two MNIST images at random
that's 1.53 times one image's; for the pairs of `similar_order` 1.15 times. Images are reduced to their supports, bit
sets of pixels that aren't zero. The set is halved again and again by whether a support is nearer to one or the other
of two pivots, which brings images that are alike into one neighbourhood. Then each image in turn takes the nearest
of its neighbours that is still free. All of it in whole numbers, so the same data give the same order everywhere.
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.kernels.layout import BYTES, MANY_REGISTERS, aligned
from nearzero.kernels.simd import (
    FIRST,
    axpy_pair,
    copy_items,
    count_bits,
    first_bit,
    groups_filled,
    inlined,
    jit,
    list_eight,
    prefetch,
    splat_at,
    transpose_block,
)
from nearzero.networks.pixels import Pixels
from nearzero.support.threads import parallel, thread_count

__all__ = [
    "PARTS",
    "TILE",
    "Sifted",
    "TileArrays",
    "add_list",
    "build_tile",
    "build_tiles",
    "known_order",
    "order_of",
    "pixel_pairs",
    "row_stride",
    "sift",
    "sift_room",
    "similar_order",
    "tile_room",
]

# examples in a tile: their rows of dz in the widest strip are what the first-level cache holds; no sum depends on it
TILE = 64 if MANY_REGISTERS else 256
PARTS = 1 if MANY_REGISTERS else 2  # of a pair's list
LISTS = TILE // 2 * PARTS
MAX_INPUTS = 1 << 16  # an entry of a pair's list keeps the column in 16 bits

LEAF = 16  # halving ends with so many
WINDOW = 4000  # among so many neighbours each image's partner is sought
TRIALS = 12  # pairs of pivots tried at each halving, on
SAMPLE = 128  # so many of the examples


Order = npt.NDArray[np.int32]
Lists = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]  # entries, and where each list starts

_known: WeakKeyDictionary[Pixels, Order] = WeakKeyDictionary()  # as long as the pixels live


class TileArrays(NamedTuple):
    """One tile, built where it's used, or many one after the other.

    Attributes:
        rows: `TILE` images, padded with zeros to a multiple of 64 pixels; what the rest is made from.
        entries, starts: the lists of pairs of examples, in `PARTS`; part k of list j is
            ``entries[starts[i]:starts[i + 1]]`` with i = j PARTS + k. An entry is pixel << 16 | its value in the second
            example << 8 | in the first.
        columns: the bytes of `TILE` examples for each pixel.
        turned, turned_starts: the lists of pairs of pixels, likewise: example << 16 | second pixel << 8 | first.
    """

    rows: npt.NDArray[np.uint8]
    entries: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]
    columns: npt.NDArray[np.uint8]
    turned: npt.NDArray[np.uint32]
    turned_starts: npt.NDArray[np.int64]


def row_stride(inputs: int) -> int:
    """Bytes from one row of a tile to the next."""
    return -(-inputs // 64) * 64


def tile_room(inputs: int) -> TileArrays:
    """Room for one tile: 0.3 or 1.3 MB for 784 pixels."""
    stride = row_stride(inputs)
    return TileArrays(
        aligned(TILE * stride, np.uint8),
        aligned(TILE // 2 * stride, np.uint32),
        np.zeros(LISTS + 1, np.int64),
        aligned(TILE * stride, np.uint8),
        aligned(TILE // 2 * stride, np.uint32),
        np.zeros(pixel_pairs(inputs) + 1, np.int64),
    )


@jit
def pixel_pairs(inputs):  # type: ignore[no-untyped-def]
    """Pairs of pixels; if their number is odd, the last one's partner is always zero."""
    return (inputs + 1) // 2


@jit
def _list_pair(rows, first, stride, start, stop, entries, cursor):  # type: ignore[no-untyped-def]
    """Append the columns, from `start` to `stop`, where either of two rows isn't zero; returns the list's new end.

    The rows are ``rows[first : first + stride]`` and the `stride` bytes that follow; start is a multiple of 64, stop
    of 8. An entry is column << 16 | byte of the second row << 8 | byte of the first. Half of all groups of eight
    columns are empty, and passed over.
    """
    for word in range(start, stop, 512):
        filled = 0
        for base in range(word, min(word + 512, stop), 64):
            groups = groups_filled(rows, first + base) | groups_filled(rows, first + stride + base)
            filled |= groups << ((base - word) >> 3)
        if stop - word < 512:
            filled &= (1 << ((stop - word) >> 3)) - 1
        while filled:
            column = word + 8 * first_bit(filled)
            cursor += list_eight(rows, first + column, stride, column, FIRST, entries, cursor)
            filled &= filled - 1
    return cursor


@jit
def build_tile(tile, values, inputs, order, first, count, turned):  # type: ignore[no-untyped-def]
    """Fill a `TileArrays` with examples ``order[first : first + count]`` of `values`, flat (N * D,).

    Absent ones are zero. The lists of pairs of pixels, which the gradient alone needs, are made only if `turned`.
    """
    stride, rows = tile.rows.size // TILE, -(-count // 16) * 16
    for k in range(rows):
        row = k * stride
        if k < count:
            copy_items(values, np.int64(order[first + k]) * inputs, tile.rows, row, inputs)
        else:
            for p in range(row, row + inputs):
                tile.rows[p] = 0
    for k in range(first + count, min(first + count + TILE, order.size)):  # probably the next tile
        row = np.int64(order[k]) * inputs
        for p in range(0, inputs + 63, 64):
            prefetch(values, row + p)
    cursor = 0
    tile.starts[0] = 0
    part = -(-stride // 64 // PARTS) * 64
    for pair in range(TILE // 2):
        for k in range(PARTS):
            if 2 * pair < count:
                start, stop = k * part, min((k + 1) * part, -(-inputs // 8) * 8)
                cursor = _list_pair(tile.rows, 2 * pair * stride, stride, start, stop, tile.entries, cursor)
            tile.starts[pair * PARTS + k + 1] = cursor
    if turned:
        for p in range(0, stride, 64):
            for k in range(0, rows, 16):
                transpose_block(tile.rows, k * stride + p, stride, tile.columns, p * TILE + k, TILE)
        cursor = 0
        for pair in range(pixel_pairs(inputs)):
            cursor = _list_pair(tile.columns, 2 * pair * TILE, TILE, 0, rows, tile.turned, cursor)
            tile.turned_starts[pair + 1] = cursor


class Sifted(NamedTuple):
    """The lists of pairs of pixels of one tile, without the examples that aren't wanted.

    Attributes:
        entries, starts: as `turned` and `turned_starts` of a `TileArrays`.
        wanted: (`TILE`,), 1 or 0.
    """

    entries: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]
    wanted: npt.NDArray[np.uint8]


def sift_room(inputs: int) -> Sifted:
    """Room for the longest lists."""
    pairs = pixel_pairs(inputs)
    return Sifted(aligned(TILE * pairs, np.uint32), np.zeros(pairs + 1, np.int64), np.zeros(TILE, np.uint8))


@jit
def sift(tiles, tile, inputs, taught, count, sifted):  # type: ignore[no-untyped-def]
    """Fill a `Sifted` with what the lists of tile number `tile` say of the examples ``taught[:count]``."""
    entries, starts, wanted = sifted.entries, sifted.starts, sifted.wanted
    wanted[:] = 0
    for k in range(count):
        wanted[taught[k]] = 1
    first, cursor = tile * pixel_pairs(inputs), np.uint64(0)
    for pair in range(pixel_pairs(inputs)):
        for k in range(tiles.turned_starts[first + pair], tiles.turned_starts[first + pair + 1]):
            entry = tiles.turned[np.uint64(k)]
            entries[cursor] = entry
            cursor += np.uint64(wanted[np.uint64(entry >> np.uint32(16))])
        starts[pair + 1] = cursor


@inlined
def add_list(entries, first, last, rows, base, width, sums):  # type: ignore[no-untyped-def]
    """Add what is listed at ``entries[first:last]`` to the sums of a pair: each entry's row, times its two bytes.

    Row r is ``rows[base + r * width : base + (r + 1) * width]``; the first half of `sums` belongs to the first byte.
    """
    for k in range(first, last):
        entry = np.int64(entries[np.uint64(k)])
        one, two = splat_at(BYTES, entry & 255), splat_at(BYTES, (entry >> 8) & 255)
        sums = axpy_pair(one, two, rows, base + (entry >> 16) * width, sums)
    return sums


def build_tiles(values: npt.NDArray[np.uint8], order: Order, *, gradients: bool) -> TileArrays:
    """Return all tiles of `values`, (N, D), in an order of its examples; the last one is filled up with zero images.

    They are without rows and columns, and without lists of pairs of pixels unless made for gradients. Memory for
    MNIST's 60,000 images: 21 MB of entries and, for the gradient, 23 MB of turned ones; held twice meanwhile.
    """
    examples, inputs = len(order), values.shape[1]
    check_inputs(inputs)
    one, flat = tile_room(inputs), values.reshape(-1)
    lists, turned = [], []
    for first in range(0, examples, TILE):
        build_tile(one, flat, inputs, order, first, min(TILE, examples - first), gradients)
        lists.append((one.entries[: one.starts[-1]].copy(), one.starts.copy()))
        if gradients:
            turned.append((one.turned[: one.turned_starts[-1]].copy(), one.turned_starts.copy()))
    rows = np.empty(0, np.uint8)
    return TileArrays(rows, *_joined(lists), rows, *_joined(turned))


def _joined(lists: list[Lists]) -> Lists:
    """The entries and starts of tiles, as those of all tiles one after the other."""
    entries = [np.empty(0, np.uint32), *(each for each, _ in lists)]
    begins = np.cumsum([len(each) for each in entries])
    starts = [begin + each[1:] for begin, (_, each) in zip(begins, lists, strict=False)]
    return np.concatenate(entries), np.concatenate([np.zeros(1, np.int64), *starts])


def check_inputs(inputs: int) -> None:
    """Refuse images that the lists can't address.

    Raises:
        InputError: more than 65,536 pixels.
    """
    if inputs > MAX_INPUTS:
        raise InputError(f"images have {inputs} pixels; the sparse kernels take at most {MAX_INPUTS}")


# --- which examples to put side by side -----------------------------------------------------------------


@jit
def _supports(values, bits):  # type: ignore[no-untyped-def]
    """Set bit p of an example's words, bits (N, words) uint64, where its pixel p isn't zero."""
    for i in range(values.shape[0]):
        for p in range(values.shape[1]):
            bits[i, p >> 6] |= np.uint64(values[i, p] != 0) << np.uint64(p & 63)


@jit
def _distance(bits, i, j):  # type: ignore[no-untyped-def]
    total = 0
    for k in range(bits.shape[1]):
        total += count_bits(bits[i, k] ^ bits[j, k])
    return total


@jit
def _pivots(bits, members):  # type: ignore[no-untyped-def]
    """Of some pairs of members, the one that spreads a sample of them most."""
    size = members.size
    step = max(1, size // SAMPLE)
    best, one, two = -1, members[0], members[size - 1]
    state = np.uint64(size)
    for _ in range(TRIALS):
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        a = members[np.int64((state >> np.uint64(33)) % np.uint64(size))]
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        b = members[np.int64((state >> np.uint64(33)) % np.uint64(size))]
        total, squares, count = 0, 0, 0
        for k in range(0, size, step):
            score = _distance(bits, members[k], a) - _distance(bits, members[k], b)
            total += score
            squares += score * score
            count += 1
        spread = squares * count - total * total
        if spread > best:
            best, one, two = spread, a, b
    return one, two


@jit
def _halve(bits, members, before, scores, counts):  # type: ignore[no-untyped-def]
    """Reorder members by how much nearer they are to one pivot than to the other: a stable counting sort.

    before: a copy of members; scores: workspace for as many; counts: zeros, two more than twice the number of bits.
    """
    one, two = _pivots(bits, members)
    zero = counts.size // 2 - 1
    for k in range(members.size):
        scores[k] = zero + _distance(bits, members[k], one) - _distance(bits, members[k], two)
        counts[scores[k] + 1] += 1
    for k in range(counts.size - 1):
        counts[k + 1] += counts[k]
    for k in range(members.size):
        members[counts[scores[k]]] = before[k]
        counts[scores[k]] += 1


@jit
def _bring_together(bits, order):  # type: ignore[no-untyped-def]
    """Halve the whole set, each half, and so on."""
    pending, count = np.zeros((64, 2), np.int64), 1  # a stack; halves of halves are few at a time
    pending[0, 1] = order.size
    while count:
        count -= 1
        first, last = pending[count]
        size, middle = last - first, first + (last - first) // 4 * 2
        if size > LEAF:
            members, counts = order[first:last], np.zeros(128 * bits.shape[1] + 2, np.int64)
            _halve(bits, members, members.copy(), np.empty(size, np.int64), counts)
            pending[count], pending[count + 1] = (first, middle), (middle, last)
            count += 2


@jit
def _pair_up(bits, members):  # type: ignore[no-untyped-def]
    """Reorder members so that each at an even place is followed by the nearest of those then left."""
    for k in range(0, members.size - 1, 2):
        best, least = k + 1, np.int64(1) << 62
        for j in range(k + 1, members.size):
            distance = _distance(bits, members[k], members[j])
            if distance < least:
                best, least = j, distance
        taken = members[best]
        for j in range(best, k + 1, -1):
            members[j] = members[j - 1]
        members[k + 1] = taken


def order_of(pixels: Pixels) -> Order:
    """The `similar_order` of a set of examples, found once."""
    if pixels not in _known:
        _known[pixels] = similar_order(pixels.values)
    return _known[pixels]


def known_order(pixels: Pixels) -> Order | None:
    """The same if it's been found: training pays for it, and a product or two wouldn't."""
    return _known.get(pixels)


def similar_order(values: npt.NDArray[np.uint8]) -> Order:
    """A permutation of the examples of `values`, (N, D), in which those at places 2k and 2k + 1 are alike.

    Half a second for 60,000 images, and N D / 8 bytes while it runs.
    """
    order = np.arange(len(values), dtype=np.int32)
    bits = np.zeros((len(values), -(-values.shape[1] // 64)), np.uint64)
    _supports(values, bits)
    _bring_together(bits, order)
    windows = [order[first : first + WINDOW] for first in range(0, len(order), WINDOW)]
    parallel(lambda window: _pair_up(bits, window), windows, thread_count())
    return order
