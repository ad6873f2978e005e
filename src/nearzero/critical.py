"""Critical levels: for each example, every interval of levels on which the prediction stays the same.

Where the activation is piecewise linear (ReLU, Abs, leaky ReLU), the logits are piecewise linear in the level of
each of the paper's families, and the intervals are exact, in float64. For other activations they're found on a
grid and refined by bisection, which misses an interval that lies between two neighbours of the grid.

From the intervals comes the accuracy at any level, without a grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nearzero.activations import Activation
from nearzero.arrays import as_numbers
from nearzero.errors import InputError
from nearzero.families import BY_FORMULA, Clip, Conduct, Family, Scale, make_family
from nearzero.hidden import HiddenLayer
from nearzero.kernels.critical import walk
from nearzero.networks import TwoLayer, as_network
from nearzero.perturbation import Perturbation
from nearzero.pixels import Pixels
from nearzero.ranges import Ranges
from nearzero.threads import parallel, thread_count

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CriticalLevels", "critical_levels"]

Doubles = npt.NDArray[np.float64]
Pieces = tuple[Doubles, Doubles, Doubles]

DECLARED = {"scale": (0.01, 10.0), "clip": (0.0, 1.0), "offset": (-2.0, 1.0)}
SLOPES = {"relu": (0.0, 1.0), "abs": (-1.0, 1.0), "leaky_relu": (0.01, 1.0)}  # of act below and above zero
ROWS = 512  # examples at a time
ROOM = 16  # intervals an example, to begin with
GRID = 1001
HALVINGS = 40


@dataclass(frozen=True, eq=False)
class CriticalLevels:
    """For each of N examples, the intervals of levels with one prediction.

    An interval reaches from its start to the start of the next, the last one to `high`; 10 bytes each.

    Attributes:
        family: its name.
        low, high: the levels looked at.
        identity: the level at which nothing changes; None if there is none.
        exact: whether they are exact, or found on a grid and by bisection.
        first: (N + 1,) where each example's intervals begin in the arrays below.
        starts: (M,) levels, ascending within an example, the first of each `low`.
        classes: (M,) the prediction.
        unperturbed: (N,) the prediction without perturbation, in float64.
    """

    family: str
    low: float
    high: float
    identity: float | None
    exact: bool
    first: npt.NDArray[np.int64]
    starts: Doubles
    classes: npt.NDArray[np.uint16]
    unperturbed: npt.NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.first) - 1

    def predict(self, level: float) -> npt.NDArray[np.uint16]:
        """(N,): the predictions at a level.

        Raises:
            InputError: a level that wasn't looked at.
        """
        if not self.low <= level <= self.high:
            raise InputError(f"levels from {self.low} to {self.high} were looked at; got {level}")
        before = np.add.reduceat(self.starts <= level, self.first[:-1])
        return np.asarray(self.classes[self.first[:-1] + before - 1])

    def accuracy(self, levels: npt.ArrayLike, labels: npt.NDArray[np.integer]) -> Doubles:
        """(L,): the share of examples predicted right at each level, 0 to 1."""
        grid = np.atleast_1d(as_numbers(levels, "levels")).astype(np.float64)
        return np.array([np.mean(self.predict(level) == labels) for level in grid])

    def critical(self, side: str) -> Doubles:
        """(N,): on one side of the identity ("below", "above"), the level at which the prediction first changes.

        NaN where it never does within the levels looked at (censored). It may change back further out.

        Raises:
            InputError: the family has no identity among these levels, or another side.
        """
        if side not in ("below", "above"):
            raise InputError(f"side must be 'below' or 'above'; got {side!r}")
        # clip has its identity at +inf, beyond the highest threshold
        identity = min(self.identity, self.high) if self.identity is not None else np.nan
        if not self.low <= identity <= self.high:
            raise InputError(f"{self.family} has no identity from {self.low} to {self.high}")
        ends = np.append(self.starts[1:], self.high)
        ends[self.first[1:] - 1] = self.high
        other = self.classes != np.repeat(self.unperturbed, np.diff(self.first))
        missing = np.inf if side == "above" else -np.inf
        if side == "above":
            level = np.where(other & (ends > identity), np.maximum(self.starts, identity), missing)
            found = np.minimum.reduceat(level, self.first[:-1])
        else:
            level = np.where(other & (self.starts < identity), np.minimum(ends, identity), missing)
            found = np.maximum.reduceat(level, self.first[:-1])
        return np.where(np.isfinite(found), found, np.nan)


def critical_levels(
    network: TwoLayer | nn.Module,
    x: Pixels | npt.ArrayLike,
    *,
    family: str = "offset",
    ranges: Ranges | None = None,
    conduct: Conduct | None = None,
    low: float | None = None,
    high: float | None = None,
    threads: int | None = None,
) -> CriticalLevels:
    """Every interval of levels on which an example's prediction stays the same.

    Args:
        network: a `TwoLayer`, or a PyTorch module Linear, activation, Linear.
        x: the examples, (N, D).
        family: "offset", "scale" or "clip".
        ranges: the unit ranges the levels refer to; taken over x unless given.
        conduct: which reading of the protocol; `Conduct.default` of the activation unless given.
        low, high: the levels looked at; the family's declared range unless given: scale 0.01 to 10, clip 0 to 1,
            offset -2 to 1.
        threads: how many to use; all unless given. The results don't depend on it.

    Raises:
        InputError: as `nz.sweep`; or low and high that aren't finite and in order, or for scale not positive.
    """
    network = as_network(network)
    conduct = conduct or Conduct.default([network.activation])
    made = make_family(family, conduct)
    if family in BY_FORMULA:
        conduct.check([network.activation])
    begin, end = DECLARED[family]
    begin, end = (begin if low is None else float(low)), (end if high is None else float(high))
    if not (np.isfinite([begin, end]).all() and begin < end) or (family == "scale" and begin <= 0):
        raise InputError(
            f"levels must be finite and ascending, for scale positive; got low {begin} and high {end}"
        )
    hidden = HiddenLayer(network, x, threads=threads)
    ranges = ranges or hidden.ranges
    exact = network.activation in SLOPES
    find = _by_pieces if exact else _by_bisection
    blocks = [slice(first, first + ROWS) for first in range(0, len(hidden), ROWS)]
    found: list[tuple[npt.NDArray[np.int64], Doubles, npt.NDArray[np.uint16]]] = [None] * len(blocks)  # type: ignore[list-item]
    unperturbed = np.empty(len(hidden), np.uint16)

    def work(index: int) -> None:
        z = hidden.exact(blocks[index])
        found[index] = find(network, z, made, ranges, begin, end)
        unperturbed[blocks[index]] = _logits(network, network.act(z)).argmax(axis=1)

    parallel(work, range(len(blocks)), thread_count(threads))
    counts, starts, classes = (np.concatenate(each) for each in zip(*found, strict=True))
    return CriticalLevels(
        family, begin, end, made.identity, exact,
        np.concatenate([[0], np.cumsum(counts)]), starts, classes, unperturbed,
    )  # fmt: skip


def _logits(network: TwoLayer, activations: npt.NDArray[np.floating]) -> Doubles:
    """W2 a + b2 in float64, (..., K)."""
    return np.asarray(activations @ network.w2.T.astype(np.float64) + network.b2)


# --- exactly, for piecewise linear activations --------------------------------------------------------------


def _by_pieces(
    network: TwoLayer, z: Doubles, family: Family, ranges: Ranges, low: float, high: float
) -> tuple[npt.NDArray[np.int64], Doubles, npt.NDArray[np.uint16]]:
    """How many intervals each example has, where they begin, and their classes."""
    slopes = SLOPES[network.activation]
    if isinstance(family, Clip):
        base, rise = _thresholds(family, ranges)
        starts, rises, values = (_clipped_after if family.side == "post" else _clipped_before)(
            z, network.act, base, rise, slopes
        )
    else:
        begin, step = _line(z, family, ranges)
        starts, rises, values = _bent(begin, step, slopes)
    w2, b2 = network.w2.astype(np.float64), network.b2.astype(np.float64)
    counts = np.empty(len(z), np.int64)
    room = ROOM * len(z)
    while True:
        levels, classes = np.empty(room), np.empty(room, np.uint16)
        total = walk(starts, rises, values, w2, b2, low, high, counts, levels, classes)
        if total <= room:
            return _merged(counts, levels[:total], classes[:total])
        room = total


def _merged(
    counts: npt.NDArray[np.int64], starts: Doubles, classes: npt.NDArray[np.uint16]
) -> tuple[npt.NDArray[np.int64], Doubles, npt.NDArray[np.uint16]]:
    """Without intervals of the class before them: where two lines touch, rounding can leave one."""
    first = np.cumsum(counts) - counts
    new = np.append(True, classes[1:] != classes[:-1])
    new[first] = True
    return np.add.reduceat(new, first), starts[new], classes[new]


def _line(z: Doubles, family: Family, ranges: Ranges) -> tuple[Doubles, Doubles]:
    """begin + step * p, (n, U) each: what scale and offset make of z at level p; both are affine in it."""
    zero, one = (family.at(level, ranges) for level in (0.0, 1.0))
    begin = z * zero.scale + zero.offset
    return begin, z * (np.asarray(one.scale) - zero.scale) + (np.asarray(one.offset) - zero.offset)


def _thresholds(family: Clip, ranges: Ranges) -> tuple[Doubles, Doubles]:
    """base + rise * p, (U,) each: the clip at level p; infinite for dead units."""
    base, one = (np.asarray(family.at(level, ranges).clip) for level in (0.0, 1.0))
    return base, np.where(np.isfinite(base), one - np.where(np.isfinite(base), base, 0.0), 0.0)


def _bent(begin: Doubles, step: Doubles, slopes: tuple[float, float]) -> Pieces:
    """act(begin + step * p) in two pieces, bent where it passes zero: starts, slopes, intercepts, (n, U, 2)."""
    below, above = slopes
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = np.where(step != 0, -begin / step, np.inf)
    first = np.where(step != 0, np.where(step > 0, below, above), np.where(begin > 0, above, below))
    second = np.where(step > 0, above, below)
    starts = np.stack([np.full_like(zero, -np.inf), zero], axis=-1)
    gains = np.stack([first, second], axis=-1)
    return starts, gains * step[..., None], gains * begin[..., None]


def _clipped_before(
    z: Doubles, act: Activation, base: Doubles, rise: Doubles, slopes: tuple[float, float]
) -> Pieces:
    """act(min(z, base + rise * p)) in three pieces: the threshold below and above zero, then z itself."""
    below, above = slopes
    with np.errstate(divide="ignore", invalid="ignore"):
        free = np.where(np.isfinite(base), (z - base) / rise, -np.inf)
        zero = np.broadcast_to(np.where(np.isfinite(base), -base / rise, -np.inf), z.shape)
    # where the threshold passes z while it's still negative, its second piece has no length
    starts = np.stack([np.full_like(z, -np.inf), np.minimum(zero, free), free], axis=-1)
    line = np.where(np.isfinite(base), base, 0.0) + 0.0 * z
    rises, nothing = rise + 0.0 * z, np.zeros_like(z)
    return (
        starts,
        np.stack([below * rises, above * rises, nothing], axis=-1),
        np.stack([below * line, above * line, act(z)], axis=-1),
    )


def _clipped_after(
    z: Doubles, act: Activation, base: Doubles, rise: Doubles, slopes: tuple[float, float]
) -> Pieces:
    """min(act(z), base + rise * p) in two pieces: the threshold, then act(z) itself."""
    a = np.asarray(act(z))
    with np.errstate(divide="ignore", invalid="ignore"):
        free = np.where(np.isfinite(base), (a - base) / rise, -np.inf)
    line = np.where(np.isfinite(base), base, 0.0) + 0.0 * z
    return (
        np.stack([np.full_like(z, -np.inf), free], axis=-1),
        np.stack([rise + 0.0 * z, np.zeros_like(z)], axis=-1),
        np.stack([line, a], axis=-1),
    )


# --- by bisection, for all others ---------------------------------------------------------------------------


def _by_bisection(
    network: TwoLayer, z: Doubles, family: Family, ranges: Ranges, low: float, high: float
) -> tuple[npt.NDArray[np.int64], Doubles, npt.NDArray[np.uint16]]:
    """The same where nothing is linear: between neighbours of a grid, one change at most is assumed."""
    spaced = np.geomspace if isinstance(family, Scale) else np.linspace
    own = family.levels
    grid = np.union1d(spaced(low, high, GRID), own[(own > low) & (own < high)])

    def predict(level: float) -> npt.NDArray[np.intp]:
        perturbed = family.at(level, ranges)
        values = (
            network.act(perturbed(z)) if perturbed.side == "pre" else perturbed(np.asarray(network.act(z)))
        )
        return np.asarray(_logits(network, values).argmax(axis=1))

    table = np.stack([predict(level) for level in grid])
    place, example = np.nonzero(table[1:] != table[:-1])
    left, right = grid[place], grid[place + 1]
    before = table[place, example]
    zero, one = (family.at(level, ranges) for level in (0.0, 1.0))
    for _ in range(HALVINGS):
        middle = (left + right) / 2
        same = _predict_each(network, z[example], zero, one, middle) == before
        left, right = np.where(same, middle, left), np.where(same, right, middle)
    starts = np.concatenate([np.full(len(z), low), right])
    classes = np.concatenate([table[0], table[place + 1, example]]).astype(np.uint16)
    owners = np.concatenate([np.arange(len(z)), example])
    order = np.lexsort((starts, owners))
    return np.bincount(owners, minlength=len(z)), starts[order], classes[order]


def _predict_each(
    network: TwoLayer, z: Doubles, zero: Perturbation, one: Perturbation, levels: Doubles
) -> npt.NDArray[np.intp]:
    """(n,): the prediction of each example at a level of its own, the family's parameters being affine in it."""
    p = levels[:, None]
    scale, offset = (
        np.asarray(getattr(zero, name)) * (1 - p) + np.asarray(getattr(one, name)) * p
        for name in ("scale", "offset")
    )
    first, second = np.asarray(zero.clip), np.asarray(one.clip)
    clip = np.where(np.isfinite(first), first, 0.0) * (1 - p) + np.where(np.isfinite(second), second, 0.0) * p
    clip = np.where(np.isfinite(first), clip, np.inf)
    x = z if zero.side == "pre" else np.asarray(network.act(z))
    y = np.minimum(scale * x + offset, clip)
    return np.asarray(_logits(network, network.act(y) if zero.side == "pre" else y).argmax(axis=1))
