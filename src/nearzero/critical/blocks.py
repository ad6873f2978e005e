"""What both methods share: examples cut into blocks, the blocks on threads, and what they find put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from nearzero.hidden import HiddenLayer
from nearzero.networks import TwoLayer
from nearzero.threads import parallel

__all__ = ["Doubles", "Found", "Intervals", "find_in_blocks", "logits", "merged"]

Doubles = npt.NDArray[np.float64]
Intervals = tuple[
    npt.NDArray[np.int64], Doubles, npt.NDArray[np.uint16]
]  # counts, starts, classes, as in `Found`
MOST_ROWS = 512
BLOCK_BYTES = 2**25  # about what a block's arrays may take, on each thread


@dataclass(frozen=True, eq=False)
class Found:
    """Intervals of some examples, one example after the other.

    Attributes:
        counts: (n,) how many intervals each example has.
        starts, classes: (m,) where each begins, and its prediction.
        unperturbed: (n,) the prediction without perturbation.
    """

    counts: npt.NDArray[np.int64]
    starts: Doubles
    classes: npt.NDArray[np.uint16]
    unperturbed: npt.NDArray[np.uint16]


def logits(network: TwoLayer, activations: npt.NDArray[np.floating]) -> Doubles:
    """W2 a + b2 in float64, (..., K)."""
    return np.asarray(activations @ network.w2.T.astype(np.float64) + network.b2)


def find_in_blocks(
    hidden: HiddenLayer,
    find: Callable[[Doubles, slice], Intervals],
    rows: slice,
) -> Found:
    """Let `find` have z of some examples, (n, U) in float64, block by block."""
    network = hidden.network
    # x in float64, and about ten arrays of the size of z
    each = 8 * (network.inputs + 10 * network.units)
    size = max(1, min(MOST_ROWS, BLOCK_BYTES // each))
    edges = [*range(rows.start, rows.stop, size), rows.stop]
    blocks = [slice(*pair) for pair in pairwise(edges)]
    found: list[tuple[npt.NDArray[np.generic], ...]] = [()] * len(blocks)

    def work(index: int) -> None:
        z = hidden.exact(blocks[index])
        unperturbed = logits(network, network.act(z)).argmax(axis=1).astype(np.uint16)
        found[index] = (*find(z, blocks[index]), unperturbed)

    parallel(work, range(len(blocks)), hidden.threads)
    return Found(*(np.concatenate(part) for part in zip(*found, strict=True)))


def merged(counts: npt.NDArray[np.int64], starts: Doubles, classes: npt.NDArray[np.uint16]) -> Intervals:
    """Without intervals of the class before them: where two logits touch, rounding can leave one."""
    first = np.cumsum(counts) - counts
    new = np.append(True, classes[1:] != classes[:-1])
    new[first] = True
    return np.add.reduceat(new, first), starts[new], classes[new]
