"""What every engine refuses: sets, seeds and batches that don't fit its stack, and stacks that don't fit the memory."""

from __future__ import annotations

from collections.abc import Sequence

from nearzero.errors import InputError
from nearzero.memory import memory_text
from nearzero.networks import Stack
from nearzero.training.engine import Examples

__all__ = ["check_engine", "check_memory", "one_activation"]


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
        if each.pixels.values.shape[1] != inputs:
            raise InputError(
                f"images of the {name} set have {each.pixels.values.shape[1]} pixels; the networks take {inputs}"
            )
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
