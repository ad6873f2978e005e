"""Perturbations as values: y = min(scale * x + offset, clip) per unit, and y = x + factor * values per row.

The first is the paper's perturbation layer. The second has a number for each row, that is for each position of each
example, and serves noise (`nearzero.perturbations.noise`) and replaced activations (`nearzero.analysis.near_far`).
Which numbers a family puts into a perturbation at which level is in `nearzero.perturbations.families`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError

__all__ = ["Addition", "AnyPerturbation", "Perturbation", "Side"]

Side = Literal["pre", "post"]
Float = TypeVar("Float", bound=np.floating)
PARAMETERS = ("scale", "offset", "clip")
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Perturbation:
    """y = min(scale * x + offset, clip), unit by unit (arXiv 2411.17932, the perturbation layer).

    Attributes:
        scale, offset, clip: one number for all units or an array (U,), kept as float64; +inf is no clip.
            Offset and clip have the units of x.
        side: whether x is the pre-activation z ("pre", the default) or the activation act(z) ("post").

    The default values are the identity, and it changes nothing to the last bit.

    Raises:
        InputError: a parameter that is NaN or infinite (but for a clip of +inf), has more than one dimension, or
            another length than the others.
    """

    scale: npt.NDArray[np.float64] | float = 1.0
    offset: npt.NDArray[np.float64] | float = 0.0
    clip: npt.NDArray[np.float64] | float = np.inf
    side: Side = "pre"

    def __post_init__(self) -> None:
        lengths = set()
        for name in PARAMETERS:
            value = np.array(getattr(self, name), dtype=np.float64)
            greatest = np.inf if name == "clip" else FLOAT32_MAX
            if value.ndim > 1 or (value.size and not -FLOAT32_MAX <= value.min() <= value.max() <= greatest):
                raise _refusal(name, value)
            value.setflags(write=False)
            object.__setattr__(self, name, value)
            lengths |= {value.size} if value.ndim else set()
        if len(lengths) > 1:
            raise InputError(f"scale, offset and clip must be of one length; got lengths {sorted(lengths)}")
        if self.side not in ("pre", "post"):
            raise InputError(f"side must be 'pre' or 'post'; got {self.side!r}")

    def __call__(self, x: npt.NDArray[Float]) -> npt.NDArray[Float]:
        """Apply to x of shape (..., U), in x's precision."""
        scale, offset, clip = (np.asarray(getattr(self, name)).astype(x.dtype) for name in PARAMETERS)
        return np.asarray(np.minimum(scale * x + offset, clip))

    def apply(self, x: npt.NDArray[Float], rows: slice) -> npt.NDArray[Float]:
        """Return y for x (r, U), whatever rows these are."""
        return self(x)

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing, whatever it is applied to."""
        return bool(np.all(self.scale == 1) and np.all(self.offset == 0) and np.all(self.clip == np.inf))

    def per_unit(self, units: int) -> tuple[npt.NDArray[np.float32], ...]:
        """Scale, offset and clip as float32 arrays (units,): what the engines compute with.

        Raises:
            InputError: it was made for another number of units.
        """
        values = [np.asarray(getattr(self, name)) for name in PARAMETERS]
        for name, value in zip(PARAMETERS, values, strict=True):
            if value.ndim and value.size != units:
                raise InputError(f"{name} has {value.size} values, but the layer has {units} units")
        with np.errstate(over="ignore"):  # a clip beyond float32 is no clip
            return tuple(np.broadcast_to(value, (units,)).astype(np.float32) for value in values)

    def then(self, other: Perturbation) -> Perturbation:
        """The single perturbation that does this one first and `other` after it, on the same side.

        min(s2 min(s1 x + o1, c1) + o2, c2) = min(s2 s1 x + s2 o1 + o2, min(s2 c1 + o2, c2)) for s2 > 0.

        Raises:
            InputError: the sides differ, or `other` has a scale that isn't positive where this one clips.
        """
        if self.side != other.side:
            raise InputError(
                f"can't compose a {self.side}-activation with a {other.side}-activation perturbation"
            )
        clips = np.asarray(self.clip) != np.inf
        if np.any(clips & (np.asarray(other.scale) <= 0)):
            raise InputError(
                "can't compose: the second scale isn't positive where the first perturbation clips"
            )
        # inf * s2 would be NaN at s2 = 0, where nothing is clipped
        carried = np.where(clips, other.scale * np.where(clips, self.clip, 0.0) + other.offset, np.inf)
        return Perturbation(
            scale=other.scale * self.scale,
            offset=other.scale * self.offset + other.offset,
            clip=np.minimum(carried, other.clip),
            side=self.side,
        )


@dataclass(frozen=True, eq=False)
class Addition:
    """y = x + factor * values, row by row: what differs between examples, as noise does.

    Attributes:
        values: (R, U) float32, for each row of the examples that are perturbed, in their order.
        factor: the number that the values are multiplied by.
        side: whether x is the pre-activation z ("pre") or the activation act(z) ("post").
    """

    values: npt.NDArray[np.float32]
    factor: float = 1.0
    side: Side = "pre"

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return self.factor == 0

    def apply(self, x: npt.NDArray[Float], rows: slice) -> npt.NDArray[Float]:
        """Return y for some rows of x, (r, U)."""
        return np.asarray(x + self.added(rows))

    def added(self, rows: slice = slice(None)) -> npt.NDArray[np.float32]:
        """Return factor * values of some rows, (r, U) float32."""
        return np.float32(self.factor) * self.values[rows]


AnyPerturbation = Perturbation | Addition


def _refusal(name: str, value: npt.NDArray[np.float64]) -> InputError:
    """What is wrong with a parameter."""
    if value.ndim > 1 or np.isnan(value).any():
        seen = f"shape {value.shape}" if value.ndim > 1 else "NaN"
        return InputError(f"{name} must be a number or an array (units,) without NaN; got {seen}")
    far = float(value.flat[np.abs(value).argmax()])
    return InputError(f"{name} must stay within float32, in which networks compute; got {far}")
