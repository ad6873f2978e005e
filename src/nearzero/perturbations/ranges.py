"""The minimum and maximum of each unit over a data set, on both sides of the activation.

Families use these ranges to turn a level into a perturbation. Minimum and maximum are extremes, so a single
outlier moves them. The paper uses them nevertheless; the audit counts that among its faults.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError, check_choice
from nearzero.perturbations.activations import Activation
from nearzero.perturbations.perturbation import Side

__all__ = ["Ranges", "UnitRange"]

Block = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class UnitRange:
    """The minimum and maximum of each unit on one side of the activation.

    Attributes:
        minimum, maximum: (U,) each, in the units of z or of act(z).
        side: "pre" if they were taken of the pre-activation z, "post" if of the activation act(z).

    Raises:
        InputError: another side.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> unit_range = nz.UnitRange(np.array([-2.0, 0.0]), np.array([4.0, 1.0]), "pre")
        >>> unit_range.width.tolist()
        [6.0, 1.0]
    """

    minimum: Doubles
    maximum: Doubles
    side: Side

    def __post_init__(self) -> None:
        check_choice("side", self.side, get_args(Side))

    @property
    def width(self) -> Doubles:
        """Return r = maximum - minimum, (U,)."""
        return self.maximum - self.minimum


@dataclass(frozen=True, eq=False)
class Ranges:
    """The ranges of a layer before and after its activation, from one data set.

    Attributes:
        pre: the range of the pre-activations z.
        post: the range of the activations act(z).
        norms: ||w_u||, (U,), the norm of the weights that give z_u = w_u x + b_u; None where they aren't known.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> z = np.array([[-2.0, -1.0], [4.0, -3.0]])  # two examples, two units
        >>> ranges = nz.Ranges.of(z, nz.activation("relu"))
        >>> ranges.pre.minimum.tolist(), ranges.post.maximum.tolist()
        ([-2.0, -3.0], [4.0, 0.0])
        >>> ranges.live.tolist(), ranges.dead_units  # the activation of the second unit is always 0
        ([True, False], 1)
    """

    pre: UnitRange
    post: UnitRange
    norms: Doubles | None = None

    @property
    def live(self) -> npt.NDArray[np.bool_]:
        """Return (U,), True for units whose post-activation range isn't 0.

        The other units are dead: perturbations leave them as they are, and `dead_units` counts them.
        """
        return self.post.width > 0

    @property
    def dead_units(self) -> int:
        """Return the number of units that aren't live."""
        return int((~self.live).sum())

    def on(self, side: Side) -> UnitRange:
        """Return the range on one side.

        Raises:
            InputError: a side other than "pre" and "post".
        """
        check_choice("side", side, get_args(Side))
        return self.pre if side == "pre" else self.post

    def reference_distance(self, side: Side) -> float:
        """Return R, a distance in the space of x: the root mean square over live units of r_u / ||w_u||.

        r_u / ||w_u|| with the pre-activation range is the width of the data in the direction of w_u, and
        p r_u / ||w_u|| is how far a shift by p r_u moves the unit's boundary. R is 0 if no unit is live.

        Args:
            side: the side on which r_u = max - min is taken.

        Raises:
            InputError: the norms aren't known, or a live unit has weights of norm 0.
        """
        if self.norms is None:
            raise InputError(
                "distances need the norms of the units' weights, and these ranges have none; take ranges from "
                "nz.unit_ranges at a layer whose weights are known"
            )
        widths, norms = self.on(side).width[self.live], self.norms[self.live]
        if not (norms > 0).all():
            raise InputError(
                f"{int((norms == 0).sum())} live units have weights of norm 0, and so no boundary that could be moved"
            )
        return float(np.sqrt(np.square(widths / norms).mean())) if norms.size else 0.0

    @classmethod
    def of(cls, blocks: Block | Iterable[Block], act: Activation) -> Ranges:
        """Return the ranges of pre-activations z.

        Args:
            blocks: z, (N, U), whole or as a stream of blocks (n, U).
            act: the activation, for the range on the side "post".

        Raises:
            InputError: no examples, or a value that isn't finite (a network that diverged, say).
        """
        # scalars at first; from the first block on (2, U), before and after act
        low, high = np.array(np.inf), np.array(-np.inf)
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
    """Yield the same rows, (n, U), in pieces of about a quarter of a megabyte: act(z) stays in the cache."""
    for block in blocks:
        rows = max(1, 2**16 // max(1, block.shape[-1]))
        for first in range(0, len(block), rows):
            yield block[first : first + rows]
