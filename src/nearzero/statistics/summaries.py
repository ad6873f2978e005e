"""Mean, standard deviation and t interval of a quantity over runs.

Every table and band of the paper is one of these. They live together because they share one rule: a run
whose value is not finite diverged, is left out, and is missing from `n`. Tests between two conditions
live in `paired`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from nearzero.errors import InputError

__all__ = ["Summary", "check_confidence", "count", "mean", "standard_deviation", "summarise", "t_interval"]

Floats = NDArray[np.float64]
# Words that stand where a number would mean nothing.
FEWER_THAN_TWO_RUNS = "fewer than two runs"
NO_VARIANCE = "no variance"


@dataclass(frozen=True)
class Summary:
    """One quantity over the runs of one network, in the unit of the values it was made from.

    Attributes:
        n: runs with a finite value.
        mean: their mean; NaN where n is 0.
        sd: their sample standard deviation (ddof 1); NaN where n < 2.
        population_sd: with ddof 0, as the paper publishes it; NaN where n is 0.
        low, high: ends of the 95 % t interval of the mean; NaN where n < 2.
    """

    n: int
    mean: float
    sd: float
    population_sd: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """What to say in place of an interval: too few runs, or no variance; empty where there is one."""
        if self.n < 2:
            return FEWER_THAN_TWO_RUNS
        return "all runs equal" if self.sd == 0.0 else ""


def summarise(values: ArrayLike) -> Summary:
    """Summarise one vector of runs, shape `(R,)`; see `Summary`."""
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
    """Count the finite values of the last axis: shape `(..., R)` to `(...)`."""
    return np.asarray(np.isfinite(_runs_last(values)).sum(axis=-1), dtype=np.int64)


def mean(values: ArrayLike) -> Floats:
    """Average the finite values of the last axis, shape `(..., R)` to `(...)`; NaN where there is none.

    The sum is taken of the values less the first of them, so that the mean of equal values is that value.
    """
    anchor, shifted, n = _shifted(values)
    return np.asarray(anchor + _ratio(shifted.sum(axis=-1), n))


def standard_deviation(values: ArrayLike, *, ddof: int) -> Floats:
    """Standard deviation of the finite values of the last axis, shape `(..., R)` to `(...)`.

    sd = sqrt(sum (x - mean)^2 / (n - ddof)): ddof 1 for the sample's, ddof 0 for the population's, which
    the paper publishes. NaN where n <= ddof. Exactly 0 where all values are equal.
    """
    _, shifted, n = _shifted(values)
    centre = _ratio(shifted.sum(axis=-1), n)
    present = np.isfinite(_runs_last(values))
    residual = np.where(present, shifted - centre[..., None], 0.0)
    return np.asarray(np.sqrt(_ratio((residual**2).sum(axis=-1), n - ddof)))


def t_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Two-sided Student t interval of the mean over the last axis.

    mean +- t(n - 1, (1 + confidence) / 2) * sd / sqrt(n), with the sample sd (ddof 1).

    Args:
        values: shape `(..., R)`, runs last; what is not finite is left out.
        confidence: strictly between 0 and 1.

    Returns:
        Lower and upper end, each of shape `(...)`, in the unit of `values`; NaN where n < 2.

    Source: Student (1908); `scipy.stats.t.interval` gives the same.
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
    """Refuse a confidence that isn't strictly between 0 and 1."""
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence lies strictly between 0 and 1, for example 0.95; it was {confidence!r}")


def _runs_last(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0:
        raise InputError(f"runs lie along the last axis, but there is no axis: the value was {array!r}")
    return array


def _shifted(values: ArrayLike) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return the first finite value (...), the values less it (..., R) with 0 for the missing, and n."""
    array = _runs_last(values)
    present = np.isfinite(array)
    known = np.where(present, array, 0.0)
    if not array.shape[-1]:
        return np.zeros(array.shape[:-1]), known, count(array)
    first = present.argmax(axis=-1)
    anchor = np.take_along_axis(known, first[..., None], axis=-1)[..., 0]
    return anchor, np.where(present, known - anchor[..., None], 0.0), count(array)


def _ratio(numerator: Any, denominator: Any) -> Floats:
    """Divide, with NaN where the denominator is not positive."""
    positive = np.asarray(denominator) > 0
    return np.where(positive, np.asarray(numerator) / np.where(positive, denominator, 1), np.nan)
