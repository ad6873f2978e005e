"""Perturbations as values: y = min(max(scale * x + offset, low), clip) per unit, y = x + factor * values per row.

The first is the paper's perturbation layer, with a lower bound added. The second has a number for each row,
that is for each position of each example. Noise (`nearzero.perturbations.noise`) and replaced activations
(`nearzero.analysis.near_far`) use it. `nearzero.perturbations.families` computes the parameters of a
perturbation from a level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError, check_choice
from nearzero.support.words import number_of

__all__ = ["PARAMETERS", "Addition", "AnyPerturbation", "Perturbation", "Side"]

Side = Literal["pre", "post"]
Float = TypeVar("Float", bound=np.floating)
PARAMETERS = ("scale", "offset", "clip", "low")
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Perturbation:
    """A perturbation y = min(max(scale * x + offset, low), clip), unit by unit.

    Without `low` this is the perturbation layer of arXiv 2411.17932. The default values are the identity:
    every bit of x is kept.

    Attributes:
        scale, offset: one number for all units or an array (U,), kept as float64. The offset has the units of
            x, and so have both bounds.
        clip: the upper bound, in the same form; +inf bounds nothing.
        side: "pre" (the default) if x is the pre-activation z, "post" if x is the activation act(z).
        low: the lower bound, at most `clip`; -inf bounds nothing.

    Raises:
        InputError: a parameter is NaN or infinite (except a clip of +inf and a low of -inf), has more than one
            dimension, or differs in length from the others; low exceeds clip; or the side is unknown.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> perturbation = nz.Perturbation(scale=np.array([2.0, -1.0]), offset=0.5, clip=3.0)
        >>> perturbation(np.array([[1.0, 1.0], [5.0, -2.0]])).tolist()
        [[2.5, -0.5], [3.0, 2.5]]
        >>> nz.Perturbation(low=0.0, clip=1.0)(np.array([-2.0, 0.25, 3.0])).tolist()
        [0.0, 0.25, 1.0]
        >>> nz.Perturbation().is_identity
        True
    """

    scale: npt.NDArray[np.float64] | float = 1.0
    offset: npt.NDArray[np.float64] | float = 0.0
    clip: npt.NDArray[np.float64] | float = np.inf
    side: Side = "pre"
    low: npt.NDArray[np.float64] | float = -np.inf

    def __post_init__(self) -> None:
        lengths = set()
        for name in PARAMETERS:
            value = np.array(getattr(self, name), dtype=np.float64)
            least = -np.inf if name == "low" else -FLOAT32_MAX
            greatest = np.inf if name == "clip" else FLOAT32_MAX
            if value.ndim > 1 or (value.size and not least <= value.min() <= value.max() <= greatest):
                raise _refusal(name, value)
            value.setflags(write=False)
            object.__setattr__(self, name, value)
            lengths |= {value.size} if value.ndim else set()
        if len(lengths) > 1:
            raise InputError(f"{', '.join(PARAMETERS)} must be of one length; got lengths {sorted(lengths)}")
        low, clip = np.broadcast_arrays(self.low, self.clip)
        if (low > clip).any():
            unit = int((low > clip).argmax())
            raise InputError(
                f"low must not exceed clip, the upper bound; got low {low.flat[unit]:g} and clip {clip.flat[unit]:g}"
            )
        check_choice("side", self.side, get_args(Side))

    def __call__(self, x: npt.NDArray[Float]) -> npt.NDArray[Float]:
        """Return y for x, (..., U), computed in the precision of x."""
        scale, offset, clip, low = (np.asarray(getattr(self, name)).astype(x.dtype) for name in PARAMETERS)
        y = np.asarray(scale * x)
        y += offset
        if (low > -np.inf).any():
            np.maximum(y, low, out=y)
        if (clip < np.inf).any():
            np.minimum(y, clip, out=y)
        return y

    def apply(self, x: npt.NDArray[Float], rows: slice) -> npt.NDArray[Float]:
        """Return y for x, (r, U). The result doesn't depend on `rows`, the places of x among all rows."""
        return self(x)

    @property
    def is_identity(self) -> bool:
        """Return True if y = x for every x."""
        unbounded = np.all(self.clip == np.inf) and np.all(self.low == -np.inf)
        return bool(np.all(self.scale == 1) and np.all(self.offset == 0) and unbounded)

    def per_unit(self, units: int) -> npt.NDArray[np.float32]:
        """Return scale, offset, clip and low, (4, units) float32, the form that the engines compute with.

        Raises:
            InputError: a parameter is an array of another length.
        """
        parameters = np.empty((len(PARAMETERS), units), np.float32)
        with np.errstate(over="ignore"):  # a bound beyond float32 becomes infinite, and bounds nothing
            for row, name in zip(parameters, PARAMETERS, strict=True):
                value = np.asarray(getattr(self, name))
                if value.ndim and value.size != units:
                    raise InputError(
                        f"{name} has {number_of(value.size, 'value')}, but the layer has {number_of(units, 'unit')}"
                    )
                row[:] = value
        return parameters

    def then(self, other: Perturbation) -> Perturbation:
        """Return the single perturbation that equals this one followed by `other`.

        With t = s1 x + o1, the second sees a number between b = s2 l1 + o2 and c = s2 c1 + o2 (the other way
        round for s2 < 0; if s2 = 0 it is o2). The result is s2 t + o2 between b and c, each put between l2 and c2.

        Raises:
            InputError: the two act on different sides.
        """
        if self.side != other.side:
            raise InputError(
                f"can't compose a {self.side}-activation with a {other.side}-activation perturbation"
            )
        scale = np.asarray(other.scale)
        with np.errstate(invalid="ignore"):  # 0 * inf, which isn't used
            low, clip = (scale * bound + other.offset for bound in (self.low, self.clip))
        least = np.where(scale > 0, low, np.where(scale < 0, clip, -np.inf))
        greatest = np.where(scale > 0, clip, np.where(scale < 0, low, np.inf))
        return Perturbation(
            scale=scale * self.scale,
            offset=scale * self.offset + other.offset,
            clip=np.minimum(np.maximum(greatest, other.low), other.clip),
            side=self.side,
            low=np.minimum(np.maximum(least, other.low), other.clip),
        )


@dataclass(frozen=True, eq=False)
class Addition:
    """A perturbation y = x + factor * values, which differs between rows, as noise does.

    Attributes:
        values: (R, U) float32, one row for each row of the perturbed examples, in their order.
        factor: the number that the values are multiplied by.
        side: "pre" if x is the pre-activation z, "post" if x is the activation act(z).
    """

    values: npt.NDArray[np.float32]
    factor: float = 1.0
    side: Side = "pre"

    @property
    def is_identity(self) -> bool:
        """Return True if the factor is 0, so that y = x."""
        return self.factor == 0

    def apply(self, x: npt.NDArray[Float], rows: slice) -> npt.NDArray[Float]:
        """Return y for x, (r, U); `rows` says which of the R rows x holds."""
        return np.asarray(x + self.added(rows))

    def added(self, rows: slice = slice(None)) -> npt.NDArray[np.float32]:
        """Return factor * values for the given rows, (r, U) float32."""
        return np.float32(self.factor) * self.values[rows]


AnyPerturbation = Perturbation | Addition


def _refusal(name: str, value: npt.NDArray[np.float64]) -> InputError:
    """Return the error that says what is wrong with the value of a parameter."""
    if value.ndim > 1 or np.isnan(value).any():
        seen = f"shape {value.shape}" if value.ndim > 1 else "NaN"
        return InputError(f"{name} must be a number or an array (units,) without NaN; got {seen}")
    largest = float(value.flat[np.abs(value).argmax()])
    return InputError(f"{name} must stay within float32, in which networks compute; got {largest}")
