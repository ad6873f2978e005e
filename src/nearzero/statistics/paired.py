"""The paired t-test between two conditions of the same runs.

It exists beside SciPy's for the cases in which a t-test has no answer, which this study meets all the
time: at a level that changes no prediction every pair is equal, and 0 / 0 is not a result. Those cases
get words, for a table to show in place of NaN. Means and intervals live in `summaries`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from nearzero.errors import InputError
from nearzero.statistics.summaries import mean, standard_deviation

__all__ = [
    "ALL_DIFFERENCES_EQUAL",
    "ALL_PAIRS_EQUAL",
    "FEWER_THAN_TWO_RUNS",
    "PairedTest",
    "paired_t_test",
    "rounding_tolerance",
]

ALL_PAIRS_EQUAL = "all pairs equal"
ALL_DIFFERENCES_EQUAL = "all differences equal"
FEWER_THAN_TWO_RUNS = "fewer than two runs"


@dataclass(frozen=True)
class PairedTest:
    """What a paired t-test found.

    Attributes:
        n: pairs in which both values are finite.
        mean_difference: mean of first minus second, in the unit of the values; NaN where n is 0.
        t, p: the statistic and its two-sided p value; both None where `words` say why there are none.
        words: empty, or one of the three constants of this module.
    """

    n: int
    mean_difference: float
    t: float | None
    p: float | None
    words: str = ""

    @property
    def df(self) -> int:
        """Degrees of freedom, n - 1 (0 where there is no pair)."""
        return max(self.n - 1, 0)


def paired_t_test(first: ArrayLike, second: ArrayLike) -> PairedTest:
    """Test whether the mean of first - second is 0, over runs.

    t = mean(d) / (sd(d) / sqrt(n)) with d = first - second and the sample sd (ddof 1); p two-sided with
    n - 1 degrees of freedom. A pair in which either value is not finite (a run that diverged) is left out.
    The paper's t has the baseline first and the perturbed accuracy second, so a loss gives t > 0.

    Args:
        first: one value per run, shape `(R,)`.
        second: the same runs in the same order, shape `(R,)`.

    Raises:
        InputError: where the two are not vectors of one length.

    Source: Student (1908); `scipy.stats.ttest_rel` gives the same where it gives anything.
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(
            f"a paired t-test takes two vectors of one length, shape (R,); it saw {a.shape} and {b.shape}"
        )
    present = np.isfinite(a) & np.isfinite(b)
    a, b = a[present], b[present]
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    n = int(difference.size)
    centre = float(mean(difference))
    if n < 2:
        return PairedTest(n, centre, None, None, FEWER_THAN_TWO_RUNS)
    tolerance = rounding_tolerance(a, b)
    if np.abs(difference).max() <= tolerance:
        return PairedTest(n, 0.0, None, None, ALL_PAIRS_EQUAL)
    if np.ptp(difference) <= tolerance:
        return PairedTest(n, centre, None, None, ALL_DIFFERENCES_EQUAL)
    t = centre / (float(standard_deviation(difference, ddof=1)) / np.sqrt(n))
    return PairedTest(n, centre, float(t), float(2.0 * special.stdtr(n - 1, -abs(t))))


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
