"""Equivalence of two conditions: that a mean difference is small, and not merely not found to be large.

A paired t-test that finds nothing says little; two one-sided tests against a margin say that a difference
of that size can be ruled out. The margin is a judgement and comes before the data.
"""

from dataclasses import dataclass

from numpy.typing import ArrayLike
from scipy import special

from nearzero.errors import InputError
from nearzero.statistics.differences import paired_differences
from nearzero.statistics.summaries import t_interval

__all__ = ["EquivalenceTest", "equivalence_test"]


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
        words: empty, or `FEWER_THAN_TWO_RUNS`, `ALL_PAIRS_EQUAL` or `ALL_DIFFERENCES_EQUAL`.
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
