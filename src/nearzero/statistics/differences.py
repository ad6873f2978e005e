"""Differences over runs, ready for a test: which runs count, and which numbers are the same number.

Every test of this package starts here, so that all of them leave out the same runs and agree on when there
is nothing to test, and say so in the same words. The tests themselves live in `paired`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearzero.errors import InputError
from nearzero.statistics.summaries import FEWER_THAN_TWO_RUNS, mean, standard_deviation

__all__ = ["Differences", "paired_differences", "rounding_tolerance"]


@dataclass(frozen=True, eq=False)
class Differences:
    """One difference per run, in the unit of the values.

    Attributes:
        values: shape `(n,)`, finite.
        tolerance: two differences no further apart than this are the same number.
    """

    values: NDArray[np.float64]
    tolerance: float

    @property
    def n(self) -> int:
        """How many there are."""
        return int(self.values.size)

    @property
    def all_zero(self) -> bool:
        """Whether every pair is equal, up to rounding."""
        return bool(self.n) and float(np.abs(self.values).max()) <= self.tolerance

    @property
    def words(self) -> str:
        """Why their mean has no standard error to be measured by; empty where it has one."""
        if self.n < 2:
            return FEWER_THAN_TWO_RUNS
        if self.all_zero:
            return "all pairs equal"
        return "all differences equal" if float(np.ptp(self.values)) <= self.tolerance else ""

    @property
    def mean(self) -> float:
        """Their mean: NaN where there is none, exactly 0 where all of two or more are 0 up to rounding."""
        return 0.0 if self.n >= 2 and self.all_zero else float(mean(self.values))

    @property
    def standard_error(self) -> float:
        """Standard error of the mean: sd / sqrt(n), with ddof 1; NaN where n < 2."""
        return float(standard_deviation(self.values, ddof=1)) / float(np.sqrt(max(self.n, 1)))


def paired_differences(
    first: ArrayLike, second: ArrayLike | None = None, *, tolerance: float | None = None
) -> Differences:
    """Subtract second from first, run by run, without the runs in which either is not finite.

    Args:
        first: one value per run, shape `(R,)`.
        second: the same runs in the same order, shape `(R,)`; None where `first` holds differences already.
        tolerance: see `Differences`; by default `rounding_tolerance` of the two. Give it where the numbers
            come from larger ones by subtraction: their rounding is that of the larger ones, which can't be
            seen from here.

    Raises:
        InputError: where the two are not vectors of one length, or the tolerance is negative or not finite.
    """
    a = np.asarray(first)
    b = np.zeros_like(a) if second is None else np.asarray(second)
    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(
            f"a test over runs takes two vectors of one length, shape (R,); it saw {a.shape} and {b.shape}:"
            " give one value per run, the runs of both in the same order"
        )
    if tolerance is not None and not 0.0 <= tolerance < np.inf:
        raise InputError(
            f"the tolerance is 0 or a positive number; it was {tolerance!r}: leave it out, or give one"
        )
    present = np.isfinite(a) & np.isfinite(b)
    a, b = a[present], b[present]
    return Differences(
        values=np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64),
        tolerance=rounding_tolerance(a, b) if tolerance is None else float(tolerance),
    )


def rounding_tolerance(first: NDArray[Any], second: NDArray[Any]) -> float:
    """How far two differences first - second may lie apart and still be the same number.

    An accuracy is a count over N, k / N, rounded once, and once more where it was turned into percent: a
    relative error of at most eps (twice half an eps). So a difference of two numbers of size M at most
    carries 2 M eps from its operands and, itself at most 2 M, a further M eps from the subtraction; two
    such differences lie at most 6 M eps apart. The tolerance is 8 M eps, with the coarser eps of the two
    types. Counts that do differ are 1 / N apart, which is 10^9 times more in float64 and 16 times more in
    float32 at N = 60,000, so nothing real is taken for noise.
    """
    kinds = [x.dtype for x in (first, second) if np.issubdtype(x.dtype, np.floating)]
    eps = max((float(np.finfo(kind).eps) for kind in kinds), default=float(np.finfo(np.float64).eps))
    largest = max((float(np.abs(x).max()) for x in (first, second) if x.size), default=0.0)
    return 8.0 * largest * eps
