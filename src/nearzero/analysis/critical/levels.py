"""The result of `critical_levels`: intervals of levels for each example, their methods and their file.

The intervals come from `nearzero.analysis.critical.find`. The file is a compressed .npz, as small as possible
without loss: counts have the smallest integer type that holds them, and classes have as many bits as the
greatest class needs. The levels of the changes stay float64, and take nearly all of the file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.analysis.displacement import SIDES
from nearzero.errors import InputError, did_you_mean
from nearzero.perturbations.families import Conduct, make_family
from nearzero.support.arrays import as_array, as_numbers
from nearzero.support.display import Displayed
from nearzero.support.files import atomic
from nearzero.support.words import number_of

__all__ = ["CriticalLevels"]

Doubles = npt.NDArray[np.float64]
Classes = npt.NDArray[np.integer[Any]]
Places = npt.NDArray[np.int64]

FORMAT = "nearzero critical levels 1"
ABOUT = ("family", "low", "high", "grid", "seed", "backend", "precision")


@dataclass(frozen=True, eq=False, repr=False)
class CriticalLevels(Displayed):
    """The intervals of levels with one prediction, for each of N examples.

    An interval reaches from its start to the start of the next one, the last interval to `high`. At the level
    where two intervals meet, the two logits are equal.

    Attributes:
        family: the name of the family.
        low, high: the least and the greatest level.
        identity: the level at which the family changes nothing; None if there is no such level.
        grid: the number of levels in the search; 0 if the intervals are exact.
        conduct, seed: of the family.
        first: (N + 1,), the place in the arrays below where the intervals of each example begin.
        starts: (M,), the levels at which intervals begin, ascending for each example; the first of each is
            `low`.
        classes: (M,), the prediction on each interval.
        unperturbed: (N,), the prediction without perturbation.
        backend: the backend that computed them, "two-layer" or "model".
        precision: the precision in which they were computed.

    Example:
        >>> import nearzero as nz
        >>> network = nz.TwoLayer([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.5], "relu")
        >>> critical = nz.critical_levels(network, [[-2.0], [0.25], [1.0]], family="scale")
        >>> critical
        CriticalLevels(scale, 0.01 to 10, exact: 3 examples, 5 intervals)
        >>> critical.accuracy([0.25, 1.0, 4.0], labels=[1, 1, 1]).round(3).tolist()  # at any levels
        [1.0, 0.667, 0.333]
        >>> critical.first_to_break(1, "above").tolist()
        [1]
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
            f"{number_of(len(self), 'example')}, {number_of(len(self.starts), 'interval')})"
        )

    # --- properties ---

    @property
    def exact(self) -> bool:
        """Return whether the intervals are exact up to rounding. If not, `assumption` says what the search may miss."""
        return not self.grid

    @property
    def assumption(self) -> str:
        """Return a sentence that states the assumption under which the intervals are complete."""
        if self.exact:
            return (
                "None: the logits are piecewise linear in the level, and every interval is found, in "
                f"{self.precision}."
            )
        return (
            f"Predictions were computed on {self.grid:,} levels, and every change from one to the next was "
            f"located in {self.precision}: an interval between two neighbours of that grid may be missing."
        )

    @property
    def sides(self) -> tuple[str, ...]:
        """Return the sides of the identity between low and high: "below", "above", both or none."""
        start = self._start
        if start is None:
            return ()
        covered = {"below": self.low < start, "above": start < self.high}
        return tuple(side for side in SIDES if covered[side])

    @property
    def ends(self) -> Doubles:
        """Return the level at which each interval ends, (M,)."""
        ends = np.append(self.starts[1:], self.high)
        ends[self.first[1:] - 1] = self.high
        return ends

    @property
    def counts(self) -> Places:
        """Return the number of intervals of each example, (N,)."""
        return np.diff(self.first)

    # --- predictions at a level ---

    def predict(self, level: float) -> Classes:
        """Return the predictions at a level, (N,).

        Raises:
            InputError: a level outside low to high.
        """
        self._check_levels(level)
        before = np.add.reduceat(self.starts <= level, self.first[:-1])
        return np.asarray(self.classes[self.first[:-1] + before - 1])

    def curve(self, labels: npt.ArrayLike) -> tuple[Doubles, Doubles]:
        """Return the accuracy as a step function of the level.

        Args:
            labels: (N,), or `unperturbed` for the agreement.

        Returns:
            The levels at which the steps begin, (S,), and the accuracy on each step, (S,).

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
        """Return the share of examples predicted right at each level, (L,), from 0 to 1.

        Args:
            levels: any levels from low to high, (L,), not only those of a grid.
            labels: (N,), or `unperturbed` for the agreement.

        Raises:
            InputError: levels outside low to high, or labels of another shape.
        """
        wanted = np.atleast_1d(as_numbers(levels, "levels")).astype(np.float64)
        self._check_levels(wanted)
        begin, accuracy = self.curve(labels)
        return np.asarray(accuracy[np.searchsorted(begin, wanted, side="right") - 1])

    def _check_levels(self, levels: float | Doubles) -> None:
        wanted = np.atleast_1d(levels)
        outside = wanted[~((wanted >= self.low) & (wanted <= self.high))]
        if outside.size:
            raise InputError(f"levels must lie between {self.low} and {self.high}; got {outside[0]}")

    # --- the first change on a side ---

    def critical(self, side: str) -> Doubles:
        """Return the level at which each prediction first changes on one side of the identity, (N,).

        The value is NaN if the prediction doesn't change between the identity and `low` or `high` (censored).
        The prediction may change back further out. The identity of clip, cap and floor is p = inf. For
        these families the search starts at `high` and goes down, and the value is `high` if the prediction
        differs from the unperturbed one there already.

        Args:
            side: "below" or "above".

        Raises:
            InputError: no identity from low to high, or an unknown side.
        """
        place, identity = self._changes[self._checked(side)], self._identity()
        level = self.starts[place] if side == "above" else self.ends[place]
        level = np.maximum(level, identity) if side == "above" else np.minimum(level, identity)
        return np.where(place >= 0, level, np.nan)

    def successor(self, side: str) -> Classes:
        """Return the class that each prediction first changes to, (N,); its own if it never changes."""
        place = self._changes[self._checked(side)]
        return np.where(place >= 0, self.classes[place], self.unperturbed)

    def changes_back(self, side: str) -> Places:
        """Return how often each prediction returns to the unperturbed one, outwards on a side, (N,)."""
        place = np.repeat(self._changes[self._checked(side)], self.counts)
        interval = np.arange(len(self.starts))
        beyond = (interval > place) if side == "above" else (interval < place)
        back = beyond & (place >= 0) & (self.classes == np.repeat(self.unperturbed, self.counts))
        return np.add.reduceat(back.astype(np.int64), self.first[:-1])

    def censored(self, side: str) -> int:
        """Return the number of examples whose prediction never changes on a side."""
        return int((self._changes[self._checked(side)] < 0).sum())

    def first_to_break(self, n: int, side: str) -> Places:
        """Return the examples whose predictions change nearest to the identity, in this order, (at most n,).

        Examples that never change aren't included. Of examples that change at the same level, the first comes
        first.

        Raises:
            InputError: as `critical`; or an n that isn't a whole number, at least 1.
        """
        if not isinstance(n, int | np.integer) or n < 1:
            raise InputError(f"n must be a whole number, at least 1; got {n!r}")
        distance = np.abs(self.critical(side) - self._identity())
        order = np.argsort(distance, kind="stable")  # NaN last
        return np.asarray(order[: min(n, len(self) - self.censored(side))])

    @cached_property
    def _changes(self) -> dict[str, Places]:
        """Return, by side, the interval of the first different prediction, (N,); -1 if there is none."""
        identity = self._identity()
        interval, first = np.arange(len(self.starts)), self.first[:-1]
        other = self.classes != np.repeat(self.unperturbed, self.counts)
        below = np.maximum.reduceat(np.where(other & (self.starts < identity), interval, -1), first)
        none = len(interval)
        above = np.minimum.reduceat(np.where(other & (self.ends > identity), interval, none), first)
        return {"below": below, "above": np.where(above < none, above, -1)}

    @property
    def _start(self) -> float | None:
        """Return the level between the sides: the identity, `high` if that is infinite, or None."""
        if self.identity is None or np.isinf(self.identity):
            return self.high if self.identity else None
        return self.identity if self.low <= self.identity <= self.high else None

    def _identity(self) -> float:
        if self._start is None:
            raise InputError(f"{self.family} has no identity from {self.low} to {self.high}")
        return self._start

    def _checked(self, side: str) -> str:
        if side not in SIDES:
            hint = did_you_mean(side, SIDES)
            raise InputError(f"unknown side {side!r}: {hint}known are {', '.join(SIDES)}")
        return side

    # --- export and files ---

    def to_dataset(self) -> xr.Dataset:
        """Return the intervals and the first changes as labelled arrays.

        The intervals are on `interval`, as a contiguous ragged array with `count` on `example` (CF
        conventions, 9.3.3). The first changes are on (side, example).
        """
        data: dict[str, Any] = {
            "start": ("interval", self.starts),
            "end": ("interval", self.ends),
            "prediction": ("interval", self.classes),
            "count": ("example", self.counts, {"sample_dimension": "interval"}),
            "unperturbed": ("example", self.unperturbed),
        }
        if self.sides:
            dims = ("side", "example")
            data["critical_level"] = (dims, np.stack([self.critical(side) for side in self.sides]))
            data["successor"] = (dims, np.stack([self.successor(side) for side in self.sides]))
            data["changes_back"] = (dims, np.stack([self.changes_back(side) for side in self.sides]))
        about = {"family": self.family, "low": self.low, "high": self.high, "seed": self.seed}
        about |= {"assumption": self.assumption, "backend": self.backend, **asdict(self.conduct)}
        return xr.Dataset(data, coords={"side": list(self.sides)}, attrs=about)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write everything to a compressed .npz, without loss; classes are packed to the bits they need.

        Raises:
            InputError: the file can't be written.
        """
        about = {name: getattr(self, name) for name in ABOUT} | {"conduct": asdict(self.conduct)}
        classes = {"classes": self.classes, "unperturbed": self.unperturbed}
        bits = {name: max(1, int(values.max()).bit_length()) for name, values in classes.items()}
        header = {"format": FORMAT, "about": about, "bits": bits}
        with atomic(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                allow_pickle=False,
                header=np.frombuffer(json.dumps(header).encode(), np.uint8),
                counts=self.counts.astype(np.min_scalar_type(int(self.counts.max()))),
                changes=self.starts[_inner(self.first)],  # the other intervals begin at `low`
                **{f"{name}_packed": _packed(values, bits[name]) for name, values in classes.items()},
            )
        return Path(path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> CriticalLevels:
        """Return the critical levels in a file that `save` has written.

        Raises:
            InputError: no such file, or a file of another kind.
        """
        try:
            # open the file outside NumPy, which doesn't close files that it can't read
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
        except (InputError, MemoryError):
            raise
        except FileNotFoundError:
            raise InputError(f"there is no file {path}") from None
        except Exception as error:  # damaged files make NumPy raise errors of all kinds
            raise InputError(f"{path} isn't a file of critical levels, or is damaged") from error
        conduct = Conduct(**about.pop("conduct"))
        identity = make_family(about["family"], conduct, about["seed"]).identity
        return cls(
            **about,
            identity=identity,
            conduct=conduct,
            first=first,
            starts=starts,
            classes=classes,
            unperturbed=unperturbed,
        )


def _inner(first: Places) -> npt.NDArray[np.bool_]:
    """Return which intervals begin at a change, (M,): all but the first of each example."""
    inner = np.ones(first[-1], np.bool_)
    inner[first[:-1]] = False
    return inner


def _packed(classes: Classes, bits: int) -> npt.NDArray[np.uint8]:
    return np.packbits((classes[:, None] >> np.arange(bits, dtype=np.uint16)) & 1)


def _unpacked(packed: npt.NDArray[np.uint8], bits: int, count: int) -> Classes:
    dtype: Any = np.uint16 if bits <= 16 else np.uint32
    values = np.unpackbits(packed, count=bits * count).reshape(count, bits).astype(dtype)
    return np.asarray((values << np.arange(bits, dtype=dtype)).sum(axis=1), dtype=dtype)
