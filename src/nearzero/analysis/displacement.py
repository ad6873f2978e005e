"""The size of a perturbation, the displacement d, and the levels that give a size.

d = sqrt(sum ||a' - a||^2 / sum ||a||^2), with sums over examples and live units, a = act(z), and a' the
perturbed activations. At equal levels, families move the activations by different amounts. At equal d the
amounts are the same, so a difference in accuracy is due to the direction of the change. The responses of a
network at matched levels are measured in `nearzero.analysis.matched`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError, did_you_mean
from nearzero.perturbations.families import Family
from nearzero.perturbations.perturbation import Addition, AnyPerturbation, Perturbation
from nearzero.perturbations.ranges import Ranges

if TYPE_CHECKING:
    from nearzero.evaluators.base import Block, LayerEvaluator

__all__ = [
    "LARGEST_TARGET",
    "SIDES",
    "TARGETS",
    "Displacements",
    "Match",
    "OtherSizes",
    "UndefinedSizeError",
    "Whitening",
    "displacement",
    "match",
]

Doubles = npt.NDArray[np.float64]
Size = Callable[[npt.ArrayLike], npt.NDArray[np.floating]]  # from levels to sizes
SIDES = ("below", "above")  # of a family's identity level
TARGETS = (0.05, 0.1, 0.2, 0.3, 0.5)
LARGEST_TARGET = 1000.0  # far beyond the displacements at which a network still does anything
STEPS = 20  # of the search for a bracket, from the identity outwards
BATCH_ENDS = (4, 7, 11, STEPS + 1)  # the search measures its levels in batches that end here
TOLERANCE = 1e-4  # relative, of the displacement at a matched level
OTHER_TOLERANCE = 1e-3  # the same, of another size, which is measured on a sample
ROUNDED = 1e-5  # a change of the logits, as a share of their root mean square, that rounding can make


class UndefinedSizeError(InputError):
    """A size of changes that isn't defined for these activations: they are 0, or hardly vary."""


def displacement(
    activations: npt.ArrayLike, changed: npt.ArrayLike, live: npt.NDArray[np.bool_] | None = None
) -> float:
    """Return d = sqrt(sum ||a' - a||^2 / sum ||a||^2), with sums over examples and live units.

    Args:
        activations: a, (N, U).
        changed: a', (N, U).
        live: (U,), the units that count; all of them by default.

    Returns:
        A number without a unit, 0.1 for 10 %; NaN if a is 0 everywhere.

    Raises:
        InputError: two arrays of different shapes.

    Example:
        >>> import nearzero as nz
        >>> nz.displacement([[3.0, 4.0]], [[3.0, 6.5]])  # a change of length 2.5 of a vector of length 5
        0.5
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (activations, changed))
    if a.ndim != 2 or a.shape != b.shape:
        raise InputError(
            f"a displacement needs two arrays (examples, units) of one shape; got {a.shape} and {b.shape}"
        )
    if live is not None:
        a, b = a[:, live], b[:, live]
    energy = float(np.square(a).sum())
    return float(np.sqrt(np.square(b - a).sum() / energy)) if energy > 0 else float("nan")


@dataclass(frozen=True, eq=False)
class Whitening:
    """A measure of change that gives little weight to directions in which the activations vary much.

    d = sqrt(sum (a' - a)' C^-1 (a' - a) / sum (a - m)' C^-1 (a - m)), with m the mean of the activations over
    rows and C the estimate of their covariance by Ledoit and Wolf (2004). Both m and C are computed on the
    reference half. C can be singular where the estimate doesn't shrink, for example for two rows.

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
        """Return the measure from the activations of the reference half, (R, U).

        Raises:
            UndefinedSizeError: there is no live unit, or C can't be inverted.
        """
        from scipy.linalg import solve_triangular
        from sklearn.covariance import ledoit_wolf

        if not live.any():
            raise UndefinedSizeError("the whitened displacement needs a live unit; there is none")
        a = activations[:, live].astype(np.float64)
        covariance, _ = ledoit_wolf(a)
        try:
            lower = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            lower = np.zeros_like(covariance)
        # a variance that rounding alone keeps from 0, or one whose inverse float32 can't hold
        least, most = np.square(lower.diagonal().min()), np.square(lower.diagonal().max())
        if (
            least <= len(lower) * np.finfo(np.float64).eps * most
            or least < float(np.finfo(np.float32).tiny) ** 2
        ):
            raise UndefinedSizeError("the covariance of the activations can't be inverted")
        root = solve_triangular(lower, np.eye(len(lower)), lower=True).T
        a -= a.mean(axis=0)
        return cls(live, root.astype(np.float32), float(np.square(a @ root).sum()) / len(a))

    @cached_property
    def root_of_all(self) -> npt.NDArray[np.float32]:
        """Return the root with a row of zeros for each unit that doesn't count, (U, V)."""
        root = np.zeros((len(self.live), self.root.shape[1]), np.float32)
        root[self.live] = self.root
        return root


@dataclass(frozen=True)
class Match:
    """A level at which a family has a given displacement.

    Attributes:
        level: of all such levels on a side, the one nearest to the identity; NaN if the displacement isn't
            reached.
        displacement: the displacement measured at that level; NaN if it isn't reached.
    """

    level: float
    displacement: float

    @property
    def reached(self) -> bool:
        """Return True if the displacement is reached on this side of the family."""
        return bool(np.isfinite(self.level))


def match(
    size: Size, begin: float, end: float, targets: Sequence[float], tolerance: float = TOLERANCE
) -> list[Match]:
    """Return, for each target, the level nearest to `begin` at which a continuous size reaches the target.

    The search goes outwards from `begin` in 20 steps, which widen with the distance. Brent's method then
    refines the level between the first step at which the size is at least the target and the step before. A
    size that rises above the target and falls back within one step is missed.

    Args:
        size: from levels to sizes, d(p).
        begin: the level at which the search starts, the identity.
        end: the level at which it stops.
        targets: the sizes, positive.
        tolerance: the relative error of a size that is accepted.

    Raises:
        InputError: targets that aren't positive and finite.
    """
    if not all(np.isfinite(target) and target > 0 for target in targets):
        raise InputError(f"displacements must be positive numbers, 0.1 for 10 %; got {list(targets)}")
    levels = begin + (end - begin) * (np.arange(STEPS + 1) / STEPS) ** 2
    sizes = np.empty(0)
    for (
        batch_end
    ) in BATCH_ENDS:  # most targets lie near the identity; levels beyond the greatest aren't needed
        sizes = np.append(sizes, np.asarray(size(levels[len(sizes) : batch_end]), dtype=np.float64))
        if (sizes >= max(targets, default=0.0)).any():
            break
    return [_refined(size, levels[: len(sizes)], sizes, target, tolerance) for target in targets]


def _refined(size: Size, levels: Doubles, sizes: Doubles, target: float, tolerance: float) -> Match:
    """Return the level of one target, from the sizes at the levels of the steps."""
    from scipy import optimize  # its import takes a quarter of a second, and not every command needs it

    beyond = np.flatnonzero(sizes >= target)
    if not beyond.size or beyond[0] == 0:  # never reached, or passed by a jump at the first level
        return Match(float("nan"), float("nan"))
    step = int(beyond[0])
    measured = dict(zip(levels.tolist(), sizes.tolist(), strict=True))

    def excess(level: float) -> float:
        if level not in measured:
            measured[level] = float(size([level])[0])
        within = abs(measured[level] - target) <= tolerance * target
        return 0.0 if within else measured[level] - target

    level = float(optimize.brentq(excess, levels[step - 1], levels[step], xtol=1e-14, rtol=1e-14))
    return Match(level, measured[level])


class Displacements:
    """The displacement of a layer's activations under any perturbation, and the levels that give one.

    Args:
        evaluator: the layer on the examples that count.
        ranges: the unit ranges that levels refer to; dead units don't count.

    Raises:
        UndefinedSizeError: activations that are 0 everywhere, for which a relative displacement isn't defined.
    """

    def __init__(self, evaluator: LayerEvaluator, ranges: Ranges) -> None:
        self.evaluator, self.ranges = evaluator, ranges
        squares, _ = evaluator.changes([Perturbation(scale=0.0, side="post")])
        self.energy = float(squares[0, ranges.live].sum())
        if not self.energy > 0:
            raise UndefinedSizeError(
                f"layer {evaluator.layer!r}: the activations of all live units are 0; there is nothing to "
                "displace"
            )

    def of(self, perturbations: Sequence[AnyPerturbation]) -> Doubles:
        """Return d under each perturbation, (L,)."""
        squares, _ = self.evaluator.changes(perturbations)
        return np.asarray(np.sqrt(squares[:, self.ranges.live].sum(axis=1) / self.energy))

    def match(self, family: Family, side: str, targets: Sequence[float] = TARGETS) -> list[Match]:
        """Return the level of each displacement on one side of a family's identity.

        Raises:
            InputError: a family without an identity, or without that side.
        """
        if family.identity is None:
            raise InputError(
                f"{family.name} has no identity level and so no sides; its displacement can't be matched"
            )
        if side not in family.sides:
            hint = did_you_mean(side, family.sides)
            raise InputError(f"{family.name} has no side {side!r}: {hint}it has {', '.join(family.sides)}")
        return self._match(lambda level: family.at(level, self.ranges), *family.sides[side], targets)

    def match_noise(self, drawn: npt.NDArray[np.float32], targets: Sequence[float] = TARGETS) -> list[Match]:
        """Return the level of each displacement for noise E, (R, U), from 0 to 8."""
        return self._match(lambda level: Addition(drawn, level), 0.0, 8.0, targets)

    def _match(
        self, at: Callable[[float], AnyPerturbation], begin: float, end: float, targets: Sequence[float]
    ) -> list[Match]:
        """Return a match for each target, with its level between begin and end; `at` returns a level's perturbation."""

        def sizes(levels: npt.ArrayLike) -> Doubles:
            return self.of([at(float(level)) for level in np.asarray(levels)])

        return match(sizes, begin, end, targets)


class OtherSizes:
    """Sizes of changes in other measures than the displacement, on a sample of the reference half.

    Args:
        sample: the layer on the sample.
        ranges: the unit ranges that levels refer to.
        whitening: the whitened measure; None if it can't be measured.
    """

    def __init__(self, sample: LayerEvaluator, ranges: Ranges, whitening: Whitening | None) -> None:
        self.sample, self.ranges, self.whitening = sample, ranges, whitening

    def whitened(self, perturbations: Sequence[AnyPerturbation]) -> Doubles:
        """Return the whitened size, see `Whitening`, (L,); NaN if it can't be measured."""
        if self.whitening is None:
            return np.full(len(perturbations), np.nan)
        squares = self.sample.projected_changes(perturbations, self.whitening.root_of_all)
        return np.asarray(np.sqrt(squares / (len(self.sample.row_examples) * self.whitening.energy)))

    def centred_logits(self, perturbations: Sequence[AnyPerturbation]) -> Doubles:
        """Return the root mean square over items of ||l' - l - mean(l' - l)||, (L,).

        It is 0 where rounding could have made it, for example where a shift adds a constant to all logits, and
        NaN where logits aren't finite. A logit that is -inf with and without the perturbation doesn't change.
        """

        def sums(block: Block) -> tuple[int, Doubles, Doubles, Doubles]:
            squares, energies = np.empty((2, len(perturbations)))
            totals = np.empty((len(perturbations), block.logits.shape[1]))
            for level, perturbation in enumerate(perturbations):
                logits = block.under(perturbation)[1].astype(np.float64)
                with np.errstate(invalid="ignore"):
                    step = np.where(logits == block.logits, 0.0, logits - block.logits)
                squares[level], totals[level] = np.square(step).sum(), step.sum(axis=0)
                energies[level] = np.square(logits[np.isfinite(logits)]).sum()
            return len(block.logits), squares, totals, energies

        items, squares, totals, energies = (
            sum(parts) for parts in zip(*self.sample.gather(sums), strict=True)
        )
        with np.errstate(invalid="ignore"):
            centred = squares / items - np.square(totals / items).sum(axis=1)
        rounding = ROUNDED**2 * energies / items
        return np.asarray(np.sqrt(np.where(centred <= rounding, 0.0, centred)))

    def of(self, check: str, perturbations: Sequence[AnyPerturbation]) -> Doubles:
        """Return the size in the measure of a check, "whitened" or "centred_logits", (L,)."""
        return self.whitened(perturbations) if check == "whitened" else self.centred_logits(perturbations)

    def match(self, check: str, family: Family, side: str, targets: Sequence[float]) -> list[Match]:
        """Return the level on one side of a family for each size in the measure of a check; NaN for a size of NaN."""
        begin, end = family.sides[side]

        def sizes(levels: npt.ArrayLike) -> Doubles:
            return self.of(check, [family.at(float(level), self.ranges) for level in np.asarray(levels)])

        known = [target for target in targets if np.isfinite(target) and target > 0]
        found = iter(match(sizes, begin, end, known, OTHER_TOLERANCE))
        nowhere = Match(float("nan"), float("nan"))
        return [next(found) if np.isfinite(target) and target > 0 else nowhere for target in targets]
