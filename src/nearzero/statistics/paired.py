"""Tests between two conditions of the same runs, and the size of the effect.

The paired t-test exists beside SciPy's for the cases in which a t-test has no answer, which this study meets all
the time: at a level that changes no prediction every pair is equal, and 0 / 0 is not a result. Those cases
get words, for a table to show in place of NaN. Means and intervals live in `summaries`.

A paired t-test that finds nothing says little; two one-sided tests against a margin say that a difference
of that size can be ruled out. The margin is a judgement and comes before the data.

The exact sign-flip test assumes no normal distribution. Under the null hypothesis that the two conditions are
exchangeable within a run, each difference could as well have had the other sign. All 2^n ways of it are gone
through, so p is a count and not an estimate.

A p value mixes how large a difference is with how many runs there were; Hedges' g_z is the first of them alone.
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
    "paired_t_test",
    "sign_flip_test",
]

MOST_RUNS = 20
# With five runs the smallest two-sided p of the sign-flip test is 2 / 2^5 = 0.0625: no outcome whatever could
# be significant at 0.05. With six it is 0.03125.
MINIMUM_RUNS = 6


@dataclass(frozen=True)
class PairedTest:
    """What a paired t-test found.

    Attributes:
        n: pairs in which both values are finite.
        mean_difference: mean of first minus second, in the unit of the values; NaN where n is 0.
        t, p: the statistic and its two-sided p value; both None where `words` say why there are none.
        words: empty, or "fewer than two runs", "all pairs equal" or "all differences equal".
    """

    n: int
    mean_difference: float
    t: float | None
    p: float | None
    words: str = ""


def paired_t_test(
    first: ArrayLike, second: ArrayLike | None = None, *, tolerance: float | None = None
) -> PairedTest:
    """Test whether the mean of first - second is 0, over runs.

    t = mean(d) / (sd(d) / sqrt(n)) with d = first - second and the sample sd (ddof 1); p two-sided with
    n - 1 degrees of freedom. A pair in which either value is not finite (a run that diverged) is left out.
    The paper's t has the baseline first and the perturbed accuracy second, so a loss gives t > 0.

    Args:
        first: one value per run, shape `(R,)`.
        second: the same runs in the same order, shape `(R,)`; None where `first` holds differences already.
        tolerance: differences no further apart are the same number; see `paired_differences`.

    Raises:
        InputError: where the two are not vectors of one length.

    Source: Student (1908); `scipy.stats.ttest_rel` gives the same where it gives anything.
    """
    found = paired_differences(first, second, tolerance=tolerance)
    if found.words:
        return PairedTest(found.n, found.mean, None, None, found.words)
    t = found.mean / found.standard_error
    return PairedTest(found.n, found.mean, float(t), float(2.0 * special.stdtr(found.n - 1, -abs(t))))


@dataclass(frozen=True)
class EquivalenceTest:
    """What two one-sided t-tests (TOST) found.

    Attributes:
        n: runs with a finite difference.
        mean_difference: in the unit of the values; NaN where n is 0.
        margin: the difference that would matter, in the unit of the values.
        alpha: level of each of the two tests.
        low, high: ends of the 1 - 2 alpha interval (90 % at alpha 0.05); None where `words` say why.
        t_lower, p_lower: the test of mean <= -margin; None where `words` say why.
        t_upper, p_upper: the test of mean >= +margin; None where `words` say why.
        words: empty, or "fewer than two runs", "all pairs equal" or "all differences equal".
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
    words: str = ""

    @property
    def p(self) -> float | None:
        """The greater of the two p values; None where there are none."""
        return None if self.p_lower is None or self.p_upper is None else max(self.p_lower, self.p_upper)

    @property
    def equivalent(self) -> bool | None:
        """Whether the interval lies strictly within the margin, which is p < alpha; None without an interval."""
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
    """Test whether the mean of first - second lies within -margin and +margin, over runs.

    Two one-sided t-tests with n - 1 degrees of freedom, d = first - second and se = sd(d) / sqrt(n), ddof 1:
    t_lower = (mean(d) + margin) / se, p_lower = P(T >= t_lower), and t_upper = (mean(d) - margin) / se,
    p_upper = P(T <= t_upper). p is the greater of the two; it is below alpha exactly where the two-sided
    1 - 2 alpha t interval lies within the margin.

    Args:
        first: one value per run, shape `(R,)`; runs in which a value is not finite are left out.
        second: the same runs in the same order, shape `(R,)`; None where `first` holds differences already.
        margin: positive, in the unit of the values.
        alpha: strictly between 0 and 0.5.
        tolerance: differences no further apart are the same number; see `paired_differences`.

    Raises:
        InputError: where the two are not vectors of one length, or the margin or alpha is out of range.

    Source: Schuirmann (1987); `statsmodels.stats.weightstats.ttost_paired` gives the same.
    """
    if not 0.0 < margin < float("inf"):
        raise InputError(
            f"the margin of equivalence is positive and in the unit of the values; it was {margin!r}: "
            "give the smallest difference that would matter"
        )
    if not 0.0 < alpha < 0.5:
        raise InputError(f"alpha lies strictly between 0 and 0.5, for example 0.05; it was {alpha!r}")
    found = paired_differences(first, second, tolerance=tolerance)
    if found.words:
        return EquivalenceTest(found.n, found.mean, margin, alpha, words=found.words)
    low, high = t_interval(found.values, 1.0 - 2.0 * alpha)
    t_lower, t_upper = ((found.mean + side * margin) / found.standard_error for side in (1.0, -1.0))
    return EquivalenceTest(
        n=found.n,
        mean_difference=found.mean,
        margin=margin,
        alpha=alpha,
        low=float(low),
        high=float(high),
        t_lower=t_lower,
        p_lower=float(special.stdtr(found.n - 1, -t_lower)),
        t_upper=t_upper,
        p_upper=float(special.stdtr(found.n - 1, t_upper)),
    )


def sign_flip_test(
    first: ArrayLike, second: ArrayLike | None = None, *, tolerance: float | None = None
) -> float | None:
    """Return the p value of the test by sign flips whether the mean of first - second is 0, over runs.

    None where there are fewer than two runs, or all pairs are equal. p is the fraction of the 2^n sums
    S = sum of s_i d_i, s_i = +1 or -1, with |S| >= |S_observed|. Sums that would be equal in exact arithmetic count
    as equal: differences that are all the same have a p, 2^(1 - n).

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
    if found.n < 2 or found.all_zero:
        return None
    moving = found.values[np.abs(found.values) > found.tolerance]
    slack = found.n * (found.tolerance + float(np.finfo(np.float64).eps) * float(np.abs(moving).sum()))
    # A zero doubles the number of patterns and of those that count: the fraction stays.
    half = _sums(moving)
    return 2 * np.count_nonzero(np.abs(half) >= abs(half[0]) - slack) / 2.0**moving.size


def _sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """All signed sums in which the first value keeps its sign, 2^(m - 1) of m values; the observed one first.

    The other half are these with the sign changed.
    """
    sums = values[:1]
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def effect_size(
    first: ArrayLike, second: ArrayLike | None = None, *, tolerance: float | None = None
) -> float | None:
    """Estimate Hedges' g_z of first - second, over runs; None with fewer than three or where all differences are equal.

    Cohen's d_z is the mean of the differences over their standard deviation; Hedges' correction frees it of bias for
    normal differences.
    d_z = mean(d) / sd(d), ddof 1, and g_z = J(n - 1) d_z with J(m) = G(m / 2) / (sqrt(m / 2) G((m - 1) / 2)),
    G the gamma function. With two runs g_z doesn't exist (the expectation of d_z is infinite), so that at least
    three are asked for.

    Args:
        first: one value per run, shape `(R,)`; runs in which a value is not finite are left out.
        second: the same runs in the same order, shape `(R,)`; None where `first` holds differences already.
        tolerance: differences no further apart are the same number; see `paired_differences`.

    Raises:
        InputError: where the two are not vectors of one length.

    Source: Cohen (1988); Hedges (1981).
    """
    found = paired_differences(first, second, tolerance=tolerance)
    if found.n < 3 or found.words:
        return None
    d = found.mean / found.standard_error / float(np.sqrt(found.n))
    return _hedges(found.n - 1) * d


def _hedges(df: int) -> float:
    """Hedges' correction J(df), below 1; about 1 - 3 / (4 df - 1)."""
    return float(np.exp(special.gammaln(df / 2.0) - special.gammaln((df - 1) / 2.0)) / np.sqrt(df / 2.0))
