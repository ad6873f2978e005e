"""How much of the stacked engine's work is in memory at the same time.

On the processor, and wherever `NEARZERO_MEMORY` is set, that setting is what all of it may take. Otherwise a GPU's
memory is its own: a share of what's free there, since nobody else is likely to be at work on it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from nearzero.memory import memory_limit
from nearzero.training.checks import check_memory

__all__ = ["Room", "room_for"]

SHARE = 0.7  # of a GPU's free memory
MOST_AHEAD = 32  # looks at once: with these, the wait for an answer is long past noticing
CPU_CHUNK = 4096  # examples; there more gain nothing
LEAST_CHUNK = 64


@dataclass(frozen=True)
class Room:
    """What fits.

    Attributes:
        chunk: examples of a whole set in work at the same time.
        ahead: looks at once; the weights of each are kept.
    """

    chunk: int
    ahead: int


def room_for(
    device: torch.device, shape: tuple[int, int, int], *, weights: int, sets: int, factor: int
) -> Room:
    """What fits on a device where the sets of examples, and the weights once, already are.

    Args:
        device: where the work is done.
        shape: (runs, units, classes) of the stack.
        weights: bytes of the weights of all runs.
        sets: bytes of the examples.
        factor: bytes of a number as a factor of products.

    Raises:
        InputError: not even a few examples would fit.
    """
    runs, units, classes = shape
    shared = 1 if device.type == "cpu" else runs  # runs that go through a product together
    # z, a and one more as large for activations whose slope has no kernel in place; logits and what's made of them
    example = shared * (3 * factor * units + 40 * classes)
    if device.type == "cuda" and "NEARZERO_MEMORY" not in os.environ:
        card = torch.cuda.current_device() if device.index is None else device.index
        free = torch.cuda.mem_get_info(card)[0]
        free += torch.cuda.memory_reserved(card) - torch.cuda.memory_allocated(card)  # PyTorch's cache
        allowed, taken = int(SHARE * free), 0
    else:
        allowed, taken = memory_limit(), sets + weights
    taken += 3 * weights  # gradients, the weights as factors, the weights a step on
    check_memory(taken + weights + LEAST_CHUNK * example, allowed, runs, units)
    left = allowed - taken
    ahead = min(MOST_AHEAD, max(1, left // 4 // weights))
    chunk = max(LEAST_CHUNK, (left - ahead * weights) // example)
    most = CPU_CHUNK if device.type == "cpu" else (2**31 - 1) // (shared * units)  # indices of 32 bits
    return Room(min(chunk, max(LEAST_CHUNK, most)), ahead)
