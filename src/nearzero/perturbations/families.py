"""Families: what turns a level and the unit ranges into a perturbation.

Here are the paper's three, with its levels, each in the published conduct and in the corrected ones; a
`Conduct` names which. And the controls, which differ from those in one respect each: what a pure shift does,
what gains do that aren't the same for all units, what is left if signs are drawn or units swapped. Noise, which is
drawn for each example, is in `nearzero.perturbations.noise`. How a sweep applies families is in
`nearzero.analysis.sweep`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final, get_args, get_type_hints

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError, did_you_mean
from nearzero.perturbations.activations import activation
from nearzero.perturbations.perturbation import Perturbation, Side
from nearzero.perturbations.ranges import Ranges

__all__ = [
    "BY_FORMULA",
    "FAMILIES",
    "PAPER_FAMILIES",
    "Cap",
    "Clip",
    "Conduct",
    "Family",
    "Gains",
    "Offset",
    "PermutedShift",
    "Scale",
    "Shift",
    "SignedOffset",
    "SignedShift",
    "make_family",
]

OffsetFormula = Literal["as-run", "as-written", "shift"]
ClipThreshold = Literal["min+pr", "pr"]
Levels = npt.NDArray[np.float64]

AS_RUN_FOR = ("relu", "abs")
PAPER_FAMILIES = ("offset", "scale", "clip")
BY_FORMULA = frozenset({"offset", "signed_offset"})  # what `Conduct.offset` is about


# What families are swept over. 100 levels from 0.01 to 10, evenly spaced in the logarithm:
LOG_LEVELS = np.logspace(-2, 1, 100)
# 125 levels: -2 to -0.4 in steps of 0.05, to 0.4 in steps of 0.01, to 1 (included) in steps of 0.05.
# From whole numbers, so that zero is zero and -0.25 is -0.25.
OFFSET_LEVELS = np.array([*range(-200, -40, 5), *range(-40, 40), *range(40, 101, 5)]) / 100
UNIT_LEVELS = np.arange(101) / 100


@dataclass(frozen=True)
class Conduct:
    """Which of several readings of the protocol is followed. The defaults gave the published numbers.

    Attributes:
        offset: "as-run": z (max - p r) / max + p r, which keeps the maximum in place; "as-written": z (1 - p)
            r + p r, the formula of the text, which has no identity level; "shift": z + p r.
        clip: the side that is clipped: "pre", min(z, threshold), which leaves the negative side of Abs alone;
            or "post", min(act(z), threshold).
        clip_threshold: "min+pr" (as run) or "pr" (as written).
        range: the side that min, max and r = max - min are taken on.
    """

    offset: OffsetFormula = "as-run"
    clip: Side = "pre"
    clip_threshold: ClipThreshold = "min+pr"
    range: Side = "post"

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Conduct).items():
            values = get_args(kind)
            if getattr(self, name) not in values:
                raise InputError(f"{name} must be one of {', '.join(values)}; got {getattr(self, name)!r}")

    @classmethod
    def default(cls, activations: Iterable[str]) -> Conduct:
        """The published conduct where it makes sense, for ReLU and Abs; else a shift by the pre-activation range."""
        if all(activation(name).name in AS_RUN_FOR for name in activations):
            return cls()
        return cls(offset="shift", range="pre")

    def check(self, activations: Iterable[str]) -> None:
        """Refuse what has no meaning for one of these activations.

        Raises:
            InputError: "as-run" outside ReLU and Abs.
        """
        unfit = [name for name in activations if activation(name).name not in AS_RUN_FOR]
        if self.offset == "as-run" and unfit:
            raise InputError(
                f"offset=as-run isn't defined for {', '.join(unfit)}: it sets the maximum of the activation against "
                "pre-activations, which have the same scale for relu and abs alone; use offset=shift"
            )


class Family(ABC):
    """A one-parameter family of perturbations.

    Attributes:
        name: how specs, files and the command line call it.
        identity: the level at which nothing changes; None where there is no such level.
        sides: on each side of the identity ("below", "above"), two levels: where the search for a displacement
            begins, the identity or the nearest level to it, and where it ends.
        swept: its `levels`.
        random: whether something is drawn for each unit; then there is a `seed`.
        acts_on: the side that is perturbed.
    """

    name: ClassVar[str]
    identity: ClassVar[float | None] = 0.0
    sides: ClassVar[Mapping[str, tuple[float, float]]]
    swept: ClassVar[Levels]
    random: ClassVar[bool] = False
    acts_on: ClassVar[Side] = "pre"

    @property
    def levels(self) -> Levels:
        """Return the levels it is swept over unless others are given, ascending."""
        return self.swept.copy()

    @abstractmethod
    def _live(self, level: float, ranges: Ranges) -> Perturbation:
        """The perturbation of live units; what it says of dead units is thrown away."""

    def at(self, level: float, ranges: Ranges) -> Perturbation:
        """The perturbation at a level. Dead units are left alone.

        Raises:
            InputError: a level that is neither finite nor the identity.
        """
        if not np.isfinite(level) and level != self.identity:
            raise InputError(
                f"a level of {self.name} must be finite, or its identity {self.identity}; got {level}"
            )
        with np.errstate(divide="ignore", invalid="ignore"):
            live = self._live(level, ranges)
        keep = ranges.live
        return Perturbation(
            scale=np.where(keep, live.scale, 1.0),
            offset=np.where(keep, live.offset, 0.0),
            clip=np.where(keep, live.clip, np.inf),
            side=live.side,
        )


@final
@dataclass(frozen=True)
class Scale(Family):
    """Intensity scale: y = p z."""

    name: ClassVar[str] = "scale"
    identity: ClassVar[float | None] = 1.0
    sides: ClassVar[Mapping[str, tuple[float, float]]] = {"below": (1.0, 0.01), "above": (1.0, 10.0)}
    swept: ClassVar[Levels] = LOG_LEVELS

    def _live(self, level: float, ranges: Ranges) -> Perturbation:
        return Perturbation(scale=np.full(ranges.live.shape, level))


@final
@dataclass(frozen=True)
class Clip(Family):
    """Intensity clip: y = min(x, threshold), with threshold min + p r or p r.

    The identity is p = +inf alone: min + 1 * (max - min) can round to less than max.
    """

    threshold: ClipThreshold = "min+pr"
    side: Side = "pre"
    range: Side = "post"

    def __post_init__(self) -> None:
        Conduct(clip=self.side, clip_threshold=self.threshold, range=self.range)  # refuses unknown words

    name: ClassVar[str] = "clip"
    identity: ClassVar[float | None] = np.inf
    sides: ClassVar[Mapping[str, tuple[float, float]]] = {"below": (1.0, 0.0)}
    swept: ClassVar[Levels] = LOG_LEVELS

    @property
    def acts_on(self) -> Side:  # type: ignore[override]
        """Return the side that is clipped."""
        return self.side

    def _live(self, level: float, ranges: Ranges) -> Perturbation:
        unit = ranges.on(self.range)
        base = unit.minimum if self.threshold == "min+pr" else 0.0
        return Perturbation(clip=base + np.where(unit.width > 0, level * unit.width, np.inf), side=self.side)


@final
@dataclass(frozen=True)
class Offset(Family):
    """Distance offset, by one of three formulas; r = max - min.

    as-run: y = z (max - p r) / max + p r; as-written: y = z (1 - p) r + p r; shift: y = z + p r. With the
    pre-activation range the maximum of an Abs unit can be negative, and as-run then turns its slope around.
    """

    formula: OffsetFormula = "as-run"
    range: Side = "post"

    def __post_init__(self) -> None:
        Conduct(offset=self.formula, range=self.range)  # refuses unknown words

    name: ClassVar[str] = "offset"
    sides: ClassVar[Mapping[str, tuple[float, float]]] = {"below": (0.0, -8.0), "above": (0.0, 1.0)}
    swept: ClassVar[Levels] = OFFSET_LEVELS

    @property
    def identity(self) -> float | None:  # type: ignore[override]
        """0; none for the formula of the text, which at p = 0 scales each unit by its r."""
        return None if self.formula == "as-written" else 0.0

    def _live(self, level: float, ranges: Ranges) -> Perturbation:
        unit = ranges.on(self.range)
        move = level * unit.width
        if self.formula == "shift":
            return Perturbation(offset=move)
        if self.formula == "as-written":
            return Perturbation(scale=(1 - level) * unit.width, offset=move)
        unfit = int((ranges.live & (unit.maximum == 0)).sum())
        if unfit:
            raise InputError(
                f"offset=as-run divides by the maximum, and {unfit} live units have a {self.range}-activation maximum "
                "of 0; use range=post, or offset=shift"
            )
        scale = np.where(ranges.live, (unit.maximum - move) / unit.maximum, 1.0)
        return Perturbation(scale=scale, offset=move)


# --- the controls -------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Shift(Family):
    """Pure boundary shift: y = z + p r, slopes as they were; r = max - min."""

    range: Side = "post"

    name: ClassVar[str] = "shift"
    sides: ClassVar[Mapping[str, tuple[float, float]]] = {"below": (0.0, -8.0), "above": (0.0, 8.0)}
    swept: ClassVar[Levels] = OFFSET_LEVELS

    def _live(self, level: float, ranges: Ranges) -> Perturbation:
        return Perturbation(offset=level * ranges.on(self.range).width)


class _Drawn(Family):
    """A family in which something is drawn for each unit; one draw is one seed, whatever the level."""

    sides: ClassVar[Mapping[str, tuple[float, float]]] = {"above": (0.0, 8.0)}
    swept: ClassVar[Levels] = UNIT_LEVELS
    random: ClassVar[bool] = True
    seed: int

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, *self.name.encode()])

    def _signs(self, ranges: Ranges) -> npt.NDArray[np.float64]:
        return self._generator().choice([-1.0, 1.0], ranges.live.shape)


@final
@dataclass(frozen=True)
class SignedShift(_Drawn):
    """A shift whose sign is drawn for each unit: y = z + p e r, e = -1 or 1."""

    range: Side = "post"
    seed: int = 0

    name: ClassVar[str] = "signed_shift"

    def _live(self, level: float, ranges: Ranges) -> Perturbation:
        return Perturbation(offset=level * self._signs(ranges) * ranges.on(self.range).width)


@final
@dataclass(frozen=True)
class SignedOffset(_Drawn):
    """The offset with a level of drawn sign for each unit: p e in place of p, e = -1 or 1, in any of its formulas."""

    formula: OffsetFormula = "as-run"
    range: Side = "post"
    seed: int = 0

    name: ClassVar[str] = "signed_offset"

    @property
    def identity(self) -> float | None:  # type: ignore[override]
        """As the offset's."""
        return Offset(self.formula, self.range).identity

    def _live(self, level: float, ranges: Ranges) -> Perturbation:
        offset = Offset(self.formula, self.range)
        plus, minus = (offset._live(sign * level, ranges) for sign in (1.0, -1.0))
        up = self._signs(ranges) > 0
        return Perturbation(
            scale=np.where(up, plus.scale, minus.scale), offset=np.where(up, plus.offset, minus.offset)
        )


@final
@dataclass(frozen=True)
class PermutedShift(_Drawn):
    """A shift by the range of another unit: y_u = z_u + p r_q(u), q a permutation of the live units."""

    range: Side = "post"
    seed: int = 0

    name: ClassVar[str] = "permuted_shift"
    sides: ClassVar[Mapping[str, tuple[float, float]]] = {"below": (0.0, -8.0), "above": (0.0, 8.0)}
    swept: ClassVar[Levels] = OFFSET_LEVELS

    def _live(self, level: float, ranges: Ranges) -> Perturbation:
        moves = ranges.on(self.range).width.copy()
        moves[ranges.live] = self._generator().permutation(moves[ranges.live])
        return Perturbation(offset=level * moves)


@final
@dataclass(frozen=True)
class Gains(_Drawn):
    """A gain for each unit, the fair counterpart of scale: y = z exp(p g), g from the standard normal distribution."""

    seed: int = 0

    name: ClassVar[str] = "gains"

    def _live(self, level: float, ranges: Ranges) -> Perturbation:
        return Perturbation(scale=np.exp(level * self._generator().standard_normal(ranges.live.shape)))


@final
@dataclass(frozen=True)
class Cap(Family):
    """Post-activation cap: a' = min(a, min + p r) with the post-activation range, on both sides of Abs alike."""

    name: ClassVar[str] = "cap"
    identity: ClassVar[float | None] = np.inf
    sides: ClassVar[Mapping[str, tuple[float, float]]] = {"below": (1.0, 0.0)}
    swept: ClassVar[Levels] = UNIT_LEVELS
    acts_on: ClassVar[Side] = "post"

    def _live(self, level: float, ranges: Ranges) -> Perturbation:
        return Clip("min+pr", "post", "post")._live(level, ranges)


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
}


def make_family(name: str, conduct: Conduct, seed: int = 0) -> Family:
    """The family called `name`, in the given conduct; `seed` is of what is drawn, if anything is.

    Raises:
        InputError: there is none of that name.
    """
    if name not in FAMILIES:
        hint = did_you_mean(name, FAMILIES)
        raise InputError(f"unknown family {name!r}: {hint}known are {', '.join(FAMILIES)}")
    return FAMILIES[name](conduct, seed)
