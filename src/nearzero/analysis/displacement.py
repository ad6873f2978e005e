"""The size of a perturbation, d, and levels matched to a size: what makes families comparable.

d = sqrt(sum ||a' - a||^2 / sum ||a||^2), sums over examples and live units, a = act(z), a' the perturbed
activations. At equal levels the families move activations by different amounts; at equal d they don't, and
what is left is in which direction they move them. How a network responds at matched levels is in
`nearzero.analysis.matched`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.perturbations.families import Family
from nearzero.perturbations.perturbation import Addition, AnyPerturbation, Perturbation
from nearzero.perturbations.ranges import Ranges

if TYPE_CHECKING:
    from nearzero.evaluators.base import LayerEvaluator

__all__ = ["TARGETS", "Displacements", "Match", "Whitening", "displacement", "match"]

Doubles = npt.NDArray[np.float64]
TARGETS = (0.05, 0.1, 0.2, 0.3, 0.5)
Size = Callable[[npt.ArrayLike], npt.NDArray[np.floating]]  # from levels to sizes
STEPS = 40  # of the search for a bracket, from the identity outwards
AT_ONCE = (7, 13, 21, STEPS + 1)  # sizes known after each part of the search
TOLERANCE = 1e-4  # relative, of the displacement at a matched level


def displacement(
    activations: npt.ArrayLike, changed: npt.ArrayLike, live: npt.NDArray[np.bool_] | None = None
) -> float:
    """d = sqrt(sum ||a' - a||^2 / sum ||a||^2), sums over examples and live units.

    Args:
        activations, changed: a and a', (N, U).
        live: (U,), which units count; all unless given.

    Returns:
        A number without a unit; NaN where a is 0 everywhere.

    Raises:
        InputError: two arrays of different shapes.
    """
    a, b = (np.asarray(each, dtype=np.float64) for each in (activations, changed))
    if a.ndim != 2 or a.shape != b.shape:
        raise InputError(
            f"a displacement is between two arrays (examples, units) of one shape; got {a.shape} and {b.shape}"
        )
    if live is not None:
        a, b = a[:, live], b[:, live]
    energy = float(np.square(a).sum())
    return float(np.sqrt(np.square(b - a).sum() / energy)) if energy > 0 else float("nan")


@dataclass(frozen=True, eq=False)
class Whitening:
    """A measure of change in which directions that vary much count for little.

    d = sqrt(sum (a' - a)' C^-1 (a' - a) / sum (a - m)' C^-1 (a - m)), with m the mean of the activations over rows and
    C their covariance by Ledoit and Wolf (2004), which is never singular. Both are those of the reference.

    Attributes:
        live: (U,) the units that count, V of them.
        root: (V, V) float32, with C^-1 = root root'.
        energy: the mean over rows of (a - m)' C^-1 (a - m).
    """

    live: npt.NDArray[np.bool_]
    root: npt.NDArray[np.float32]
    energy: float

    @classmethod
    def of(cls, activations: npt.NDArray[np.floating], live: npt.NDArray[np.bool_]) -> Whitening:
        """Return the measure from activations of the reference, (R, U)."""
        from scipy.linalg import solve_triangular
        from sklearn.covariance import ledoit_wolf

        a = activations[:, live].astype(np.float64)
        covariance, _ = ledoit_wolf(a)
        lower = np.linalg.cholesky(covariance)
        root = solve_triangular(lower, np.eye(len(lower)), lower=True).T
        a -= a.mean(axis=0)
        return cls(live, root.astype(np.float32), float(np.square(a @ root).sum()) / len(a))

    def squares(self, change: npt.NDArray[np.floating]) -> float:
        """Return the sum over rows of (a' - a)' C^-1 (a' - a), from changes a' - a, (r, U)."""
        whitened = (change if self.live.all() else change[:, self.live]) @ self.root
        return float(np.vdot(whitened, whitened))


@dataclass(frozen=True)
class Match:
    """A level at which a family has a displacement.

    Attributes:
        level: the nearest to the identity on its side; NaN if the displacement isn't reached.
        displacement: at that level, measured; NaN likewise.
    """

    level: float
    displacement: float

    @property
    def reached(self) -> bool:
        """Whether there is such a level within the family's side."""
        return bool(np.isfinite(self.level))


def match(size: Size, begin: float, end: float, targets: Sequence[float]) -> list[Match]:
    """For each target, the level nearest to `begin` at which a continuous size first comes up to it.

    The first of 40 steps at which the size is at least the target (they widen with the distance from
    `begin`), then Brent's method between that and the step before. A size that rises beyond the target and falls back
    within one step isn't seen.

    Args:
        size: from levels to sizes, d(p).
        begin, end: where the search begins, the identity, and where it ends.
        targets: the sizes, positive.

    Raises:
        InputError: targets that aren't positive and finite.
    """
    if not all(np.isfinite(each) and each > 0 for each in targets):
        raise InputError(f"displacements must be positive numbers, 0.1 for 10 %; got {list(targets)}")
    levels = begin + (end - begin) * (np.arange(STEPS + 1) / STEPS) ** 2
    sizes = np.empty(0)
    for upto in AT_ONCE:  # most targets lie near the identity; what lies beyond the greatest isn't needed
        sizes = np.append(sizes, np.asarray(size(levels[len(sizes) : upto]), dtype=np.float64))
        if (sizes >= max(targets, default=0.0)).any():
            break
    return [_refined(size, levels[: len(sizes)], sizes, target) for target in targets]


def _refined(size: Size, levels: Doubles, sizes: Doubles, target: float) -> Match:
    from scipy import optimize  # a quarter of a second that not every command needs

    beyond = np.flatnonzero(sizes >= target)
    if not beyond.size or beyond[0] == 0:  # never, or the side begins with a leap
        return Match(float("nan"), float("nan"))
    step = int(beyond[0])
    known = {float(level): float(found) for level, found in zip(levels, sizes, strict=True)}

    def beyond_target(level: float) -> float:
        if level not in known:
            known[level] = float(size([level])[0])
        return 0.0 if abs(known[level] - target) <= TOLERANCE * target else known[level] - target

    level = optimize.brentq(beyond_target, levels[step - 1], levels[step], xtol=1e-14, rtol=1e-14)
    return Match(float(level), known[float(level)])


class Displacements:
    """How far perturbations move the activations of a layer.

    Args:
        evaluator: the layer on the examples that count.
        ranges: of its units; dead ones don't count.

    Raises:
        InputError: activations that are 0 everywhere, which can't be displaced by a share of themselves.
    """

    def __init__(self, evaluator: LayerEvaluator, ranges: Ranges) -> None:
        self.evaluator, self.ranges = evaluator, ranges
        squares, _ = evaluator.changes([Perturbation(scale=0.0, side="post")])
        self.energy = float(squares[0, ranges.live].sum())
        if not self.energy > 0:
            raise InputError(
                f"layer {evaluator.layer!r}: the activations of all live units are 0; there is nothing to displace"
            )

    def of(self, perturbations: Sequence[AnyPerturbation]) -> Doubles:
        """Return d under each perturbation, (L,)."""
        squares, _ = self.evaluator.changes(perturbations)
        return np.asarray(np.sqrt(squares[:, self.ranges.live].sum(axis=1) / self.energy))

    def match(self, family: Family, side: str, targets: Sequence[float] = TARGETS) -> list[Match]:
        """Return the level of each displacement on one side of a family.

        Raises:
            InputError: a family without an identity, or without that side.
        """
        if family.identity is None:
            raise InputError(
                f"{family.name} has no identity level, so no side of it; its sizes can't be matched"
            )
        if side not in family.sides:
            raise InputError(f"{family.name} has the sides {', '.join(family.sides)}; got {side!r}")
        return self._match(lambda level: family.at(level, self.ranges), *family.sides[side], targets)

    def match_noise(self, drawn: npt.NDArray[np.float32], targets: Sequence[float] = TARGETS) -> list[Match]:
        """Return the level of each displacement for noise E, (R, U), from 0 to 8."""
        return self._match(lambda level: Addition(drawn, level), 0.0, 8.0, targets)

    def _match(
        self, at: Callable[[float], AnyPerturbation], begin: float, end: float, targets: Sequence[float]
    ) -> list[Match]:
        """The levels between begin and end of perturbations that are known `at` any level."""

        def sizes(levels: npt.ArrayLike) -> Doubles:
            return self.of([at(float(level)) for level in np.asarray(levels)])

        return match(sizes, begin, end, targets)
