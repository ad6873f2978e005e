"""Per-unit minimum and maximum over a data set, on both sides of the activation.

Families turn a level into a perturbation by these. They are extremes, and so move with outliers; that is the
paper's conduct, and one of its faults.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.perturbations.activations import Activation
from nearzero.perturbations.perturbation import Side

__all__ = ["Ranges", "UnitRange"]

Block = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class UnitRange:
    """Minimum and maximum of each unit, (U,) each, on the side they were taken on; units of x."""

    minimum: Doubles
    maximum: Doubles
    side: Side

    @property
    def width(self) -> Doubles:
        """r = maximum - minimum, (U,)."""
        return self.maximum - self.minimum


@dataclass(frozen=True, eq=False)
class Ranges:
    """The ranges of a layer before and after its activation, from one data set.

    Attributes:
        pre: the range of the pre-activations z.
        post: the range of the activations act(z).
    """

    pre: UnitRange
    post: UnitRange

    @property
    def live(self) -> npt.NDArray[np.bool_]:
        """(U,): which units have a post-activation range other than 0. The others are dead: left alone and counted."""
        return self.post.width > 0

    @property
    def dead_units(self) -> int:
        """How many units aren't live."""
        return int((~self.live).sum())

    def on(self, side: Side) -> UnitRange:
        """The range on one side."""
        return self.pre if side == "pre" else self.post

    @classmethod
    def of(cls, blocks: Block | Iterable[Block], act: Activation) -> Ranges:
        """Ranges of pre-activations z, (N, U), given whole or as a stream of blocks (n, U).

        Raises:
            InputError: no examples, or a value that isn't finite (a network that diverged, say).
        """
        low, high = (
            np.array(np.inf),
            np.array(-np.inf),
        )  # from the first block on (2, U): before and after act
        for block in _pieces([blocks] if isinstance(blocks, np.ndarray) else blocks):
            sides = (block, act(block))
            low = np.minimum(low, [side.min(axis=0) for side in sides])
            high = np.maximum(high, [side.max(axis=0) for side in sides])
        if low.ndim == 0:
            raise InputError("ranges need at least one example; got none")
        if not np.isfinite([low, high]).all():
            raise InputError(
                "ranges need finite pre-activations; some are infinite or NaN (did the network diverge?)"
            )
        return cls(UnitRange(low[0], high[0], "pre"), UnitRange(low[1], high[1], "post"))


def _pieces(blocks: Iterable[Block]) -> Iterator[Block]:
    """The same rows, (n, U), in pieces of about a quarter of a megabyte, whose act(z) never leaves the cache."""
    for block in blocks:
        rows = max(1, 2**16 // max(1, block.shape[-1]))
        for first in range(0, len(block), rows):
            yield block[first : first + rows]
