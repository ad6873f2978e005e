"""A recipe: how a network is trained, and when it's looked at."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, takewhile

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Plain SGD on the mean cross-entropy of a batch.

    Attributes:
        learning_rate: w <- w - learning_rate * gradient.
        steps: how many updates.
        batch_size: examples in a batch; None is the whole training set.
        evaluate_every: the stack is measured on the whole training set at steps 0, evaluate_every, 2
            evaluate_every, ..., at the last step, and at 10, 100, ... below evaluate_every, where training
            moves fast.
        test_every: and on the whole test set at step 0, at multiples of this, and at the last step.
        thresholds: train accuracies in percent; the first measurement at or above one of them is a
            checkpoint.
    """

    learning_rate: float = 0.001
    steps: int = 5000
    batch_size: int | None = None
    evaluate_every: int = 1
    test_every: int = 1
    thresholds: tuple[float, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100)

    @property
    def schedule(self) -> tuple[int, ...]:
        """The steps at which the stack is measured; step s is after s updates."""
        regular = range(0, self.steps + 1, self.evaluate_every)
        before = min(self.evaluate_every, self.steps)
        early = takewhile(lambda step: step < before, (10**k for k in count(1)))
        return tuple(sorted({*regular, *early, self.steps}))

    def tests_at(self, step: int) -> bool:
        """Whether the test set is measured at a step of the schedule."""
        return step % self.test_every == 0 or step == self.steps
