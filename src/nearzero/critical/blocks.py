"""What both methods share: intervals of examples, put together and cleaned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Doubles", "Found", "Intervals", "joined", "merged"]

Doubles = npt.NDArray[np.float64]
Intervals = tuple[
    npt.NDArray[np.int64], Doubles, npt.NDArray[np.unsignedinteger[Any]]
]  # counts, starts, classes, as in `Found`


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
    classes: npt.NDArray[np.unsignedinteger[Any]]
    unperturbed: npt.NDArray[np.unsignedinteger[Any]]


def joined(parts: Sequence[Found]) -> Found:
    """Return the intervals of several blocks of examples, one block after the other."""
    return Found(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Found)))


def merged(
    counts: npt.NDArray[np.int64], starts: Doubles, classes: npt.NDArray[np.unsignedinteger[Any]]
) -> Intervals:
    """Without intervals of the class before them: where two logits touch, rounding can leave one."""
    first = np.cumsum(counts) - counts
    new = np.append(True, classes[1:] != classes[:-1])
    new[first] = True
    return np.add.reduceat(new, first), starts[new], classes[new]
