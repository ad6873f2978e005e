"""Simultaneous bands: intervals that hold for a whole curve at once, and not level by level.

Of 325 pointwise 95 % intervals, sixteen are expected to miss the truth. A simultaneous 95 % band misses it,
at any level, in one study of twenty. Pointwise intervals are in `summaries`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from nearzero.errors import InputError
from nearzero.statistics.bootstrap import check_draws
from nearzero.statistics.summaries import FEWER_THAN_TWO_RUNS, NO_VARIANCE, mean, standard_deviation

__all__ = ["SimultaneousBand", "simultaneous_band"]

Floats = NDArray[np.float64]
BLOCK = 1 << 21  # random numbers drawn at once, so that memory doesn't grow with the number of draws


@dataclass(frozen=True, eq=False)
class SimultaneousBand:
    """A band for the mean curve, in the unit of the curves.

    Attributes:
        n: number of runs used.
        left_out: number of runs without a finite value, which diverged.
        mean, low, high: shape `(L,)`. NaN at levels at which a used run has no value; `low` and `high` are
            NaN everywhere if `reason` isn't empty. At a flat level all three are equal.
        flat: shape `(L,)`; True at levels at which all runs are equal up to rounding. There the interval has
            no width, and the band claims nothing.
        critical_value: the half-width of the band in standard errors; None if `reason` isn't empty.
        confidence: probability that the band holds the mean curve at all levels that aren't flat.
        reason: why there is no band: `FEWER_THAN_TWO_RUNS`, or `NO_VARIANCE` if every level is flat; else
            empty.
    """

    n: int
    left_out: int
    mean: Floats
    low: Floats
    high: Floats
    flat: NDArray[np.bool_]
    critical_value: float | None
    confidence: float
    reason: str = ""


def simultaneous_band(
    curves: ArrayLike,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    draws: int = 4000,
) -> SimultaneousBand:
    """Compute a band for the mean of curves over runs that holds at all levels at once.

    The band is mean_l +- c * sd_l / sqrt(n), ddof 1, with one c for all levels (sup-t). c is the `confidence`
    quantile of max_l |t_l|, for t statistics of n runs drawn from a normal distribution with mean 0 and the
    estimated correlation of the levels; each drawn t_l has its own drawn standard deviation. (The usual sup-t
    divides by the estimated standard error instead, which is right for many runs only.) c is kept between the
    pointwise quantile and Bonferroni's, t(n - 1, 1 - (1 - confidence) / (2 L)), with L the number of levels
    that aren't flat.

    Args:
        curves: shape `(R, L)`, runs by levels. A run without any finite value diverged and is left out. A
            level at which one of the other runs has no value gets no band.
        rng: a NumPy generator, `numpy.random.default_rng(seed)`.
        confidence: strictly between 0 and 1.
        draws: at least 100.

    Raises:
        InputError: the shape, `rng`, the number of draws or the confidence is wrong.

    Source: Montiel Olea and Plagborg-Møller (2019), Simultaneous confidence bands: theory, implementation,
    and an application to SVARs, Journal of Applied Econometrics 34.

    Example:
        >>> import numpy as np
        >>> from nearzero.statistics.bands import simultaneous_band
        >>> curves = np.random.default_rng(0).standard_normal((8, 5))  # 8 runs at 5 levels
        >>> band = simultaneous_band(curves, rng=np.random.default_rng(1))
        >>> band.n, band.low.shape
        (8, (5,))
        >>> bool(band.critical_value > 2.36)  # a pointwise t interval has 2.36 standard errors
        True
    """
    check_draws(rng, confidence, draws, "a band takes at least 100 draws, better 4,000")
    array = np.asarray(curves, dtype=np.float64)
    if array.ndim != 2:
        raise InputError(f"a band takes runs by levels, shape (R, L); it saw the shape {array.shape}")
    kept = np.isfinite(array).any(axis=1)
    runs = array[kept]
    n, left_out = len(runs), int((~kept).sum())
    complete = np.isfinite(runs).all(axis=0)
    centre = np.where(complete, mean(runs.T), np.nan)
    sd = np.where(complete, standard_deviation(runs.T, ddof=1), np.nan)
    flat = complete & _all_equal(runs) if n >= 2 else np.zeros(array.shape[1], dtype=np.bool_)
    varying = complete & ~flat
    if n < 2 or not varying.any():
        reason = FEWER_THAN_TWO_RUNS if n < 2 else NO_VARIANCE
        nothing = np.full(array.shape[1], np.nan)
        return SimultaneousBand(n, left_out, centre, nothing, nothing, flat, None, confidence, reason)
    tail = (1.0 - confidence) / 2.0
    pointwise, bonferroni = special.stdtrit(n - 1, [1.0 - tail, 1.0 - tail / np.count_nonzero(varying)])
    residuals = (runs[:, varying] - centre[varying]) / (sd[varying] * np.sqrt(n - 1))
    c = float(np.clip(np.quantile(_greatest_t(residuals, rng, draws), confidence), pointwise, bonferroni))
    half = np.where(flat, 0.0, c * sd / np.sqrt(n))
    return SimultaneousBand(n, left_out, centre, centre - half, centre + half, flat, c, confidence)


def _greatest_t(residuals: Floats, rng: np.random.Generator, draws: int) -> Floats:
    """Draw max_l |t_l| of n normal runs, shape `(draws,)`, with the correlation residuals' residuals `(n, L)`.

    A row of standard normal numbers times the residuals has that correlation. The mean of n such runs is
    independent of their scatter, and the scatter is distributed as that of n - 1 further rows with mean 0. So
    n rows are drawn: the first gives the mean, the others the scatter.
    """
    n, levels = residuals.shape
    rows = max(1, BLOCK // (n * max(n, levels)))
    greatest = np.empty(draws)
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        squares = np.square(rng.standard_normal((size * n, n)) @ residuals).reshape(size, n, levels)
        ratio = squares[:, 0] * (n - 1) / squares[:, 1:].sum(axis=1)
        greatest[start : start + size] = np.sqrt(ratio.max(axis=1))
    return greatest


def _all_equal(runs: Floats) -> NDArray[np.bool_]:
    """Return at which levels all runs `(n, L)` are equal, up to the rounding of averages and percentages."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.ptp(runs, axis=0) <= 8.0 * np.finfo(np.float64).eps * np.abs(runs).max(axis=0))
