"""The interface of training engines, and what all engines share.

An engine moves a stack of runs from one step to another, and measures it. There are two:
`nearzero.training.fused` for the processor and `nearzero.training.stacked` in PyTorch for any device. In
float32 they differ only in the order of their sums. `nearzero.training.train` decides what is measured when,
and handles checkpoints, divergence and files.

Which examples a run sees at a step is a function of its seed and the step alone. So a run can be resumed at
any step, alone or among other runs. These functions and the checks of arguments are here, since both engines
use them.
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
from nearzero.support.words import number_of

__all__ = [
    "DeferredEngine",
    "Engine",
    "Examples",
    "Measurement",
    "Precision",
    "StepMeasurement",
    "check_engine",
    "check_memory",
    "epoch_order",
    "one_activation",
    "steps_per_epoch",
]

# The type to which the factors of products are rounded. Weights and sums are float32 in each.
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
    """Loss and correct predictions of R runs on all examples of one set.

    Attributes:
        loss: (R,) float64, mean cross-entropy in nats; NaN for masked runs.
        correct: (R,) int64, the number of examples whose greatest logit (the first of equals) is the label; 0
            for masked runs.
    """

    loss: npt.NDArray[np.float64]
    correct: npt.NDArray[np.int64]


class Engine(Protocol):
    """Plain stochastic gradient descent, w <- w - learning_rate * gradient of the batch's mean cross-entropy.

    With `batch_size` None the batch is the whole training set. `active` is (R,) bool: the other runs are
    masked, not removed, so that the arithmetic of the active runs doesn't depend on them.
    """

    active: npt.NDArray[np.bool_]

    def measure(self, which: str) -> Measurement:
        """Measure the current weights on all examples of "train" or "test"."""

    def advance(self, step: int, stop: int) -> None:
        """Apply updates step, step + 1, ..., stop - 1 to every active run."""

    def stack(self) -> Stack:
        """Return a copy of the current weights."""


@dataclass(frozen=True)
class StepMeasurement:
    """The measurements of one step: on the training set, and on the test set or None."""

    train: Measurement
    test: Measurement | None


@runtime_checkable
class DeferredEngine(Engine, Protocol):
    """An engine that defers measurements, since waiting for each of them would leave its device idle.

    It takes several measurements at once, and keeps the weights at each of them until the next call. So a
    caller that finds out afterwards that one of the measured steps matters can still read the weights of that
    step, or go on training from it.

    Attributes:
        most_deferred: the greatest number of measurements in one call.
    """

    most_deferred: int

    def advance_and_measure(self, step: int, plan: Sequence[tuple[int, bool]]) -> list[StepMeasurement]:
        """Advance from `step` to each of the planned steps in turn, and measure there.

        Args:
            step: the number of updates that the weights have had.
            plan: at most `most_deferred` pairs of a step and whether to measure the test set there as well.
        """

    def stack_at(self, place: int) -> Stack:
        """Return a copy of the weights at measurement `place` of the last plan."""

    def restore(self, place: int) -> None:
        """Set the weights back to those at measurement `place` of the last plan."""


# --- the examples of each step ---------------------------------------------------------------------------


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Return ceil(examples / batch_size): the last batch of an epoch may be smaller."""
    return -(-examples // batch_size)


def epoch_order(seed: int, epoch: int, examples: int) -> npt.NDArray[np.int64]:
    """Return the order of all examples in one epoch, (examples,): a permutation drawn by (seed, epoch).

    Step s takes batch s mod `steps_per_epoch` of epoch s div `steps_per_epoch`.
    """
    return np.random.default_rng([seed, epoch]).permutation(examples)


# --- checks of arguments ---------------------------------------------------------------------------------


def check_engine(
    stack: Stack, train: Examples, test: Examples, seeds: Sequence[int], batch_size: int | None
) -> None:
    """Check that the sets, the seeds and the batch size fit a stack.

    Raises:
        InputError: one of them doesn't; the message says what was seen and what is needed.
    """
    inputs, classes = stack.w1.shape[2], stack.b2.shape[1]
    if len(seeds) != len(stack):
        raise InputError(f"a stack of {number_of(len(stack), 'run')} needs as many seeds; got {len(seeds)}")
    if batch_size is not None and batch_size < 1:
        raise InputError(
            f"batch_size must be at least 1, or None for the whole training set; got {batch_size}"
        )
    for name, examples in (("training", train), ("test", test)):
        pixels, labels = examples.pixels, examples.labels
        if not len(labels) or len(pixels) != len(labels):
            raise InputError(f"the {name} set has {len(pixels)} images and {len(labels)} labels")
        width = pixels.values.shape[1]
        if width != inputs:
            raise InputError(f"images of the {name} set have {width} pixels; the networks take {inputs}")
        if labels.min() < 0 or labels.max() >= classes:
            raise InputError(
                f"labels of the {name} set go from {labels.min()} to {labels.max()}; "
                f"the networks have classes 0 to {classes - 1}"
            )
    maps = [(pixels.gain, pixels.shift) for pixels in (train.pixels, test.pixels)]
    if maps[0] != maps[1]:
        raise InputError(
            "the training and the test set must have the same gain and shift of pixels; "
            f"got {maps[0]} and {maps[1]}"
        )


def one_activation(stack: Stack) -> str:
    """Return the activation of all networks of a stack.

    Raises:
        InputError: the networks have different activations.
    """
    if len(set(stack.activations)) != 1:
        raise InputError(
            f"this engine trains networks of one activation; got {', '.join(sorted(set(stack.activations)))}; "
            "train them one after the other"
        )
    return stack.activations[0]


def check_memory(needed: int, allowed: int, runs: int, units: int) -> None:
    """Check that work fits in memory, when it's cut as finely as possible.

    Args:
        needed, allowed: bytes.
        runs, units: the number of networks, and of hidden units of each; for the message.

    Raises:
        InputError: more is needed than allowed.
    """
    if needed > allowed:
        raise InputError(
            f"training {number_of(runs, 'run')} of {number_of(units, 'hidden unit')} needs at least "
            f"{memory_text(needed)} of memory, and {memory_text(allowed)} is allowed; raise NEARZERO_MEMORY, "
            "or take fewer runs or units"
        )
