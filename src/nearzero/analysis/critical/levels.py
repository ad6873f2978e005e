"""What critical levels are, once found: intervals of levels, and what can be asked of them.

How they're found is in `nearzero.analysis.critical.find`. They're kept in a compressed .npz, as small as it goes
without loss: counts take the smallest whole-number type that holds them, classes as many bits as the greatest needs;
the levels of the changes stay float64, and are nearly all of the file.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.errors import InputError
from nearzero.perturbations.families import Conduct, make_family
from nearzero.support.arrays import as_array, as_numbers
from nearzero.support.files import atomic

__all__ = ["CriticalLevels"]

Doubles = npt.NDArray[np.float64]
Classes = npt.NDArray[np.integer[Any]]
Places = npt.NDArray[np.int64]

SIDES = ("below", "above")
FORMAT = "nearzero critical levels 1"
ABOUT = ("family", "low", "high", "grid", "seed", "backend", "precision")


@dataclass(frozen=True, eq=False, repr=False)
class CriticalLevels:
    """For each of N examples, the intervals of levels with one prediction.

    An interval reaches from its start to the start of the next, the last one to `high`. At the very level where two
    meet their logits are equal.

    Attributes:
        family: its name.
        low, high: the levels looked at.
        identity: the level at which nothing changes; None if there is none.
        grid: how many levels were searched; 0 where the intervals are exact.
        conduct, seed: of the family.
        first: (N + 1,) where each example's intervals begin in the arrays below.
        starts: (M,) levels, ascending within an example, the first of each `low`.
        classes: (M,) the prediction.
        unperturbed: (N,) the prediction without perturbation.
        backend: what computed them, "two-layer" or "model".
        precision: in which they were computed.
    """

    family: str
    low: float
    high: float
    identity: float | None
    grid: int
    conduct: Conduct
    seed: int
    first: Places
    starts: Doubles
    classes: Classes
    unperturbed: Classes
    backend: str = "two-layer"
    precision: str = "float64"

    def __len__(self) -> int:
        return len(self.first) - 1

    def __repr__(self) -> str:
        kind = "exact" if self.exact else f"on a grid of {self.grid:,} levels"
        return (
            f"CriticalLevels({self.family}, {self.low:g} to {self.high:g}, {kind}: "
            f"{len(self):,} examples, {len(self.starts):,} intervals)"
        )

    # --- what they are ---

    @property
    def exact(self) -> bool:
        """Whether the intervals are exact up to the rounding of float64; else `assumption` says what may be missed."""
        return not self.grid

    @property
    def assumption(self) -> str:
        """What the intervals rest on, as a sentence."""
        if self.exact:
            where = f"every interval is found, in {self.precision}"
            return f"None: the logits are piecewise linear in the level, and {where}."
        return (
            f"Predictions were looked at on {self.grid:,} levels, and every change from one to the next was followed "
            f"in {self.precision}: an interval that lies between two neighbours of that grid can have been missed."
        )

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides of the identity that were looked at: "below", "above", both or none."""
        at = self._start
        if at is None:
            return ()
        seen = {"below": self.low < at, "above": at < self.high}
        return tuple(side for side in SIDES if seen[side])

    @property
    def ends(self) -> Doubles:
        """(M,): where each interval ends."""
        ends = np.append(self.starts[1:], self.high)
        ends[self.first[1:] - 1] = self.high
        return ends

    @property
    def counts(self) -> Places:
        """(N,): how many intervals each example has."""
        return np.diff(self.first)

    # --- predictions at a level ---

    def predict(self, level: float) -> Classes:
        """(N,): the predictions at a level.

        Raises:
            InputError: a level that wasn't looked at.
        """
        self._check_levels(level)
        before = np.add.reduceat(self.starts <= level, self.first[:-1])
        return np.asarray(self.classes[self.first[:-1] + before - 1])

    def curve(self, labels: npt.ArrayLike) -> tuple[Doubles, Doubles]:
        """The accuracy as a step function of the level: where its steps begin, (S,), and its value on each, (S,).

        Args:
            labels: (N,), or `unperturbed` for the agreement.

        Raises:
            InputError: labels of another shape.
        """
        given = as_array(labels, "labels")
        if given.shape != (len(self),):
            raise InputError(
                f"labels must have one label per example, shape ({len(self)},); got {given.shape}"
            )
        right = (self.classes == np.repeat(given, self.counts)).astype(np.int64)
        change = np.diff(right, prepend=0)
        change[self.first[:-1]] = right[self.first[:-1]]
        order = np.argsort(self.starts, kind="stable")
        total = np.cumsum(change[order])
        levels = self.starts[order]
        last = np.append(levels[1:] != levels[:-1], True)  # of changes at one level
        return levels[last], total[last] / len(self)

    def accuracy(self, levels: npt.ArrayLike, labels: npt.ArrayLike) -> Doubles:
        """(L,): the share of examples predicted right at each level, 0 to 1; any levels, there is no grid.

        Raises:
            InputError: levels that weren't looked at, or labels of another shape.
        """
        asked = np.atleast_1d(as_numbers(levels, "levels")).astype(np.float64)
        self._check_levels(asked)
        begin, accuracy = self.curve(labels)
        return np.asarray(accuracy[np.searchsorted(begin, asked, side="right") - 1])

    def _check_levels(self, levels: float | Doubles) -> None:
        asked = np.atleast_1d(levels)
        outside = asked[~((asked >= self.low) & (asked <= self.high))]
        if outside.size:
            raise InputError(f"levels from {self.low} to {self.high} were looked at; got {outside[0]}")

    # --- the first change on a side ---

    def critical(self, side: str) -> Doubles:
        """(N,): on one side of the identity ("below", "above"), the level at which the prediction first changes.

        NaN where it never does within the levels looked at (censored). It may change back further out. The identity
        of clip and cap is no clip at all: there one comes down from `high`, which is also what stands where the
        prediction is another already there.

        Raises:
            InputError: the family has no identity among these levels, or another side.
        """
        place, identity = self._changes[self._checked(side)], self._identity()
        level = self.starts[place] if side == "above" else self.ends[place]
        level = np.maximum(level, identity) if side == "above" else np.minimum(level, identity)
        return np.where(place >= 0, level, np.nan)

    def successor(self, side: str) -> Classes:
        """(N,): what the prediction first changes to on a side; what it was where it never does."""
        place = self._changes[self._checked(side)]
        return np.where(place >= 0, self.classes[place], self.unperturbed)

    def changes_back(self, side: str) -> Places:
        """(N,): how often the prediction comes back to what it was, going outwards on a side."""
        place = np.repeat(self._changes[self._checked(side)], self.counts)
        here = np.arange(len(self.starts))
        beyond = (here > place) if side == "above" else (here < place)
        back = beyond & (place >= 0) & (self.classes == np.repeat(self.unperturbed, self.counts))
        return np.add.reduceat(back.astype(np.int64), self.first[:-1])

    def censored(self, side: str) -> int:
        """How many examples never change on a side, within the levels looked at."""
        return int((self._changes[self._checked(side)] < 0).sum())

    def first_to_break(self, n: int, side: str) -> Places:
        """(at most n,): the examples whose prediction changes first, going outwards from the identity; the first first.

        Examples that never change aren't among them. Of examples that change at one level the first comes first.

        Raises:
            InputError: as `critical`; or n isn't a whole number, at least 1.
        """
        if not isinstance(n, int | np.integer) or n < 1:
            raise InputError(f"n must be a whole number, at least 1; got {n!r}")
        distance = np.abs(self.critical(side) - self._identity())
        order = np.argsort(distance, kind="stable")  # NaN last
        return np.asarray(order[: min(n, len(self) - self.censored(side))])

    @cached_property
    def _changes(self) -> dict[str, Places]:
        """On each side, the interval of the first other prediction, (N,); -1 where there is none."""
        identity = self._identity()
        here, first = np.arange(len(self.starts)), self.first[:-1]
        other = self.classes != np.repeat(self.unperturbed, self.counts)
        below = np.maximum.reduceat(np.where(other & (self.starts < identity), here, -1), first)
        beyond = len(here)
        above = np.minimum.reduceat(np.where(other & (self.ends > identity), here, beyond), first)
        return {"below": below, "above": np.where(above < beyond, above, -1)}

    @property
    def _start(self) -> float | None:
        """The level from which one goes outwards: the identity, or `high` where it lies at infinity; None without."""
        if self.identity is None or np.isinf(self.identity):
            return self.high if self.identity else None
        return self.identity if self.low <= self.identity <= self.high else None

    def _identity(self) -> float:
        if self._start is None:
            raise InputError(f"{self.family} has no identity from {self.low} to {self.high}")
        return self._start

    def _checked(self, side: str) -> str:
        if side not in SIDES:
            raise InputError(f"side must be 'below' or 'above'; got {side!r}")
        return side

    # --- elsewhere ---

    def to_dataset(self) -> xr.Dataset:
        """The same as labelled arrays: on `interval` the intervals, a contiguous ragged array with `count` on `example`
        (CF conventions, 9.3.3); on (side, example) the first changes.
        """
        data: dict[str, Any] = {
            "start": ("interval", self.starts),
            "end": ("interval", self.ends),
            "prediction": ("interval", self.classes),
            "count": ("example", self.counts, {"sample_dimension": "interval"}),
            "unperturbed": ("example", self.unperturbed),
        }
        if self.sides:
            beside = ("side", "example")
            data["critical_level"] = (beside, np.stack([self.critical(side) for side in self.sides]))
            data["successor"] = (beside, np.stack([self.successor(side) for side in self.sides]))
            data["changes_back"] = (beside, np.stack([self.changes_back(side) for side in self.sides]))
        about = {"family": self.family, "low": self.low, "high": self.high, "seed": self.seed}
        about |= {"assumption": self.assumption, "backend": self.backend, **asdict(self.conduct)}
        return xr.Dataset(data, coords={"side": list(self.sides)}, attrs=about)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write all of it to a compressed .npz, classes packed to the bits they need; nothing is lost.

        Raises:
            InputError: the file can't be written.
        """
        about = {name: getattr(self, name) for name in ABOUT} | {"conduct": asdict(self.conduct)}
        classes = {"classes": self.classes, "unperturbed": self.unperturbed}
        bits = {name: max(1, int(each.max()).bit_length()) for name, each in classes.items()}
        header = {"format": FORMAT, "about": about, "bits": bits}
        with atomic(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                allow_pickle=False,
                header=np.frombuffer(json.dumps(header).encode(), np.uint8),
                counts=self.counts.astype(np.min_scalar_type(int(self.counts.max()))),
                changes=self.starts[_inner(self.first)],  # the other intervals begin at `low`
                **{f"{name}_packed": _packed(each, bits[name]) for name, each in classes.items()},
            )
        return Path(path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> CriticalLevels:
        """Read what `save` has written.

        Raises:
            InputError: there is no such file, or it holds something else.
        """
        try:
            # opened here, because NumPy doesn't close what it can't read
            with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                header = json.loads(bytes(file["header"]))
                if header["format"] != FORMAT:
                    raise InputError(
                        f"{path} has the format {header['format']!r}; this nearzero reads {FORMAT!r}"
                    )
                about, bits = header["about"], header["bits"]
                first = np.concatenate([[0], np.cumsum(file["counts"].astype(np.int64))])
                starts = np.full(first[-1], about["low"], np.float64)
                starts[_inner(first)] = file["changes"]
                classes = _unpacked(file["classes_packed"], bits["classes"], len(starts))
                unperturbed = _unpacked(file["unperturbed_packed"], bits["unperturbed"], len(first) - 1)
        except InputError:
            raise
        except FileNotFoundError:
            raise InputError(f"there is no file {path}") from None
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
            raise InputError(f"{path} isn't a file of critical levels, or is damaged") from error
        conduct = Conduct(**about.pop("conduct"))
        identity = make_family(about["family"], conduct, about["seed"]).identity
        return cls(
            **about, identity=identity, conduct=conduct, first=first, starts=starts,
            classes=classes, unperturbed=unperturbed,
        )  # fmt: skip


def _inner(first: Places) -> npt.NDArray[np.bool_]:
    """(M,): which intervals aren't the first of their example, so that they begin at a change."""
    inner = np.ones(first[-1], np.bool_)
    inner[first[:-1]] = False
    return inner


def _packed(classes: Classes, bits: int) -> npt.NDArray[np.uint8]:
    return np.packbits((classes[:, None] >> np.arange(bits, dtype=np.uint16)) & 1)


def _unpacked(packed: npt.NDArray[np.uint8], bits: int, count: int) -> Classes:
    kind: Any = np.uint16 if bits <= 16 else np.uint32
    values = np.unpackbits(packed, count=bits * count).reshape(count, bits).astype(kind)
    return np.asarray((values << np.arange(bits, dtype=kind)).sum(axis=1), dtype=kind)
