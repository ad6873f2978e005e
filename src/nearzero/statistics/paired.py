"""Tests between two conditions of the same runs, and the size of the effect.

- `paired_t_test`: is the mean difference 0? SciPy has this test too, but gives NaN when there is nothing to
  test. In a study that happens often: at a level that changes no prediction every pair is equal, and t is 0 /
  0. Here such cases have a reason, which a table prints in place of t and p. Means and intervals are in
  `summaries`.
- `equivalence_test`: is the mean difference smaller than a margin? A t-test that finds no difference doesn't
  show that there is none; two one-sided tests can. The margin is a judgement, to be made before the data are
  seen.
- `minimum_effect_test`: does the mean difference exceed a margin, in either direction? A t-test against 0 finds
  differences that don't matter, if there are enough runs.
- `sign_flip_test`: like the t-test, without assuming a normal distribution. Under the null hypothesis the two
  conditions are exchangeable within a run, so each difference could have had the other sign. All 2^n patterns
  of signs are counted, so p is exact.
- `effect_size`: a p value mixes the size of a difference with the number of runs; Hedges' g_z is the size
  alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from nearzero.errors import InputError
from nearzero.statistics.differences import paired_differences
from nearzero.statistics.summaries import t_interval

__all__ = [
    "MINIMUM_RUNS",
    "MOST_RUNS",
    "EquivalenceTest",
    "PairedTest",
    "effect_size",
    "equivalence_test",
    "minimum_effect_test",
    "paired_t_test",
    "sign_flip_test",
]

MOST_RUNS = 20
# With five runs the smallest two-sided p of the sign-flip test is 2 / 2^5 = 0.0625, so no outcome could be
# significant at 0.05. With six runs it is 0.03125.
MINIMUM_RUNS = 6


@dataclass(frozen=True)
class PairedTest:
    """The result of a paired t-test.

    Attributes:
        n: number of pairs in which both values are finite.
        mean_difference: mean of first minus second, in the unit of the values; NaN if n is 0.
        t, p: the statistic and its two-sided p value; both None if `reason` isn't empty.
        reason: why there is no test: "fewer than two runs", "all pairs equal" or "all differences equal";
            else empty.
    """

    n: int
    mean_difference: float
    t: float | None
    p: float | None
    reason: str = ""


def paired_t_test(
    first: ArrayLike, second: ArrayLike | None = None, *, tolerance: float | None = None
) -> PairedTest:
    """Test whether the mean of first - second over runs is 0.

    t = mean(d) / (sd(d) / sqrt(n)), with d = first - second and the sample sd (ddof 1); p is two-sided, with
    n - 1 degrees of freedom. A pair in which either value isn't finite (a run that diverged) is left out. In
    the paper's tests the baseline is the first and the perturbed accuracy the second, so that a loss gives t
    > 0.

    Args:
        first: one value per run, shape `(R,)`.
        second: the same runs in the same order, shape `(R,)`; None if `first` already holds differences.
        tolerance: differences that are at most this far apart count as equal; see `paired_differences`.

    Raises:
        InputError: the two aren't vectors of the same length.

    Source: Student (1908), The probable error of a mean, Biometrika 6; `scipy.stats.ttest_rel` gives the
    same, if it gives a number.

    Example:
        >>> from nearzero.statistics.paired import paired_t_test
        >>> test = paired_t_test([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])  # d = 1, 2, 3
        >>> print(f"t = {test.t:.3f}, p = {test.p:.3f}")  # t = 2 sqrt(3)
        t = 3.464, p = 0.074
        >>> paired_t_test([0.98, 0.97], [0.98, 0.97]).reason
        'all pairs equal'
    """
    differences = paired_differences(first, second, tolerance=tolerance)
    n, mean = differences.n, differences.mean
    if differences.reason:
        return PairedTest(n, mean, None, None, differences.reason)
    t = mean / differences.standard_error
    return PairedTest(n, mean, float(t), float(2.0 * special.stdtr(n - 1, -abs(t))))


@dataclass(frozen=True)
class EquivalenceTest:
    """The result of two one-sided t-tests (TOST).

    Attributes:
        n: number of runs with a finite difference.
        mean_difference: in the unit of the values; NaN if n is 0.
        margin: the smallest difference that would matter, in the unit of the values.
        alpha: level of each of the two tests.
        low, high: ends of the 1 - 2 alpha interval (90 % at alpha 0.05); None if `reason` isn't empty.
        t_lower, p_lower: the test of mean <= -margin; None if `reason` isn't empty.
        t_upper, p_upper: the test of mean >= +margin; None if `reason` isn't empty.
        reason: why there is no test: "fewer than two runs", "all pairs equal" or "all differences equal";
            else empty.
    """

    n: int
    mean_difference: float
    margin: float
    alpha: float
    low: float | None = None
    high: float | None = None
    t_lower: float | None = None
    p_lower: float | None = None
    t_upper: float | None = None
    p_upper: float | None = None
    reason: str = ""

    @property
    def p(self) -> float | None:
        """Return the greater of the two p values; None without a test."""
        return None if self.p_lower is None or self.p_upper is None else max(self.p_lower, self.p_upper)

    @property
    def equivalent(self) -> bool | None:
        """Return whether the interval lies strictly within the margin, that is p < alpha; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return -self.margin < self.low and self.high < self.margin


def equivalence_test(
    first: ArrayLike,
    second: ArrayLike | None = None,
    *,
    margin: float,
    alpha: float = 0.05,
    tolerance: float | None = None,
) -> EquivalenceTest:
    """Test whether the mean of first - second over runs lies between -margin and +margin.

    Two one-sided t-tests with n - 1 degrees of freedom, d = first - second and se = sd(d) / sqrt(n), ddof 1:
    t_lower = (mean(d) + margin) / se, p_lower = P(T >= t_lower), and t_upper = (mean(d) - margin) / se,
    p_upper = P(T <= t_upper). p is the greater of the two; it is below alpha exactly if the two-sided 1 - 2
    alpha t interval lies within the margin.

    Args:
        first: one value per run, shape `(R,)`; runs in which a value isn't finite are left out.
        second: the same runs in the same order, shape `(R,)`; None if `first` already holds differences.
        margin: positive, in the unit of the values.
        alpha: strictly between 0 and 0.5.
        tolerance: differences that are at most this far apart count as equal; see `paired_differences`.

    Raises:
        InputError: the two aren't vectors of the same length, or the margin or alpha is out of range.

    Source: Schuirmann (1987), A comparison of the two one-sided tests procedure and the power approach,
    Journal of Pharmacokinetics and Biopharmaceutics 15; `statsmodels.stats.weightstats.ttost_paired` gives
    the same.

    Example:
        >>> from nearzero.statistics.paired import equivalence_test
        >>> test = equivalence_test([-1.0, 0.0, 1.0], margin=2.0)  # differences of three runs
        >>> print(f"90 % interval: {test.low:.2f} to {test.high:.2f}, p = {test.p:.3f}")
        90 % interval: -1.69 to 1.69, p = 0.037
        >>> test.equivalent, equivalence_test([-1.0, 0.0, 1.0], margin=1.6).equivalent
        (True, False)
    """
    _check_margin(margin)
    if not 0.0 < alpha < 0.5:
        raise InputError(f"alpha lies strictly between 0 and 0.5, for example 0.05; it was {alpha!r}")
    differences = paired_differences(first, second, tolerance=tolerance)
    n, mean = differences.n, differences.mean
    if differences.reason:
        return EquivalenceTest(n, mean, margin, alpha, reason=differences.reason)
    low, high = t_interval(differences.values, 1.0 - 2.0 * alpha)
    t_lower, t_upper = ((mean + sign * margin) / differences.standard_error for sign in (1.0, -1.0))
    return EquivalenceTest(
        n=n,
        mean_difference=mean,
        margin=margin,
        alpha=alpha,
        low=float(low),
        high=float(high),
        t_lower=t_lower,
        p_lower=float(special.stdtr(n - 1, -t_lower)),
        t_upper=t_upper,
        p_upper=float(special.stdtr(n - 1, t_upper)),
    )


def minimum_effect_test(
    first: ArrayLike, second: ArrayLike | None = None, *, margin: float, tolerance: float | None = None
) -> float | None:
    """Test whether the mean of first - second over runs lies between -margin and +margin; return the p value.

    Two one-sided t-tests with n - 1 degrees of freedom, d = first - second and se = sd(d) / sqrt(n), ddof 1:
    p+ = P(T >= (mean(d) - margin) / se) and p- = P(T <= (mean(d) + margin) / se). p = min(1, 2 min(p+, p-)). A
    small p says that the mean exceeds the margin, in the direction of its sign. It is the opposite of
    `equivalence_test`, in which a small p says that the mean lies within the margin.

    Args:
        first: one value per run, shape `(R,)`; runs in which a value isn't finite are left out.
        second: the same runs in the same order, shape `(R,)`; None if `first` already holds differences.
        margin: positive, in the unit of the values.
        tolerance: differences that are at most this far apart count as equal; see `paired_differences`.

    Returns:
        p; None with fewer than two runs, or if all differences are equal.

    Raises:
        InputError: the two aren't vectors of the same length, or the margin isn't positive.

    Source: Murphy and Myors (1999), Testing the hypothesis that treatments have negligible effects:
    minimum-effect tests in the general linear model, Journal of Applied Psychology 84.

    Example:
        >>> from nearzero.statistics.paired import minimum_effect_test
        >>> round(minimum_effect_test([2.0, 3.0, 4.0], margin=1.0), 4)  # t = 2 sqrt(3), p+ = 0.0371
        0.0742
        >>> minimum_effect_test([0.9, 1.0, 1.1], margin=1.0)  # at the margin
        1.0
    """
    _check_margin(margin)
    differences = paired_differences(first, second, tolerance=tolerance)
    if differences.reason:
        return None
    n, mean, se = differences.n, differences.mean, differences.standard_error
    above = special.stdtr(n - 1, -(mean - margin) / se)
    below = special.stdtr(n - 1, (mean + margin) / se)
    return float(min(1.0, 2.0 * min(above, below)))


def _check_margin(margin: float) -> None:
    if not 0.0 < margin < float("inf"):
        raise InputError(
            f"the margin is positive and in the unit of the values; it was {margin!r}: give the smallest difference "
            "that would matter"
        )


def sign_flip_test(
    first: ArrayLike, second: ArrayLike | None = None, *, tolerance: float | None = None
) -> float | None:
    """Test by sign flips whether the mean of first - second over runs is 0; return the exact p value.

    p is the fraction of the 2^n sums S = sum of s_i d_i, s_i = +1 or -1, with |S| >= |S_observed|. Sums that
    would be equal in exact arithmetic count as equal: n differences that are all equal have p = 2^(1 - n).

    Two sums count as equal if they are at most n (tolerance + eps sum |d_i|) apart. In that, n tolerance
    covers the rounding errors of the differences themselves, and n eps sum |d_i| those of two sums of n
    numbers, each at most (n - 1) eps / 2 times the sum of the sizes. Without it, 0.1 + 0.2 - 0.3 would be
    greater than 0. Accuracies are counts over N, so sums that do differ are at least 2 / N apart (a flip
    changes a sum by twice a difference). That is more than the tolerance even in float32 with n = 20 and N =
    60,000.

    Args:
        first: one value per run, shape `(R,)`; runs in which a value isn't finite are left out.
        second: the same runs in the same order, shape `(R,)`; None if `first` already holds differences.
        tolerance: differences that are at most this far apart count as equal; see `paired_differences`.

    Returns:
        p; None with fewer than two runs, or if all pairs are equal.

    Raises:
        InputError: the two aren't vectors of the same length, or more than `MOST_RUNS` runs are left.

    Source: Fisher (1935), The Design of Experiments, section 21; Pitman (1937), Significance tests which may
    be applied to samples from any populations, Supplement to the Journal of the Royal Statistical Society 4.
    `scipy.stats.permutation_test(..., permutation_type="samples")` gives the same.

    Example:
        >>> from nearzero.statistics.paired import sign_flip_test
        >>> sign_flip_test([1.0, 2.0, 4.0])  # of 8 sums only 7 and -7 are as far from 0 as 7
        0.25
        >>> sign_flip_test([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])  # 2 of 64
        0.03125
    """
    differences = paired_differences(first, second, tolerance=tolerance)
    n = differences.n
    if n > MOST_RUNS:
        raise InputError(
            f"the exact sign-flip test takes at most {MOST_RUNS} runs, as it goes through 2^n sign patterns; it saw "
            f"{n}: use paired_t_test, which with that many runs hardly depends on a normal distribution"
        )
    if n < 2 or differences.all_zero:
        return None
    # A zero doubles both the number of patterns and the number of those that count, so it doesn't change the fraction.
    nonzero = differences.values[np.abs(differences.values) > differences.tolerance]
    slack = n * (differences.tolerance + float(np.finfo(np.float64).eps) * float(np.abs(nonzero).sum()))
    sums = _signed_sums(nonzero)
    return float(2 * np.count_nonzero(np.abs(sums) >= abs(sums[0]) - slack) / 2.0**nonzero.size)


def _signed_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 2^(m - 1) signed sums of m values in which the first value keeps its sign; the observed sum first.

    The other half of all sums are the negatives of these.
    """
    sums = values[:1]
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def effect_size(
    first: ArrayLike, second: ArrayLike | None = None, *, tolerance: float | None = None
) -> float | None:
    """Estimate Hedges' g_z, the standardised mean of first - second over runs.

    Cohen's d_z = mean(d) / sd(d), ddof 1, is the mean of the differences over their standard deviation.
    Hedges' correction removes its bias for normal differences: g_z = J(n - 1) d_z with J(m) = G(m / 2) /
    (sqrt(m / 2) G((m - 1) / 2)), G the gamma function. With two runs the expectation of d_z is infinite and
    g_z doesn't exist, so at least three are needed.

    Args:
        first: one value per run, shape `(R,)`; runs in which a value isn't finite are left out.
        second: the same runs in the same order, shape `(R,)`; None if `first` already holds differences.
        tolerance: differences that are at most this far apart count as equal; see `paired_differences`.

    Returns:
        g_z; None with fewer than three runs, or if all differences are equal.

    Raises:
        InputError: the two aren't vectors of the same length.

    Source: Cohen (1988), Statistical Power Analysis for the Behavioral Sciences; Hedges (1981), Distribution
    theory for Glass's estimator of effect size and related estimators, Journal of Educational Statistics 6.

    Example:
        >>> from nearzero.statistics.paired import effect_size
        >>> round(effect_size([1.0, 2.0, 3.0]), 3)  # d_z = 2, J(2) = 1 / sqrt(pi)
        1.128
    """
    differences = paired_differences(first, second, tolerance=tolerance)
    if differences.n < 3 or differences.reason:
        return None
    d_z = differences.mean / differences.standard_error / float(np.sqrt(differences.n))
    return _hedges_correction(differences.n - 1) * d_z


def _hedges_correction(df: int) -> float:
    """Return Hedges' correction J(df): below 1, about 1 - 3 / (4 df - 1)."""
    return float(np.exp(special.gammaln(df / 2.0) - special.gammaln((df - 1) / 2.0)) / np.sqrt(df / 2.0))
