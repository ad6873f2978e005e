"""Families: what turns a level and the unit ranges into a perturbation.

Here are the paper's three, with its levels, each in the published conduct and in the corrected ones. A
`Conduct` names which. How a sweep applies them is in `nearzero.sweep`.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, final, get_args

import numpy as np
import numpy.typing as npt

from nearzero.activations import activation
from nearzero.errors import InputError
from nearzero.perturbation import Perturbation, Side
from nearzero.ranges import Ranges

__all__ = ["FAMILIES", "Clip", "Conduct", "Family", "Offset", "Scale", "make_family"]

OffsetFormula = Literal["as-run", "as-written", "shift"]
ClipThreshold = Literal["min+pr", "pr"]
Levels = npt.NDArray[np.float64]

AS_RUN_FOR = ("relu", "abs")


def _log_levels() -> Levels:
    """100 levels from 0.01 to 10, evenly spaced in the logarithm."""
    return np.logspace(-2, 1, 100)


def _offset_levels() -> Levels:
    """125 levels: -2 to -0.4 in steps of 0.05, to 0.4 in steps of 0.01, to 1 (included) in steps of 0.05."""
    # From whole numbers, so that zero is zero and -0.25 is -0.25.
    hundredths = [*range(-200, -40, 5), *range(-40, 40), *range(40, 101, 5)]
    return np.array(hundredths) / 100


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
        known = {"offset": get_args(OffsetFormula), "clip": get_args(Side)}
        known |= {"clip_threshold": get_args(ClipThreshold), "range": get_args(Side)}
        for name, values in known.items():
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
    """

    name: ClassVar[str]
    identity: ClassVar[float | None]

    @property
    @abstractmethod
    def levels(self) -> Levels:
        """The levels it is swept over unless others are given, ascending."""

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

    @property
    def levels(self) -> Levels:
        """The paper's 100, from 0.01 to 10."""
        return _log_levels()

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

    @property
    def levels(self) -> Levels:
        """The paper's 100, from 0.01 to 10."""
        return _log_levels()

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

    @property
    def identity(self) -> float | None:  # type: ignore[override]
        """0; none for the formula of the text, which at p = 0 scales each unit by its r."""
        return None if self.formula == "as-written" else 0.0

    @property
    def levels(self) -> Levels:
        """The paper's 125, from -2 to 1, dense around 0."""
        return _offset_levels()

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


FAMILIES: dict[str, Callable[[Conduct], Family]] = {
    "offset": lambda conduct: Offset(conduct.offset, conduct.range),
    "scale": lambda conduct: Scale(),
    "clip": lambda conduct: Clip(conduct.clip_threshold, conduct.clip, conduct.range),
}


def make_family(name: str, conduct: Conduct) -> Family:
    """The family called `name`, in the given conduct.

    Raises:
        InputError: there is none of that name.
    """
    if name not in FAMILIES:
        close = difflib.get_close_matches(str(name), FAMILIES, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"unknown family {name!r}: {hint}known are {', '.join(FAMILIES)}")
    return FAMILIES[name](conduct)
