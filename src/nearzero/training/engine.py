"""What an engine is: something that moves a stack of runs from one step to another, and measures it on the
way.

Two exist: `nearzero.training.fused` on the processor and `nearzero.training.stacked` in PyTorch, for any
device. They differ in the order of their sums and in nothing else. What is measured when, checkpoints,
divergence and files are the business of `nearzero.training.train`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nearzero.networks import Stack
from nearzero.pixels import Pixels

__all__ = ["Engine", "Examples", "Measurement"]


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs and their labels: pixels (N, D), labels (N,) int64."""

    pixels: Pixels
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Measurement:
    """The stack measured on all examples of one set.

    Attributes:
        loss: (R,) float64, mean cross-entropy in nats; NaN for masked runs.
        correct: (R,) int64, examples whose greatest logit (the first of equals) is the label; 0 for masked
            runs.
    """

    loss: npt.NDArray[np.float64]
    correct: npt.NDArray[np.int64]


class Engine(Protocol):
    """Plain stochastic gradient descent, w <- w - learning_rate * gradient of the batch's mean cross-entropy.

    With `batch_size` None the batch is the whole training set. `active` is (R,) bool: runs outside it are
    masked, not removed, so that the others' arithmetic doesn't depend on them.
    """

    active: npt.NDArray[np.bool_]

    def measure(self, which: str) -> Measurement:
        """The current weights on all of "train" or "test"."""
        ...

    def advance(self, step: int, stop: int) -> None:
        """Apply updates step, step + 1, ..., stop - 1 to every active run."""
        ...

    def stack(self) -> Stack:
        """A copy of the current weights."""
        ...
