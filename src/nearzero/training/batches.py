"""Which examples a run sees at which step: a function of its seed and the step alone.

Nothing is carried from one step to the next, so a run can be taken up at any step, alone or among others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["epoch_order", "steps_per_epoch"]


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """ceil(examples / batch_size): the last batch of an epoch may be smaller."""
    return -(-examples // batch_size)


def epoch_order(seed: int, epoch: int, examples: int) -> npt.NDArray[np.int64]:
    """The order of all examples in one epoch, (examples,): a permutation drawn from the pair (seed, epoch).

    Step s is batch s mod `steps_per_epoch` of epoch s div `steps_per_epoch`.
    """
    return np.random.default_rng([seed, epoch]).permutation(examples)
