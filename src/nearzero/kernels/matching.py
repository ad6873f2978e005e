"""Which examples to put side by side: an order of a data set in which neighbours are alike.

The lists that the forward product walks are as long as the union of two images' non-zeros
(`nearzero.kernels.tiles`). For two MNIST images at random that's 1.53 times one image's; for the pairs
found here 1.15 times.

Images are reduced to their supports, bit sets of pixels that aren't zero. The set is halved again and again
by whether a support is nearer to one or the other of two pivots, which brings images that are alike into
one neighbourhood. Then each image in turn takes the nearest of its neighbours that is still free. All of it
in whole numbers, so the same data give the same order everywhere.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from nearzero.kernels.bytes import count_bits
from nearzero.kernels.simd import jit
from nearzero.pixels import Pixels
from nearzero.threads import parallel, thread_count

__all__ = ["known_order", "order_of", "similar_order"]

LEAF = 16  # halving ends with so many
WINDOW = 4000  # among so many neighbours each image's partner is sought
TRIALS = 12  # pairs of pivots tried at each halving, on
SAMPLE = 128  # so many of the examples

Order = npt.NDArray[np.int32]

_known: WeakKeyDictionary[Pixels, Order] = WeakKeyDictionary()  # as long as the pixels live


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

    before: a copy of members; scores: room for as many; counts: zeros, two more than twice the number of bits.
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
