"""What an engine is: something that moves a stack of runs from one step to another, and measures it on the
way.

Two exist: `nearzero.training.fused` on the processor and `nearzero.training.stacked` in PyTorch, for any
device. In float32 they differ in the order of their sums and in nothing else. What is measured when,
checkpoints, divergence and files are the business of `nearzero.training.train`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from nearzero.networks import Stack
from nearzero.pixels import Pixels

__all__ = ["Engine", "Examples", "Look", "LooksAhead", "Measurement", "Precision"]

# To what the factors of products are rounded; weights and sums are float32 in each.
Precision = Literal["float32", "tf32", "bfloat16"]


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


@dataclass(frozen=True)
class Look:
    """The stack at one step: measured on the training set, and on the test set where that was asked for."""

    train: Measurement
    test: Measurement | None


@runtime_checkable
class LooksAhead(Engine, Protocol):
    """An engine whose answers take a while to arrive, so that to wait for each would leave it idle.

    It is asked for several measurements at once, and keeps the weights at each of them until it is asked
    again: if one of them turns out to matter, its weights are there, and training can go on from it.

    Attributes:
        ahead: how many measurements it can be asked for at once.
    """

    ahead: int

    def look_ahead(self, step: int, plan: Sequence[tuple[int, bool]]) -> list[Look]:
        """Advance from `step` to each of the planned steps in turn, and measure there.

        Args:
            step: how many updates the weights have had.
            plan: at most `ahead` pairs: a step, and whether the test set is measured there as well.
        """
        ...

    def look_back(self, place: int) -> Stack:
        """A copy of the weights at look `place` of the last plan."""
        ...

    def go_back(self, place: int) -> None:
        """Have the weights again that were at look `place` of the last plan."""
        ...
