"""Simultaneous bands: one statement about a whole curve, and not one for each of its levels.

Pointwise intervals at 325 levels are expected to miss the truth at sixteen of them; a simultaneous band
misses anywhere in one study of twenty. Pointwise intervals live in `summaries`.
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
BLOCK = 1 << 21  # numbers at a time


@dataclass(frozen=True, eq=False)
class SimultaneousBand:
    """A band for the mean curve, in the unit of the curves.

    Attributes:
        n: runs that were used.
        left_out: runs without a finite value, which diverged.
        mean, low, high: shape `(L,)`. NaN at levels where a run that was used has no value; NaN throughout
            low and high where `words` say why. At a flat level all three are the same.
        flat: shape `(L,)`; levels at which all runs are equal up to rounding. Their interval has no width, and
            the band says nothing about them.
        critical_value: how many standard errors the band reaches to either side; None where `words` say why.
        confidence: that the mean curve lies within the band at all levels that aren't flat.
        words: empty, or `FEWER_THAN_TWO_RUNS` or `NO_VARIANCE` (where every level is flat).
    """

    n: int
    left_out: int
    mean: Floats
    low: Floats
    high: Floats
    flat: NDArray[np.bool_]
    critical_value: float | None
    confidence: float
    words: str = ""


def simultaneous_band(
    curves: ArrayLike,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    draws: int = 4000,
) -> SimultaneousBand:
    """Band for the mean of curves over runs that holds at all levels at once.

    mean_l +- c * sd_l / sqrt(n), ddof 1, with one c for all levels (sup-t): the `confidence` quantile of
    max_l |t_l|, the t statistics of n runs drawn from a normal distribution with mean 0 and the correlation of
    levels that was estimated; each drawn t_l has its own drawn standard deviation. (The usual sup-t divides by
    the standard error found, which is right for many runs only.) c is kept between the pointwise quantile and
    Bonferroni's, t(n - 1, 1 - (1 - confidence) / (2 L)), L the levels that aren't flat.

    Args:
        curves: shape `(R, L)`. A run without a finite value diverged and is left out; a level at which one of
            the others has no value gets no band.
        rng: `numpy.random.default_rng(seed)`.
        confidence: strictly between 0 and 1.
        draws: at least 100.

    Raises:
        InputError: where a shape, `rng`, the draws or the confidence is wrong.

    Source: Montiel Olea and Plagborg-Møller (2019), Simultaneous confidence bands: theory, implementation,
    and an application to SVARs, Journal of Applied Econometrics 34.
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
    flat = complete & _equal(runs) if n >= 2 else np.zeros(array.shape[1], dtype=np.bool_)
    live = complete & ~flat
    if n < 2 or not live.any():
        words = FEWER_THAN_TWO_RUNS if n < 2 else NO_VARIANCE
        nothing = np.full(array.shape[1], np.nan)
        return SimultaneousBand(n, left_out, centre, nothing, nothing, flat, None, confidence, words)
    tail = (1.0 - confidence) / 2.0
    pointwise, bonferroni = special.stdtrit(n - 1, [1.0 - tail, 1.0 - tail / np.count_nonzero(live)])
    residuals = (runs[:, live] - centre[live]) / (sd[live] * np.sqrt(n - 1))
    c = float(np.clip(np.quantile(_greatest_t(residuals, rng, draws), confidence), pointwise, bonferroni))
    half = np.where(flat, 0.0, c * sd / np.sqrt(n))
    return SimultaneousBand(n, left_out, centre, centre - half, centre + half, flat, c, confidence)


def _greatest_t(residuals: Floats, rng: np.random.Generator, draws: int) -> Floats:
    """Draw max_l |t_l| of n normal runs, shape `(draws,)`, with the correlation residuals' residuals `(n, L)`.

    A normal row times the residuals has that correlation. The mean of n such runs and their scatter, which is
    that of n - 1 further ones, are independent.
    """
    n, levels = residuals.shape
    rows = max(1, BLOCK // (n * levels))
    greatest = np.empty(draws)
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        drawn = np.square(rng.standard_normal((size * n, n)) @ residuals).reshape(size, n, levels)
        ratio = drawn[:, 0] * (n - 1) / drawn[:, 1:].sum(axis=1)
        greatest[start : start + size] = np.sqrt(ratio.max(axis=1))
    return greatest


def _equal(runs: Floats) -> NDArray[np.bool_]:
    """Levels at which all runs are equal, up to the rounding that averages and percentages carry."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.ptp(runs, axis=0) <= 8.0 * np.finfo(np.float64).eps * np.abs(runs).max(axis=0))
