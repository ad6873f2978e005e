"""The examples that a page embeds: which they are, and how they are shown."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["EXAMPLES", "SEED", "choose_examples"]

EXAMPLES = 2_000
SEED = 0  # of the choice of examples


def choose_examples(total: int, most: int = EXAMPLES) -> npt.NDArray[np.int64]:
    """Return the places of the page's examples: all, or as many as it holds at random from a fixed seed, in order.

    Example:
        >>> from nearzero.page.examples import choose_examples
        >>> choose_examples(3).tolist(), len(choose_examples(10_000))
        ([0, 1, 2], 2000)
    """
    if total <= most:
        return np.arange(total, dtype=np.int64)
    return np.sort(np.random.default_rng(SEED).choice(total, most, replace=False)).astype(np.int64)
