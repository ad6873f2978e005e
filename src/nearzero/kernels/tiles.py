"""Tiles: 64 or 256 examples as lists of non-zeros, for products that skip the zeros of images.

Most pixels of most images are zero, so both products with the images go over lists of non-zeros:

- *forward*, z = W1 x + b1: examples are paired. For each pair there is a list of the pixels, ascending, that
  are nonzero in at least one of the two examples. One row of W1 is loaded for both examples, and the sums of
  a strip's units stay in registers to the end of the list. If strips are narrow, lists are cut in two in the
  middle of the image: the rows of W1 for the upper halves of a tile's lists are few enough to stay in the
  first-level cache.
- *gradient*, sum of dz x^T: pixels are paired. For each pair there is a list of the examples, ascending, in
  which at least one of the two pixels is nonzero. It's made from the transpose of the tile. One row of dz is
  loaded for both pixels.

The tiles of a full batch are built once (`build_tiles`). Mini-batches and evaluation build each tile when
it's used, in some microseconds, by the same code.

The list of a pair of examples is as long as the union of the non-zeros of the two images. For two random
MNIST images that is 1.53 times as long as for one image; for the pairs of `similar_order` it is 1.15 times.
`similar_order` reduces images to their supports, the bit sets of pixels that aren't zero. It halves the set
repeatedly, by the difference of a support's distances to two pivots, so that similar images come near each
other in the order. Then it pairs each image in turn with the nearest unpaired one nearby. All of it is
integer arithmetic, so the same data have the same order on every machine.
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
    "FilteredLists",
    "TileArrays",
    "add_list",
    "build_tile",
    "build_tiles",
    "empty_filtered",
    "empty_tile",
    "filter_lists",
    "known_order",
    "order_of",
    "pixel_pairs",
    "row_stride",
    "similar_order",
]

# examples in a tile: the first-level cache holds their rows of dz in the widest strip; no sum depends on it
TILE = 64 if MANY_REGISTERS else 256
PARTS = 1 if MANY_REGISTERS else 2  # parts of the list of a pair of examples
LISTS = TILE // 2 * PARTS
MAX_INPUTS = 1 << 16  # an entry of a list has 16 bits for the pixel

LEAF = 16  # sets of at most this size aren't halved
WINDOW = 4000  # examples among which the partners are chosen
TRIALS = 12  # pairs of pivots tried at each halving
SAMPLE = 128  # examples on which a pair of pivots is tried


Order = npt.NDArray[np.int32]
Lists = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]  # entries, and the start of each list

_orders: WeakKeyDictionary[Pixels, Order] = WeakKeyDictionary()  # entries are dropped with their pixels


class TileArrays(NamedTuple):
    """One tile, or the lists of several tiles one after the other.

    Attributes:
        rows: `TILE` images, padded with zeros to a multiple of 64 pixels, from which the rest is made.
        entries, starts: the lists of the pairs of examples, in `PARTS`; part k of list j is
            ``entries[starts[i]:starts[i + 1]]`` with i = j PARTS + k. An entry is pixel << 16 | value in the
            second example << 8 | value in the first.
        columns: the transpose: for each pixel, the bytes of `TILE` examples.
        by_pixel, by_pixel_starts: the lists of the pairs of pixels. An entry is example << 16 | value of the
            second pixel << 8 | value of the first.
    """

    rows: npt.NDArray[np.uint8]
    entries: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]
    columns: npt.NDArray[np.uint8]
    by_pixel: npt.NDArray[np.uint32]
    by_pixel_starts: npt.NDArray[np.int64]


def row_stride(inputs: int) -> int:
    """Return the bytes from one row of a tile to the next."""
    return -(-inputs // 64) * 64


def empty_tile(inputs: int) -> TileArrays:
    """Return empty arrays for one tile: 0.3 or 1.3 MB for 784 pixels."""
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
    """Return the number of pairs of pixels; if `inputs` is odd, the last pixel's partner is always zero."""
    return (inputs + 1) // 2


@jit
def _list_pair(rows, first, stride, start, stop, entries, cursor):  # type: ignore[no-untyped-def]
    """Append an entry for each column from `start` to `stop` in which at least one of two rows is nonzero.

    Returns the end of the list.

    The rows are ``rows[first : first + stride]`` and the next `stride` bytes; start is a multiple of 64, stop
    of 8. An entry is column << 16 | byte of the second row << 8 | byte of the first. About half of all groups
    of eight columns are zero, and are skipped.
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
def build_tile(tile, values, inputs, order, first, count, gradients):  # type: ignore[no-untyped-def]
    """Fill a `TileArrays` with examples ``order[first : first + count]`` of `values`, flat (N * D,).

    Missing examples are zero. The lists of the pairs of pixels are made only if `gradients`, which alone need
    them.
    """
    stride, rows = tile.rows.size // TILE, -(-count // 16) * 16
    for k in range(rows):
        row = k * stride
        if k < count:
            copy_items(values, np.int64(order[first + k]) * inputs, tile.rows, row, inputs)
        else:
            for p in range(row, row + inputs):
                tile.rows[p] = 0
    for k in range(first + count, min(first + count + TILE, order.size)):  # these are probably the next tile
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
    if gradients:
        for p in range(0, stride, 64):
            for k in range(0, rows, 16):
                transpose_block(tile.rows, k * stride + p, stride, tile.columns, p * TILE + k, TILE)
        cursor = 0
        for pair in range(pixel_pairs(inputs)):
            cursor = _list_pair(tile.columns, 2 * pair * TILE, TILE, 0, rows, tile.by_pixel, cursor)
            tile.by_pixel_starts[pair + 1] = cursor


class FilteredLists(NamedTuple):
    """The lists of the pairs of pixels of one tile, for some of its examples only.

    Attributes:
        entries, starts: like `by_pixel` and `by_pixel_starts` of `TileArrays`.
        wanted: (`TILE`,), 1 for the examples in the lists, else 0.
    """

    entries: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]
    wanted: npt.NDArray[np.uint8]


def empty_filtered(inputs: int) -> FilteredLists:
    """Return empty arrays, large enough for the longest lists."""
    pairs = pixel_pairs(inputs)
    return FilteredLists(
        aligned(TILE * pairs, np.uint32), np.zeros(pairs + 1, np.int64), np.zeros(TILE, np.uint8)
    )


@jit
def filter_lists(tiles, tile, inputs, contributing, count, filtered):  # type: ignore[no-untyped-def]
    """Fill `filtered` with the entries of tile number `tile` for the examples ``contributing[:count]``."""
    entries, starts, wanted = filtered.entries, filtered.starts, filtered.wanted
    wanted[:] = 0
    for k in range(count):
        wanted[contributing[k]] = 1
    first, cursor = tile * pixel_pairs(inputs), np.uint64(0)
    for pair in range(pixel_pairs(inputs)):
        for k in range(tiles.by_pixel_starts[first + pair], tiles.by_pixel_starts[first + pair + 1]):
            entry = tiles.by_pixel[np.uint64(k)]
            entries[cursor] = entry
            cursor += np.uint64(wanted[np.uint64(entry >> np.uint32(16))])
        starts[pair + 1] = cursor


@inlined
def add_list(entries, first, last, rows, base, width, sums):  # type: ignore[no-untyped-def]
    """Return `sums` of a pair, plus the rows of ``entries[first:last]``, multiplied by each entry's two bytes.

    Row r is ``rows[base + r * width : base + (r + 1) * width]``; the first half of `sums` belongs to the
    first byte.
    """
    for k in range(first, last):
        entry = np.int64(entries[np.uint64(k)])
        first_value, second_value = splat_at(BYTES, entry & 255), splat_at(BYTES, (entry >> 8) & 255)
        sums = axpy_pair(first_value, second_value, rows, base + (entry >> 16) * width, sums)
    return sums


def build_tiles(values: npt.NDArray[np.uint8], order: Order, *, gradients: bool) -> TileArrays:
    """Return the lists of all tiles of `values`, (N, D), in an order of its examples.

    The last tile is filled up with zero images. Rows and columns are left empty, and so are the lists of the
    pairs of pixels unless `gradients`. Memory for MNIST's 60,000 images: 21 MB of entries by example and, for
    gradients, 23 MB of entries by pixel; twice as much while they are built.
    """
    examples, inputs = len(order), values.shape[1]
    check_inputs(inputs)
    tile, flat = empty_tile(inputs), values.reshape(-1)
    lists, by_pixel = [], []
    for first in range(0, examples, TILE):
        build_tile(tile, flat, inputs, order, first, min(TILE, examples - first), gradients)
        lists.append((tile.entries[: tile.starts[-1]].copy(), tile.starts.copy()))
        if gradients:
            by_pixel.append((tile.by_pixel[: tile.by_pixel_starts[-1]].copy(), tile.by_pixel_starts.copy()))
    rows = np.empty(0, np.uint8)
    return TileArrays(rows, *_joined(lists), rows, *_joined(by_pixel))


def _joined(lists: list[Lists]) -> Lists:
    """Return the lists of several tiles as lists of all tiles one after the other."""
    entries = [np.empty(0, np.uint32), *(tile_entries for tile_entries, _ in lists)]
    begins = np.cumsum([len(tile_entries) for tile_entries in entries])
    starts = [begin + tile_starts[1:] for begin, (_, tile_starts) in zip(begins, lists, strict=False)]
    return np.concatenate(entries), np.concatenate([np.zeros(1, np.int64), *starts])


def check_inputs(inputs: int) -> None:
    """Check that the entries of lists have enough bits for the pixels.

    Raises:
        InputError: more than 65,536 pixels.
    """
    if inputs > MAX_INPUTS:
        raise InputError(f"images have {inputs} pixels; the sparse kernels take at most {MAX_INPUTS}")


# --- the order of examples -------------------------------------------------------------------------------


@jit
def _supports(values, bits):  # type: ignore[no-untyped-def]
    """Set bit p of an example's words, bits (N, words) uint64, if its pixel p isn't zero."""
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
    """Return the pair of members, of `TRIALS` random pairs, by which a sample of members is spread most."""
    size = members.size
    step = max(1, size // SAMPLE)
    best, left, right = -1, members[0], members[size - 1]
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
            best, left, right = spread, a, b
    return left, right


@jit
def _halve(bits, members, before, scores, counts):  # type: ignore[no-untyped-def]
    """Sort members by the distance to one pivot minus that to the other: a stable counting sort.

    before: a copy of members; scores: an array of the same size; counts: zeros, two more than twice the
    number of bits.
    """
    left, right = _pivots(bits, members)
    zero = counts.size // 2 - 1
    for k in range(members.size):
        scores[k] = zero + _distance(bits, members[k], left) - _distance(bits, members[k], right)
        counts[scores[k] + 1] += 1
    for k in range(counts.size - 1):
        counts[k + 1] += counts[k]
    for k in range(members.size):
        members[counts[scores[k]]] = before[k]
        counts[scores[k]] += 1


@jit
def _bring_together(bits, order):  # type: ignore[no-untyped-def]
    """Reorder examples by halving the set, then each half, and so on."""
    pending, count = (
        np.zeros((64, 2), np.int64),
        1,
    )  # a stack; few halves are pending at a time
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
    """Reorder members so that each one at an even place is followed by the nearest of the remaining ones."""
    for k in range(0, members.size - 1, 2):
        best, least = k + 1, np.int64(1) << 62
        for j in range(k + 1, members.size):
            distance = _distance(bits, members[k], members[j])
            if distance < least:
                best, least = j, distance
        nearest = members[best]
        for j in range(best, k + 1, -1):
            members[j] = members[j - 1]
        members[k + 1] = nearest


def order_of(pixels: Pixels) -> Order:
    """Return the `similar_order` of a set of examples, which is computed once."""
    if pixels not in _orders:
        _orders[pixels] = similar_order(pixels.values)
    return _orders[pixels]


def known_order(pixels: Pixels) -> Order | None:
    """Return the result of `order_of` if it has been computed, else None.

    It saves less time in a product or two than its computation takes, unlike in training.
    """
    return _orders.get(pixels)


def similar_order(values: npt.NDArray[np.uint8]) -> Order:
    """Return a permutation of the examples of `values`, (N, D), which puts similar ones at 2k and 2k + 1.

    This takes half a second for 60,000 images, and N D / 8 bytes of memory.
    """
    order = np.arange(len(values), dtype=np.int32)
    bits = np.zeros((len(values), -(-values.shape[1] // 64)), np.uint64)
    _supports(values, bits)
    _bring_together(bits, order)
    windows = [order[first : first + WINDOW] for first in range(0, len(order), WINDOW)]
    parallel(lambda window: _pair_up(bits, window), windows, thread_count())
    return order
