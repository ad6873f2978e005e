"""The exact sign-flip test: a p value that assumes no normal distribution.

Under the null hypothesis that the two conditions are exchangeable within a run, each difference could as
well have had the other sign. All 2^n ways of it are gone through, so p is a count and not an estimate.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearzero.errors import InputError
from nearzero.statistics.differences import paired_differences
from nearzero.statistics.words import ALL_PAIRS_EQUAL, FEWER_THAN_TWO_RUNS

__all__ = ["MOST_RUNS", "SignFlipTest", "sign_flip_test"]

MOST_RUNS = 20


@dataclass(frozen=True)
class SignFlipTest:
    """What the exact sign-flip test found.

    Attributes:
        n: runs with a finite difference.
        zeros: those of them whose difference is 0, which no flip changes.
        mean_difference: in the unit of the values; NaN where n is 0.
        p: None where `words` say why there is none.
        smallest_p: the smallest p that differences of these sizes could have given, 2^(1 - n), where n counts no
            zeros. None where p is.
        words: empty, or `FEWER_THAN_TWO_RUNS` or `ALL_PAIRS_EQUAL`.
    """

    n: int
    zeros: int
    mean_difference: float
    p: float | None
    smallest_p: float | None
    words: str = ""


def sign_flip_test(
    first: ArrayLike, second: ArrayLike | None = None, *, tolerance: float | None = None
) -> SignFlipTest:
    """Test by sign flips whether the mean of first - second is 0, over runs.

    p is the fraction of the 2^n sums S = sum of s_i d_i, s_i = +1 or -1, with |S| >= |S_observed|. Sums that would
    be equal in exact arithmetic count as equal: differences that are all the same have a p, 2^(1 - n).

    Two sums count as equal within n (tolerance + eps sum |d_i|). Of that, n tolerance covers the rounding
    that the differences came with, and n eps sum |d_i| the roundings of two sums of n numbers, each of at
    most (n - 1) eps / 2 of the sum of the sizes. Without it, 0.1 + 0.2 - 0.3 would be greater than 0.
    Accuracies are counts over N, their sums differ by 2 / N or more (a flip moves a sum by twice a
    difference), which is above this even in float32 with n = 20 and N = 60,000.

    Args:
        first: one value per run, shape `(R,)`; runs in which a value is not finite are left out.
        second: the same runs in the same order, shape `(R,)`; None where `first` holds differences already.
        tolerance: differences no further apart are the same number; see `paired_differences`.

    Raises:
        InputError: where the two are not vectors of one length, or more than `MOST_RUNS` runs are left.

    Source: Fisher (1935), The Design of Experiments, section 21; Pitman (1937).
    `scipy.stats.permutation_test(..., permutation_type="samples")` gives the same.
    """
    found = paired_differences(first, second, tolerance=tolerance)
    if found.n > MOST_RUNS:
        raise InputError(
            f"the exact sign-flip test takes at most {MOST_RUNS} runs, as it goes through 2^n sign patterns; it saw "
            f"{found.n}: use paired_t_test, which with that many runs hardly depends on a normal distribution"
        )
    zero = np.abs(found.values) <= found.tolerance
    zeros = int(zero.sum())
    if found.n < 2 or zeros == found.n:
        words = FEWER_THAN_TWO_RUNS if found.n < 2 else ALL_PAIRS_EQUAL
        return SignFlipTest(found.n, zeros, found.mean, None, None, words)
    moving = found.values[~zero]
    slack = found.n * (found.tolerance + float(np.finfo(np.float64).eps) * float(np.abs(moving).sum()))
    # A zero doubles the number of patterns and of those that count: the fraction stays.
    patterns = 2.0**moving.size
    half = _sums(moving)
    extreme = 2 * np.count_nonzero(np.abs(half) >= abs(half[0]) - slack)
    return SignFlipTest(found.n, zeros, found.mean, extreme / patterns, 2.0 / patterns)


def _sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """All signed sums in which the first value keeps its sign, 2^(m - 1) of m values; the observed one first.

    The other half are these with the sign changed.
    """
    sums = values[:1]
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return sums
