"""Paired differences over runs, ready for a test.

All paired tests begin here. So all of them leave out the same runs, decide in the same way which differences
are equal up to rounding, and give the same reasons when there is nothing to test. The tests are in `paired`.
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
        tolerance: two differences that are at most this far apart count as equal.
    """

    values: NDArray[np.float64]
    tolerance: float

    @property
    def n(self) -> int:
        """Return the number of differences."""
        return int(self.values.size)

    @property
    def all_zero(self) -> bool:
        """Return whether every pair is equal, up to rounding; False without pairs."""
        return bool(self.n) and float(np.abs(self.values).max()) <= self.tolerance

    @property
    def reason(self) -> str:
        """Return why the mean has no usable standard error; empty if it has one."""
        if self.n < 2:
            return FEWER_THAN_TWO_RUNS
        if self.all_zero:
            return "all pairs equal"
        return "all differences equal" if float(np.ptp(self.values)) <= self.tolerance else ""

    @property
    def mean(self) -> float:
        """Return the mean: NaN if n is 0, exactly 0 if n >= 2 and all differences are 0 up to rounding."""
        return 0.0 if self.n >= 2 and self.all_zero else float(mean(self.values))

    @property
    def standard_error(self) -> float:
        """Return the standard error of the mean, sd / sqrt(n) with ddof 1; NaN if n < 2."""
        return float(standard_deviation(self.values, ddof=1)) / float(np.sqrt(max(self.n, 1)))


def paired_differences(
    first: ArrayLike, second: ArrayLike | None = None, *, tolerance: float | None = None
) -> Differences:
    """Subtract `second` from `first`, run by run, and leave out the runs in which either isn't finite.

    Args:
        first: one value per run, shape `(R,)`.
        second: the same runs in the same order, shape `(R,)`; None if `first` already holds differences.
        tolerance: see `Differences`; by default `rounding_tolerance` of the two. Give it if the values are
            themselves differences of larger numbers: their rounding error is that of the larger numbers,
            which this function doesn't see.

    Raises:
        InputError: the two aren't vectors of the same length, or the tolerance is negative or not finite.

    Example:
        >>> from nearzero.statistics.differences import paired_differences
        >>> differences = paired_differences([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
        >>> differences.values.tolist(), differences.mean, differences.reason
        ([1.0, 2.0, 3.0], 2.0, '')
        >>> paired_differences([0.1 + 0.2, 0.5], [0.3, 0.5]).reason  # equal up to rounding
        'all pairs equal'
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
    """Return how far apart two differences first - second can lie through rounding alone.

    An accuracy is a count over N, k / N. It is rounded once, and once more if it is converted to percent: its
    relative error is at most eps (twice half an eps). A difference of two numbers of size M at most therefore
    has an error of 2 M eps from its operands and, as its own size is at most 2 M, a further M eps from the
    subtraction. Two such differences lie at most 6 M eps apart. The tolerance is 8 M eps, with the coarser
    eps of the two types. Counts that do differ are 1 / N apart: at N = 60,000 that is 10^9 times more in
    float64 and 16 times more in float32, so no real difference is taken for rounding.
    """
    types = [array.dtype for array in (first, second) if np.issubdtype(array.dtype, np.floating)]
    eps = max((float(np.finfo(dtype).eps) for dtype in types), default=float(np.finfo(np.float64).eps))
    largest = max((float(np.abs(array).max()) for array in (first, second) if array.size), default=0.0)
    return 8.0 * largest * eps
