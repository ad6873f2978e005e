"""The ratio of two means over the same runs, with Fieller's interval.

An interval of the mean of ratios would be dominated by the runs whose denominator is near 0. Fieller's interval
is that of the ratio of means, and says so where the denominator can't be told from 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from nearzero.errors import InputError
from nearzero.statistics.summaries import check_confidence

__all__ = ["Ratio", "ratio_of_means"]


@dataclass(frozen=True)
class Ratio:
    """A ratio of means, with its interval.

    Attributes:
        n: the number of runs in which both values are finite.
        ratio: mean numerator / mean denominator; None if `reason` isn't empty.
        low, high: the bounds of the interval; None if `reason` isn't empty.
        reason: why there is no ratio: "fewer than two runs", or "the denominator's interval contains 0"; else
            empty.
    """

    n: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        """Return the ratio with its interval, "0.46 (0.43 to 0.50)", or why there is none."""
        if self.ratio is None:
            return f"undefined, since {self.reason}"
        return f"{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio_of_means(numerator: ArrayLike, denominator: ArrayLike, confidence: float = 0.95) -> Ratio:
    """Return the ratio of two means over the same runs, with Fieller's interval.

    The interval has all r for which a t-test of mean(x - r y) = 0 isn't significant: with the variances and the
    covariance of the two means, s_xx, s_yy, s_xy, and the quantile t of n - 1 degrees of freedom, the roots of
    (mean(y)^2 - t^2 s_yy) r^2 - 2 (mean(x) mean(y) - t^2 s_xy) r + mean(x)^2 - t^2 s_xx = 0. It is bounded
    exactly if the t interval of mean(y) doesn't contain 0.

    Args:
        numerator: x, one value per run, shape `(R,)`; runs in which a value isn't finite are left out.
        denominator: y, the same runs in the same order, shape `(R,)`.
        confidence: strictly between 0 and 1.

    Raises:
        InputError: the two aren't vectors of the same length, or the confidence is out of range.

    Source: Fieller (1954), Some problems in interval estimation, Journal of the Royal Statistical Society B 16.

    Example:
        >>> from nearzero.statistics.ratios import ratio_of_means
        >>> found = ratio_of_means([4.5, 5.0, 5.5], [9.0, 10.0, 11.0])  # x = y / 2 in every run
        >>> found.ratio, found.low, found.high
        (0.5, 0.5, 0.5)
        >>> found.text
        '0.50 (0.50 to 0.50)'
        >>> ratio_of_means([1.0, 2.0, 3.0], [-1.0, 0.0, 1.5]).reason
        "the denominator's interval contains 0"
    """
    check_confidence(confidence)
    x, y = (np.asarray(values, dtype=np.float64) for values in (numerator, denominator))
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(
            f"a ratio over runs takes two vectors of one length, shape (R,); it saw {x.shape} and {y.shape}: give one "
            "value per run, the runs of both in the same order"
        )
    present = np.isfinite(x) & np.isfinite(y)
    x, y = x[present], y[present]
    n = len(x)
    if n < 2:
        return Ratio(n, reason="fewer than two runs")
    (xx, xy), (_, yy) = np.cov(x, y) / n
    mean_x, mean_y, t2 = x.mean(), y.mean(), special.stdtrit(n - 1, (1.0 + confidence) / 2.0) ** 2
    a, b, c = mean_y**2 - t2 * yy, mean_x * mean_y - t2 * xy, mean_x**2 - t2 * xx
    if not a > 0:
        return Ratio(n, reason="the denominator's interval contains 0")
    half = np.sqrt(max(b * b - a * c, 0.0))  # below 0 by rounding alone
    return Ratio(n, float(mean_x / mean_y), float((b - half) / a), float((b + half) / a))
