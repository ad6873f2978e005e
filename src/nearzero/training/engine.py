"""What an engine is: something that moves a stack of runs from one step to another, and measures it on the
way.

Two exist: `nearzero.training.fused` on the processor and `nearzero.training.stacked` in PyTorch, for any
device. In float32 they differ in the order of their sums and in nothing else. What is measured when,
checkpoints, divergence and files are the business of `nearzero.training.train`.

What both share is here, too: which examples a run sees at which step, which is a function of its seed and the step
alone, so that a run can be taken up at any step, alone or among others; and what every engine refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.networks import Stack
from nearzero.networks.pixels import Pixels
from nearzero.support.memory import memory_text

__all__ = [
    "Engine",
    "Examples",
    "Look",
    "LooksAhead",
    "Measurement",
    "Precision",
    "check_engine",
    "check_memory",
    "epoch_order",
    "one_activation",
    "steps_per_epoch",
]

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

    def advance(self, step: int, stop: int) -> None:
        """Apply updates step, step + 1, ..., stop - 1 to every active run."""

    def stack(self) -> Stack:
        """A copy of the current weights."""


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

    def look_back(self, place: int) -> Stack:
        """A copy of the weights at look `place` of the last plan."""

    def go_back(self, place: int) -> None:
        """Have the weights again that were at look `place` of the last plan."""


# --- which examples at which step -----------------------------------------------------------------------


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """ceil(examples / batch_size): the last batch of an epoch may be smaller."""
    return -(-examples // batch_size)


def epoch_order(seed: int, epoch: int, examples: int) -> npt.NDArray[np.int64]:
    """The order of all examples in one epoch, (examples,): a permutation drawn from the pair (seed, epoch).

    Step s is batch s mod `steps_per_epoch` of epoch s div `steps_per_epoch`.
    """
    return np.random.default_rng([seed, epoch]).permutation(examples)


# --- what every engine refuses --------------------------------------------------------------------------


def check_engine(
    stack: Stack, train: Examples, test: Examples, seeds: Sequence[int], batch_size: int | None
) -> None:
    """Refuse sets, seeds and batches that don't fit a stack.

    Raises:
        InputError: with what was seen and what is needed.
    """
    inputs, classes = stack.w1.shape[2], stack.b2.shape[1]
    if len(seeds) != len(stack):
        raise InputError(f"a stack of {len(stack)} runs needs as many seeds; got {len(seeds)}")
    if batch_size is not None and batch_size < 1:
        raise InputError(
            f"batch_size must be at least 1, or None for the whole training set; got {batch_size}"
        )
    for name, each in (("training", train), ("test", test)):
        if not len(each) or len(each.pixels) != len(each.labels):
            raise InputError(f"the {name} set has {len(each.pixels)} images and {len(each.labels)} labels")
        width = each.pixels.values.shape[1]
        if width != inputs:
            raise InputError(f"images of the {name} set have {width} pixels; the networks take {inputs}")
        if each.labels.min() < 0 or each.labels.max() >= classes:
            raise InputError(
                f"labels of the {name} set go from {each.labels.min()} to {each.labels.max()}; "
                f"the networks have classes 0 to {classes - 1}"
            )
    if (train.pixels.gain, train.pixels.shift) != (test.pixels.gain, test.pixels.shift):
        raise InputError("the training and the test set must be seen through the same affine map")


def one_activation(stack: Stack) -> str:
    """The activation of all of a stack's networks.

    Raises:
        InputError: they have several.
    """
    if len(set(stack.activations)) != 1:
        raise InputError(
            f"this engine trains networks of one activation; got {', '.join(sorted(set(stack.activations)))}; "
            "train them one after the other"
        )
    return stack.activations[0]


def check_memory(needed: int, allowed: int, runs: int, units: int) -> None:
    """Refuse work that would need more bytes than it may take, however it's cut.

    Raises:
        InputError: with what's needed, what's allowed, and what to do.
    """
    if needed > allowed:
        raise InputError(
            f"to train {runs:,} runs of {units:,} hidden units at least {memory_text(needed)} is needed, and "
            f"{memory_text(allowed)} may be taken; raise NEARZERO_MEMORY, or take fewer runs or units"
        )
