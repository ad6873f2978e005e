"""Mean, standard deviation and t interval of a quantity over runs.

Every table and every band of the paper is one of these. One rule holds for all of them: a run whose value is
not finite diverged; it is left out and isn't counted in `n`. Tests between two conditions are in `paired`.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from nearzero.errors import InputError

__all__ = ["Summary", "check_confidence", "count", "mean", "standard_deviation", "summarise", "t_interval"]

Floats = NDArray[np.float64]
# Reasons why there is no number. Tables print them in its place.
FEWER_THAN_TWO_RUNS = "fewer than two runs"
NO_VARIANCE = "no variance"


@dataclass(frozen=True)
class Summary:
    """A quantity summarised over the runs of one network, in the unit of its values.

    Attributes:
        n: number of runs with a finite value.
        mean: their mean; NaN if n is 0.
        sd: their sample standard deviation (ddof 1); NaN if n < 2.
        population_sd: their population standard deviation (ddof 0), which the paper publishes; NaN if n is 0.
        low, high: ends of the 95 % t interval of the mean; NaN if n < 2.
    """

    n: int
    mean: float
    sd: float
    population_sd: float
    low: float
    high: float

    @property
    def reason(self) -> str:
        """Return why there is no interval: too few runs, or no variance. Empty if there is one."""
        if self.n < 2:
            return FEWER_THAN_TWO_RUNS
        return "all runs equal" if self.sd == 0.0 else ""

    def cut(self, least: float, most: float) -> "Summary":
        """Return the summary with its interval cut where values end, as those of an accuracy at 0 and 100 %."""
        low, high = (min(max(end, least), most) for end in (self.low, self.high))
        return replace(self, low=low, high=high)


def summarise(values: ArrayLike) -> Summary:
    """Summarise one value per run: number of runs, mean, standard deviations and 95 % t interval.

    Args:
        values: shape `(R,)`. Values that are not finite are left out.

    Raises:
        InputError: `values` isn't a vector.

    Example:
        >>> from nearzero.statistics.summaries import summarise
        >>> summary = summarise([1.0, 2.0, 3.0, float("nan")])  # the last run diverged
        >>> summary.n, summary.mean, summary.sd
        (3, 2.0, 1.0)
        >>> print(f"{summary.low:.2f} to {summary.high:.2f}")  # 2 -+ 4.3027 / sqrt(3)
        -0.48 to 4.48
        >>> summarise([1.0]).reason
        'fewer than two runs'
    """
    runs = _runs_last(values)
    if runs.ndim != 1:
        raise InputError(f"summarise takes one value per run, shape (R,); it saw the shape {runs.shape}")
    low, high = t_interval(runs)
    return Summary(
        n=int(count(runs)),
        mean=float(mean(runs)),
        sd=float(standard_deviation(runs, ddof=1)),
        population_sd=float(standard_deviation(runs, ddof=0)),
        low=float(low),
        high=float(high),
    )


def count(values: ArrayLike) -> NDArray[np.int64]:
    """Count the finite values along the last axis: shape `(..., R)` to `(...)`."""
    return np.asarray(np.isfinite(_runs_last(values)).sum(axis=-1), dtype=np.int64)


def mean(values: ArrayLike) -> Floats:
    """Average the finite values along the last axis: shape `(..., R)` to `(...)`; NaN if there is none.

    The first finite value is subtracted before the sum and added after it, so that the mean of equal values
    is exactly that value.
    """
    anchor, shifted, n = _shifted(values)
    return np.asarray(anchor + _ratio(shifted.sum(axis=-1), n))


def standard_deviation(values: ArrayLike, *, ddof: int) -> Floats:
    """Return the standard deviation of the finite values along the last axis: shape `(..., R)` to `(...)`.

    sd = sqrt(sum (x - mean)^2 / (n - ddof)). ddof 1 gives the sample's, ddof 0 the population's, which the
    paper publishes. NaN if n <= ddof. Exactly 0 if all values are equal.
    """
    _, shifted, n = _shifted(values)
    centre = _ratio(shifted.sum(axis=-1), n)
    present = np.isfinite(_runs_last(values))
    residual = np.where(present, shifted - centre[..., None], 0.0)
    return np.asarray(np.sqrt(_ratio((residual**2).sum(axis=-1), n - ddof)))


def t_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Return the two-sided Student t interval of the mean along the last axis.

    mean +- t(n - 1, (1 + confidence) / 2) * sd / sqrt(n), with the sample sd (ddof 1).

    Args:
        values: shape `(..., R)`, runs last. Values that are not finite are left out.
        confidence: strictly between 0 and 1.

    Returns:
        The lower and the upper end, each of shape `(...)`, in the unit of `values`; NaN if n < 2.

    Raises:
        InputError: `values` has no axis, or the confidence is out of range.

    Source: Student (1908), The probable error of a mean, Biometrika 6; `scipy.stats.t.interval` gives the
    same.

    Example:
        >>> import numpy as np
        >>> from nearzero.statistics.summaries import t_interval
        >>> low, high = t_interval([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])  # two quantities, three runs
        >>> print(np.round(low, 2), np.round(high, 2))
        [-0.48  5.  ] [4.48 5.  ]
    """
    check_confidence(confidence)
    n = count(values)
    enough = n >= 2
    quantile = special.stdtrit(np.where(enough, n - 1, 1), (1.0 + confidence) / 2.0)
    standard_error = standard_deviation(values, ddof=1) / np.sqrt(np.where(enough, n, 1))
    half = np.where(enough, quantile * standard_error, np.nan)
    centre = mean(values)
    return np.asarray(centre - half), np.asarray(centre + half)


def check_confidence(confidence: float) -> None:
    """Raise InputError if a confidence isn't strictly between 0 and 1."""
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence lies strictly between 0 and 1, for example 0.95; it was {confidence!r}")


def _runs_last(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0:
        raise InputError(f"runs lie along the last axis, but there is no axis: the value was {array!r}")
    return array


def _shifted(values: ArrayLike) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return the first finite value (...), the values minus it (..., R) with 0 where one is missing, and n (...)."""
    array = _runs_last(values)
    present = np.isfinite(array)
    filled = np.where(present, array, 0.0)
    if not array.shape[-1]:
        return np.zeros(array.shape[:-1]), filled, count(array)
    first = present.argmax(axis=-1)
    anchor = np.take_along_axis(filled, first[..., None], axis=-1)[..., 0]
    return anchor, np.where(present, filled - anchor[..., None], 0.0), count(array)


def _ratio(numerator: Any, denominator: Any) -> Floats:
    """Divide, with NaN where the denominator isn't positive."""
    positive = np.asarray(denominator) > 0
    return np.where(positive, np.asarray(numerator) / np.where(positive, denominator, 1), np.nan)
