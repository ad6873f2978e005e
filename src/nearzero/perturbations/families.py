"""Families: rules that turn a level and the unit ranges into a perturbation.

The first three are the paper's (arXiv 2411.17932): offset, scale and clip, with its levels. A `Conduct`
chooses between the published reading of the protocol and the corrected ones. The others are controls, each of
which differs from one of these in a single respect: a shift without a change of slope, gains that differ
between units, signs drawn per unit, ranges exchanged between units, one distance for all units' boundaries,
a cap or a floor on the activation. Noise, which is
drawn for each example, is in `nearzero.perturbations.noise`. `nearzero.analysis.sweep` applies families to
networks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, final, get_args, get_type_hints

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError, check_choice, did_you_mean
from nearzero.perturbations.activations import activation
from nearzero.perturbations.perturbation import Perturbation, Side
from nearzero.perturbations.ranges import Ranges

__all__ = [
    "AT_ACTIVATIONS",
    "BY_FORMULA",
    "BY_WEIGHTS",
    "FAMILIES",
    "PAPER_FAMILIES",
    "Cap",
    "Clip",
    "Conduct",
    "DistanceShift",
    "Family",
    "Floor",
    "Gains",
    "Offset",
    "PermutedShift",
    "Scale",
    "Shift",
    "SignedDistanceShift",
    "SignedOffset",
    "SignedShift",
    "make_family",
]

OffsetFormula = Literal["as-run", "as-written", "shift"]
ClipThreshold = Literal["min+pr", "pr"]
Levels = npt.NDArray[np.float64]

AS_RUN_FOR = ("relu", "abs")  # the activations for which the formula "as-run" has a meaning
PAPER_FAMILIES = ("offset", "scale", "clip")
BY_FORMULA = frozenset({"offset", "signed_offset"})  # the families to which `Conduct.offset` applies
# the families that need the norms of the units' weights
BY_WEIGHTS = frozenset({"distance_shift", "signed_distance_shift"})
AT_ACTIVATIONS = frozenset({"cap", "floor"})  # the families that always act on activations

# The options that families have, with the values of each.
_OPTIONS = {
    "formula": get_args(OffsetFormula),
    "threshold": get_args(ClipThreshold),
    "side": get_args(Side),
    "range": get_args(Side),
}

# 100 levels from 0.01 to 10, evenly spaced in the logarithm.
LOG_LEVELS = np.logspace(-2, 1, 100)
# 125 levels: -2 to -0.4 in steps of 0.05, to 0.4 in steps of 0.01, to 1 (included) in steps of 0.05.
# They are computed from whole numbers, so that 0 and -0.25 are exact.
OFFSET_LEVELS = np.array([*range(-200, -40, 5), *range(-40, 40), *range(40, 101, 5)]) / 100
# 101 levels from 0 to 1, in steps of 0.01.
UNIT_LEVELS = np.arange(101) / 100


@dataclass(frozen=True)
class Conduct:
    """A choice among the readings of the published protocol. The defaults gave the published numbers.

    Attributes:
        offset: the formula of the offset. "as-run": z (max - p r) / max + p r, which keeps the maximum in
            place; "as-written": z (1 - p) r + p r, the formula of the text, which has no identity level;
            "shift": z + p r.
        clip: the side that is clipped. "pre": min(z, threshold), which doesn't limit Abs units at negative z;
            "post": min(act(z), threshold).
        clip_threshold: the threshold of the clip. "min+pr": min + p r, as run; "pr": p r, as written.
        range: the side on which min, max and r = max - min are taken.

    Raises:
        InputError: a value that isn't among these.

    Example:
        >>> import nearzero as nz
        >>> nz.Conduct()
        Conduct(offset='as-run', clip='pre', clip_threshold='min+pr', range='post')
        >>> nz.make_family("clip", nz.Conduct(clip="post"))
        Clip(threshold='min+pr', side='post', range='post')
        >>> nz.Conduct.default(["gelu"])
        Conduct(offset='shift', clip='pre', clip_threshold='min+pr', range='pre')
    """

    offset: OffsetFormula = "as-run"
    clip: Side = "pre"
    clip_threshold: ClipThreshold = "min+pr"
    range: Side = "post"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)

    @classmethod
    def default(cls, activations: Iterable[str]) -> Conduct:
        """Return the published conduct for ReLU and Abs alone, else a shift by the pre-activation range.

        Raises:
            InputError: an unknown activation.
        """
        if all(activation(name).name in AS_RUN_FOR for name in activations):
            return cls()
        return cls(offset="shift", range="pre")

    def check(self, activations: Iterable[str]) -> None:
        """Raise an error if this conduct has no meaning for one of the activations.

        Raises:
            InputError: offset is "as-run" and an activation is neither ReLU nor Abs, or is unknown.
        """
        unfit = [name for name in activations if activation(name).name not in AS_RUN_FOR]
        if self.offset == "as-run" and unfit:
            raise InputError(
                f"offset=as-run isn't defined for {', '.join(unfit)}: it sets the maximum of the activation against "
                "pre-activations, which have the same scale for relu and abs alone; use offset=shift"
            )


_CHOICES = {name: get_args(literal) for name, literal in get_type_hints(Conduct).items()}


class Family(ABC):
    """A one-parameter family of perturbations.

    Attributes:
        name: the name in specs, in files and on the command line.
        identity: the level at which nothing changes; None if there is no such level.
        sides: for each side of the identity ("below", "above"), the two levels between which a displacement
            is searched for: the first is the identity or the level nearest to it.
        swept: the default levels of a sweep, ascending; `levels` returns a copy.
        random: True if a number is drawn for each unit; the family then has a `seed`.
        acts_on: the side that is perturbed.

    Raises:
        InputError: an option (formula, threshold, side, range) has an unknown value.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> z = np.array([[-2.0, -1.0], [4.0, -3.0]])  # two examples, two units; ReLU turns the second into 0
        >>> ranges = nz.Ranges.of(z, nz.activation("relu"))
        >>> family = nz.Shift()
        >>> isinstance(family, nz.Family), family.name, family.identity
        (True, 'shift', 0.0)
        >>> family.at(0.5, ranges)(z).tolist()  # adds 0.5 * 4 to the first unit, nothing to the second
        [[0.0, -1.0], [6.0, -3.0]]
    """

    name: ClassVar[str]
    identity: ClassVar[float | None] = 0.0
    sides: ClassVar[Mapping[str, tuple[float, float]]]
    swept: ClassVar[Levels]
    random: ClassVar[bool] = False
    acts_on: ClassVar[Side] = "pre"

    def __post_init__(self) -> None:
        for name, choices in _OPTIONS.items():
            if hasattr(self, name):
                check_choice(name, getattr(self, name), choices)

    @property
    def levels(self) -> Levels:
        """Return the default levels of a sweep, ascending."""
        return self.swept.copy()

    @abstractmethod
    def for_all_units(self, level: float, ranges: Ranges) -> Perturbation:
        """Return the perturbation at a level, for all units; `at` leaves dead units as they are.

        This is the method that a family of your own has to have.

        Args:
            level: the level, finite or the identity.
            ranges: the ranges of the units; the perturbation has a number for each unit, `(U,)`, or one for all.
        """

    def at(self, level: float, ranges: Ranges) -> Perturbation:
        """Return the perturbation at a level. It leaves dead units as they are.

        Raises:
            InputError: the level is neither finite nor the identity, or the family isn't defined for these
                ranges.
        """
        if not np.isfinite(level) and level != self.identity:
            identity = f" or {self.identity}, its identity" if self.identity == np.inf else ""
            raise InputError(f"a level of {self.name} must be finite{identity}; got {level}")
        with np.errstate(divide="ignore", invalid="ignore"):
            unmasked = self.for_all_units(level, ranges)
        live = ranges.live
        return Perturbation(
            scale=np.where(live, unmasked.scale, 1.0),
            offset=np.where(live, unmasked.offset, 0.0),
            clip=np.where(live, unmasked.clip, np.inf),
            side=unmasked.side,
            low=np.where(live, unmasked.low, -np.inf),
        )


@final
@dataclass(frozen=True)
class Scale(Family):
    """The paper's intensity scale: y = p z.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> z = np.array([[-2.0], [4.0]])
        >>> ranges = nz.Ranges.of(z, nz.activation("relu"))
        >>> nz.Scale().at(0.5, ranges)(z).tolist()
        [[-1.0], [2.0]]
    """

    name: ClassVar[str] = "scale"
    identity: ClassVar[float | None] = 1.0
    sides: ClassVar[Mapping[str, tuple[float, float]]] = {"below": (1.0, 0.01), "above": (1.0, 10.0)}
    swept: ClassVar[Levels] = LOG_LEVELS

    def for_all_units(self, level: float, ranges: Ranges) -> Perturbation:  # noqa: D102 (as in Family)
        return Perturbation(scale=np.full(ranges.live.shape, level))


@final
@dataclass(frozen=True)
class Clip(Family):
    """The paper's intensity clip: y = min(x, threshold).

    The threshold is min + p r or p r, with r = max - min. Only p = +inf is the identity: at p = 1, min + 1 *
    (max - min) can round to less than max.

    Attributes:
        threshold: "min+pr" or "pr".
        side: x is the pre-activation z ("pre") or the activation act(z) ("post").
        range: the side on which min and max are taken.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> z = np.array([[-2.0], [4.0]])
        >>> ranges = nz.Ranges.of(z, nz.activation("relu"))  # from 0 to 4
        >>> nz.Clip().at(0.25, ranges)(z).tolist()
        [[-2.0], [1.0]]
        >>> nz.Clip(range="pre").at(0.25, ranges)(z).tolist()  # from -2 to 4: the threshold is -2 + 0.25 * 6
        [[-2.0], [-0.5]]
    """

    threshold: ClipThreshold = "min+pr"
    side: Side = "pre"
    range: Side = "post"

    name: ClassVar[str] = "clip"
    identity: ClassVar[float | None] = np.inf
    sides: ClassVar[Mapping[str, tuple[float, float]]] = {"below": (1.0, 0.0)}
    swept: ClassVar[Levels] = LOG_LEVELS

    @property
    def acts_on(self) -> Side:  # type: ignore[override]
        """Return the side that is clipped."""
        return self.side

    def for_all_units(self, level: float, ranges: Ranges) -> Perturbation:  # noqa: D102 (as in Family)
        unit = ranges.on(self.range)
        base = unit.minimum if self.threshold == "min+pr" else 0.0
        return Perturbation(clip=base + np.where(unit.width > 0, level * unit.width, np.inf), side=self.side)


@final
@dataclass(frozen=True)
class Offset(Family):
    """The paper's distance offset, by one of three formulas; r = max - min.

    as-run: y = z (max - p r) / max + p r; as-written: y = z (1 - p) r + p r; shift: y = z + p r. With the
    pre-activation range the maximum of an Abs unit can be negative: the slope of as-run then grows with p
    instead of falling.

    Attributes:
        formula: "as-run", "as-written" or "shift".
        range: the side on which min and max are taken.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> z = np.array([[-2.0], [4.0]])
        >>> ranges = nz.Ranges.of(z, nz.activation("relu"))  # from 0 to 4
        >>> nz.Offset().at(0.25, ranges)(z).tolist()  # the slope is 0.75, the maximum stays at 4
        [[-0.5], [4.0]]
        >>> nz.Offset("shift").at(0.25, ranges)(z).tolist()
        [[-1.0], [5.0]]
    """

    formula: OffsetFormula = "as-run"
    range: Side = "post"

    name: ClassVar[str] = "offset"
    sides: ClassVar[Mapping[str, tuple[float, float]]] = {"below": (0.0, -8.0), "above": (0.0, 1.0)}
    swept: ClassVar[Levels] = OFFSET_LEVELS

    @property
    def identity(self) -> float | None:  # type: ignore[override]
        """Return 0, or None for the formula of the text, which at p = 0 scales each unit by its r."""
        return None if self.formula == "as-written" else 0.0

    def for_all_units(self, level: float, ranges: Ranges) -> Perturbation:  # noqa: D102 (as in Family)
        unit = ranges.on(self.range)
        shift = level * unit.width
        if self.formula == "shift":
            return Perturbation(offset=shift)
        if self.formula == "as-written":
            return Perturbation(scale=(1 - level) * unit.width, offset=shift)
        unfit = int((ranges.live & (unit.maximum == 0)).sum())
        if unfit:
            raise InputError(
                f"offset=as-run divides by the maximum, and {unfit} live units have a {self.range}-activation maximum "
                "of 0; use range=post, or offset=shift"
            )
        scale = np.where(ranges.live, (unit.maximum - shift) / unit.maximum, 1.0)
        return Perturbation(scale=scale, offset=shift)


# --- the controls -------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Shift(Family):
    """A shift of the boundary alone: y = z + p r, r = max - min. The control for the slopes of the offset.

    Attributes:
        range: the side on which r is taken.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> z = np.array([[-2.0], [4.0]])
        >>> ranges = nz.Ranges.of(z, nz.activation("relu"))  # r = 4, and 6 before the activation
        >>> nz.Shift().at(-0.5, ranges)(z).tolist()
        [[-4.0], [2.0]]
        >>> nz.Shift(range="pre").at(-0.5, ranges)(z).tolist()
        [[-5.0], [1.0]]
    """

    range: Side = "post"

    name: ClassVar[str] = "shift"
    sides: ClassVar[Mapping[str, tuple[float, float]]] = {"below": (0.0, -8.0), "above": (0.0, 8.0)}
    swept: ClassVar[Levels] = OFFSET_LEVELS

    def for_all_units(self, level: float, ranges: Ranges) -> Perturbation:  # noqa: D102 (as in Family)
        return Perturbation(offset=level * ranges.on(self.range).width)


# A search for levels asks for the same draw many times.
@lru_cache(maxsize=64)
def _signs(seed: int, name: str, units: int) -> npt.NDArray[np.float64]:
    return _generator(seed, name).choice([-1.0, 1.0], units)


@lru_cache(maxsize=64)
def _normal(seed: int, name: str, units: int) -> npt.NDArray[np.float64]:
    return _generator(seed, name).standard_normal(units)


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, *name.encode()])


class _RandomFamily(Family):
    """A family that draws a number for each unit. The draw depends on the seed and not on the level."""

    sides: ClassVar[Mapping[str, tuple[float, float]]] = {"above": (0.0, 8.0)}
    swept: ClassVar[Levels] = UNIT_LEVELS
    random: ClassVar[bool] = True
    seed: int

    def _generator(self) -> np.random.Generator:
        return _generator(self.seed, self.name)

    def _signs(self, ranges: Ranges) -> npt.NDArray[np.float64]:
        return _signs(self.seed, self.name, len(ranges.live))


@final
@dataclass(frozen=True)
class SignedShift(_RandomFamily):
    """A shift whose sign is drawn for each unit: y = z + p e r, e = -1 or 1, r = max - min.

    Attributes:
        range: the side on which r is taken.
        seed: the seed of the signs.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> z = np.array([[-2.0, 1.0], [4.0, -1.0]])
        >>> ranges = nz.Ranges.of(z, nz.activation("relu"))  # r = 4 and 1
        >>> signed = nz.SignedShift(seed=1)
        >>> np.abs(signed.at(0.5, ranges).offset).tolist()  # the sizes are those of nz.Shift
        [2.0, 0.5]
        >>> np.array_equal(signed.at(1.0, ranges).offset, 2 * signed.at(0.5, ranges).offset)  # one draw
        True
    """

    range: Side = "post"
    seed: int = 0

    name: ClassVar[str] = "signed_shift"

    def for_all_units(self, level: float, ranges: Ranges) -> Perturbation:  # noqa: D102 (as in Family)
        return Perturbation(offset=level * self._signs(ranges) * ranges.on(self.range).width)


@final
@dataclass(frozen=True)
class SignedOffset(_RandomFamily):
    """An offset whose level has a sign drawn for each unit: p e in place of p, e = -1 or 1.

    Attributes:
        formula: "as-run", "as-written" or "shift", as in `Offset`.
        range: the side on which min and max are taken.
        seed: the seed of the signs.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> z = np.array([[-2.0, 1.0], [4.0, -1.0]])
        >>> ranges = nz.Ranges.of(z, nz.activation("relu"))  # from 0 to 4 and from 0 to 1
        >>> perturbation = nz.SignedOffset(seed=1).at(0.5, ranges)
        >>> np.abs(perturbation.offset).tolist()
        [2.0, 0.5]
        >>> bool(np.all((perturbation.scale == 0.5) == (perturbation.offset > 0)))  # else the slope is 1.5
        True
    """

    formula: OffsetFormula = "as-run"
    range: Side = "post"
    seed: int = 0

    name: ClassVar[str] = "signed_offset"

    @property
    def identity(self) -> float | None:  # type: ignore[override]
        """Return the identity of the offset with the same formula."""
        return Offset(self.formula, self.range).identity

    def for_all_units(self, level: float, ranges: Ranges) -> Perturbation:  # noqa: D102 (as in Family)
        offset = Offset(self.formula, self.range)
        plus, minus = (offset.for_all_units(sign * level, ranges) for sign in (1.0, -1.0))
        positive = self._signs(ranges) > 0
        return Perturbation(
            scale=np.where(positive, plus.scale, minus.scale),
            offset=np.where(positive, plus.offset, minus.offset),
        )


@final
@dataclass(frozen=True)
class PermutedShift(_RandomFamily):
    """A shift by the range of another unit: y_u = z_u + p r_q(u), q a random permutation of the live units.

    Attributes:
        range: the side on which r = max - min is taken.
        seed: the seed of the permutation.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> z = np.array([[-2.0, 1.0, -1.0], [4.0, -1.0, -3.0]])  # ReLU turns the third unit into 0
        >>> ranges = nz.Ranges.of(z, nz.activation("relu"))  # r = 4, 1 and 0
        >>> offset = nz.PermutedShift(seed=0).at(0.5, ranges).offset
        >>> sorted(offset[:2].tolist()), float(offset[2])  # dead units take no part
        ([0.5, 2.0], 0.0)
    """

    range: Side = "post"
    seed: int = 0

    name: ClassVar[str] = "permuted_shift"
    sides: ClassVar[Mapping[str, tuple[float, float]]] = {"below": (0.0, -8.0), "above": (0.0, 8.0)}
    swept: ClassVar[Levels] = OFFSET_LEVELS

    def for_all_units(self, level: float, ranges: Ranges) -> Perturbation:  # noqa: D102 (as in Family)
        widths = ranges.on(self.range).width.copy()
        widths[ranges.live] = self._generator().permutation(widths[ranges.live])
        return Perturbation(offset=level * widths)


@final
@dataclass(frozen=True)
class Gains(_RandomFamily):
    """A gain drawn for each unit: y = z exp(p g), g from the standard normal distribution.

    It is the control for scale: it changes intensities as scale does, but not those of all units alike.

    Attributes:
        seed: the seed of the gains.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> ranges = nz.Ranges.of(np.array([[-2.0, 1.0], [4.0, -1.0]]), nz.activation("relu"))
        >>> half, whole = (nz.Gains(seed=0).at(level, ranges).scale for level in (0.5, 1.0))
        >>> half.shape, bool(np.all(half > 0))
        ((2,), True)
        >>> np.allclose(whole, half**2)  # exp(p g), with the same g at each level
        True
    """

    seed: int = 0

    name: ClassVar[str] = "gains"

    def for_all_units(self, level: float, ranges: Ranges) -> Perturbation:  # noqa: D102 (as in Family)
        return Perturbation(scale=np.exp(level * _normal(self.seed, self.name, len(ranges.live))))


@final
@dataclass(frozen=True)
class Cap(Family):
    """A cap on the activation: a' = min(a, min + p r), with the post-activation range; r = max - min.

    The control for the published clip, which acts on z: the cap limits Abs units at positive and negative z
    alike.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> act = nz.activation("abs")
        >>> z = np.array([[-4.0], [0.0], [2.0]])
        >>> ranges = nz.Ranges.of(z, act)  # from 0 to 4
        >>> nz.Cap().at(0.25, ranges)(act(z)).tolist()
        [[1.0], [0.0], [1.0]]
    """

    name: ClassVar[str] = "cap"
    identity: ClassVar[float | None] = np.inf
    sides: ClassVar[Mapping[str, tuple[float, float]]] = {"below": (1.0, 0.0)}
    swept: ClassVar[Levels] = UNIT_LEVELS
    acts_on: ClassVar[Side] = "post"

    def for_all_units(self, level: float, ranges: Ranges) -> Perturbation:  # noqa: D102 (as in Family)
        return Clip("min+pr", "post", "post").for_all_units(level, ranges)


@final
@dataclass(frozen=True)
class Floor(Family):
    """A floor under the activation: a' = max(a, max - p r), with the post-activation range; r = max - min.

    The mirror of the cap: it raises small activations, as the cap lowers large ones. Only p = +inf is the
    identity: at p = 1, max - 1 * (max - min) can round to more than min.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> act = nz.activation("abs")
        >>> z = np.array([[-4.0], [0.0], [2.0]])
        >>> ranges = nz.Ranges.of(z, act)  # from 0 to 4
        >>> nz.Floor().at(0.25, ranges)(act(z)).tolist()
        [[4.0], [3.0], [3.0]]
    """

    name: ClassVar[str] = "floor"
    identity: ClassVar[float | None] = np.inf
    sides: ClassVar[Mapping[str, tuple[float, float]]] = {"below": (1.0, 0.0)}
    swept: ClassVar[Levels] = UNIT_LEVELS
    acts_on: ClassVar[Side] = "post"

    def for_all_units(self, level: float, ranges: Ranges) -> Perturbation:  # noqa: D102 (as in Family)
        unit = ranges.post
        return Perturbation(
            low=unit.maximum - np.where(unit.width > 0, level * unit.width, np.inf), side="post"
        )


@final
@dataclass(frozen=True)
class DistanceShift(Family):
    """A shift of all boundaries by one distance in the space of x: y = z + p R ||w_u||, for z_u = w_u x + b_u.

    The boundary of each live unit, w_u x + b_u = 0, moves by p R. R is the root mean square over live units of
    r_u / ||w_u||, by p times which `Shift` moves them; r = max - min. So a level
    has about the same size in both. x are the inputs of the linear layer that gives z: those of the network in
    two-layer networks, a patch in convolutions. The family isn't defined where the weights aren't known.

    Attributes:
        range: the side on which r is taken.

    Example:
        >>> import nearzero as nz
        >>> network = nz.TwoLayer([[3.0, 4.0], [0.0, 1.0]], [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
        >>> ranges = nz.unit_ranges(network, [[0.0, 0.0], [0.0, 1.0]])  # r = 4 and 1, ||w|| = 5 and 1
        >>> round(ranges.reference_distance("post") ** 2, 6)  # (0.8^2 + 1^2) / 2
        0.82
        >>> offset = nz.DistanceShift().at(0.5, ranges).offset
        >>> (offset / ranges.norms).round(3).tolist()  # how far the boundaries move: sqrt(0.82) / 2
        [0.453, 0.453]
    """

    range: Side = "post"

    name: ClassVar[str] = "distance_shift"
    sides: ClassVar[Mapping[str, tuple[float, float]]] = Shift.sides
    swept: ClassVar[Levels] = OFFSET_LEVELS

    def for_all_units(self, level: float, ranges: Ranges) -> Perturbation:  # noqa: D102 (as in Family)
        distance = level * ranges.reference_distance(self.range)
        return Perturbation(offset=distance * np.asarray(ranges.norms))


@final
@dataclass(frozen=True)
class SignedDistanceShift(_RandomFamily):
    """A shift of all boundaries by one distance, whose sign is drawn for each unit: y = z + p e R ||w_u||.

    e = -1 or 1; R and the space of distances are those of `DistanceShift`.

    Attributes:
        range: the side on which the ranges in R are taken.
        seed: the seed of the signs.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> network = nz.TwoLayer([[3.0, 4.0], [0.0, 1.0]], [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
        >>> ranges = nz.unit_ranges(network, [[0.0, 0.0], [0.0, 1.0]])
        >>> common, signed = nz.DistanceShift().at(0.5, ranges), nz.SignedDistanceShift(seed=1).at(0.5, ranges)
        >>> np.array_equal(np.abs(signed.offset), common.offset)
        True
    """

    range: Side = "post"
    seed: int = 0

    name: ClassVar[str] = "signed_distance_shift"

    def for_all_units(self, level: float, ranges: Ranges) -> Perturbation:  # noqa: D102 (as in Family)
        common = DistanceShift(self.range).for_all_units(level, ranges)
        return Perturbation(offset=self._signs(ranges) * common.offset)


# Each family by its name, made from a conduct and a seed.
FAMILIES: dict[str, Callable[[Conduct, int], Family]] = {
    "offset": lambda conduct, seed: Offset(conduct.offset, conduct.range),
    "scale": lambda conduct, seed: Scale(),
    "clip": lambda conduct, seed: Clip(conduct.clip_threshold, conduct.clip, conduct.range),
    "shift": lambda conduct, seed: Shift(conduct.range),
    "signed_shift": lambda conduct, seed: SignedShift(conduct.range, seed),
    "signed_offset": lambda conduct, seed: SignedOffset(conduct.offset, conduct.range, seed),
    "permuted_shift": lambda conduct, seed: PermutedShift(conduct.range, seed),
    "gains": lambda conduct, seed: Gains(seed),
    "cap": lambda conduct, seed: Cap(),
    "floor": lambda conduct, seed: Floor(),
    "distance_shift": lambda conduct, seed: DistanceShift(conduct.range),
    "signed_distance_shift": lambda conduct, seed: SignedDistanceShift(conduct.range, seed),
}


def make_family(name: str, conduct: Conduct, seed: int = 0) -> Family:
    """Return the family called `name`, one of the keys of `FAMILIES`.

    Args:
        name: the name of the family.
        conduct: the reading of the protocol that the family follows.
        seed: the seed of a random family; the others ignore it.

    Raises:
        InputError: no family has that name.

    Example:
        >>> import nearzero as nz
        >>> nz.make_family("offset", nz.Conduct(offset="shift"))
        Offset(formula='shift', range='post')
        >>> nz.make_family("signed_shift", nz.Conduct(), seed=3)
        SignedShift(range='post', seed=3)
    """
    try:
        make = FAMILIES[name]
    except (KeyError, TypeError):
        hint = did_you_mean(name, FAMILIES)
        raise InputError(f"unknown family {name!r}: {hint}known are {', '.join(FAMILIES)}") from None
    return make(conduct, seed)
