"""Two halves of the examples: the reference, which sets ranges and levels, and the half that responds.

Of the examples 2k and 2k + 1 one is the reference, drawn by (seed, k) alone. So halves can be cut from a stream, they
don't depend on batches, and both hold examples of the same parts of the data, sorted or not. Where examples can't be
told apart within a batch, the same rule cuts between whole batches.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError

__all__ = ["EARLIER_RULE", "RULE", "halves", "in_reference"]

RULE = "of the examples 2k and 2k + 1 one is the reference, drawn by (seed, k)"
EARLIER_RULE = "by the earlier rule: a seeded permutation of all examples, or the first half of every batch"
DRAWN = 1024  # pairs whose draws come from one generator


def in_reference(numbers: npt.NDArray[np.integer], seed: int) -> npt.NDArray[np.bool_]:
    """Return which of some examples, given by their numbers in the data, belong to the reference half, (n,).

    Args:
        numbers: (n,), from 0.
        seed: of the draw.
    """
    pairs = np.asarray(numbers, dtype=np.int64) // 2
    second = np.empty(len(pairs), np.int64)  # whether the second of the pair is the reference
    for block in np.unique(pairs // DRAWN).tolist():
        drawn = np.random.default_rng([seed, block, *b"halves"]).integers(2, size=DRAWN)
        here = pairs // DRAWN == block
        second[here] = drawn[pairs[here] % DRAWN]
    return np.asarray(second == np.asarray(numbers) % 2)


def halves(examples: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the numbers of the examples of the reference half and of the half that responds, each ascending.

    Raises:
        InputError: fewer than two examples.
    """
    if examples < 2:
        raise InputError(f"two halves need at least two examples; got {examples}")
    numbers = np.arange(examples)
    reference = in_reference(numbers, seed)
    return numbers[reference], numbers[~reference]
