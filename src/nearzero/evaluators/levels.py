"""The parameters of a family as functions of the level, for many levels at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nearzero.families import Family, Gains
from nearzero.perturbation import Side
from nearzero.ranges import Ranges

__all__ = ["LevelParameters"]

Doubles = npt.NDArray[np.float64]


class LevelParameters:
    """Scale, offset and clip of a family at any levels: affine in the level, or exponential in it for gains.

    Args:
        family: the family.
        ranges: the unit ranges that its levels refer to.

    Attributes:
        side: the side that is perturbed.
    """

    def __init__(self, family: Family, ranges: Ranges) -> None:
        self._zero, self._one = (family.at(level, ranges) for level in (0.0, 1.0))
        self._cut = np.isfinite(np.asarray(self._zero.clip))  # dead units have no threshold
        self._growth = np.log(np.asarray(self._one.scale)) if isinstance(family, Gains) else None
        self.side: Side = self._zero.side

    def at(self, levels: Doubles) -> tuple[Doubles, Doubles, Doubles]:
        """Return scale, offset and clip at levels (n,): (n, U) each, or (U,) where the level has no say."""
        zero, one, p = self._zero, self._one, levels[:, None]
        scale = _between(zero.scale, one.scale, p) if self._growth is None else np.exp(p * self._growth)
        clip = np.full(self._cut.shape, np.inf)
        if self._cut.any():
            low, high = (np.where(self._cut, each.clip, 0.0) for each in (zero, one))
            clip = np.where(self._cut, _between(low, high, p), np.inf)
        return scale, _between(zero.offset, one.offset, p), clip


def _between(zero: npt.ArrayLike, one: npt.ArrayLike, p: Doubles) -> Doubles:
    zero, one = np.asarray(zero), np.asarray(one)
    if (zero == one).all():
        return zero
    return one * p if not zero.any() else zero * (1 - p) + one * p
