"""The size of a paired effect in standard deviations, with its interval.

A p value mixes how large a difference is with how many runs there were; d_z is the first of them alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special
from scipy.optimize import brentq

from nearzero.errors import InputError
from nearzero.statistics.differences import paired_differences
from nearzero.statistics.words import FEWER_THAN_THREE_RUNS

__all__ = ["EffectSize", "effect_size"]

# Beyond this t SciPy's noncentral t distribution loses digits, and far beyond it is NaN. There it's summed over Z,
# of which a smooth function with the scale t is the expectation: few nodes are exact to the last digits.
LARGE_T = 100.0
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(32)


@dataclass(frozen=True)
class EffectSize:
    """A paired effect size; numbers without a unit.

    Attributes:
        n: runs with a finite difference.
        mean_difference: in the unit of the values; NaN where n is 0.
        d_z: Cohen's d of the differences, their mean over their standard deviation; None where `words` say why.
        g_z: d_z times Hedges' correction, which is free of bias for normal differences; None where d_z is.
        low, high: ends of the interval of the population's d_z; None where d_z is.
        confidence: of that interval.
        words: empty, or `FEWER_THAN_THREE_RUNS`, `ALL_PAIRS_EQUAL` or `ALL_DIFFERENCES_EQUAL`.
    """

    n: int
    mean_difference: float
    d_z: float | None
    g_z: float | None
    low: float | None
    high: float | None
    confidence: float
    words: str = ""


def effect_size(
    first: ArrayLike,
    second: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    tolerance: float | None = None,
) -> EffectSize:
    """Estimate Cohen's d_z of first - second, over runs, with Hedges' correction and its interval.

    d_z = mean(d) / sd(d), ddof 1, and g_z = J(n - 1) d_z with J(m) = G(m / 2) / (sqrt(m / 2) G((m - 1) / 2)),
    G the gamma function. t = d_z sqrt(n) has a noncentral t distribution with n - 1 degrees of freedom and
    noncentrality delta sqrt(n): the ends of the interval are the delta at which the t that was found is its
    upper and its lower (1 - confidence) / 2 quantile. Exact for normal differences. With two runs g_z
    doesn't exist (the expectation of d_z is infinite), so that at least three are asked for.

    Args:
        first: one value per run, shape `(R,)`; runs in which a value is not finite are left out.
        second: the same runs in the same order, shape `(R,)`; None where `first` holds differences already.
        confidence: strictly between 0 and 1.
        tolerance: differences no further apart are the same number; see `paired_differences`.

    Raises:
        InputError: where the two are not vectors of one length, or the confidence is out of range.

    Source: Cohen (1988); Hedges (1981); Cumming and Finch (2001) for the interval.
    """
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence lies strictly between 0 and 1, for example 0.95; it was {confidence!r}")
    found = paired_differences(first, second, tolerance=tolerance)
    words = FEWER_THAN_THREE_RUNS if found.n < 3 else found.words
    if words:
        return EffectSize(found.n, found.mean, None, None, None, None, confidence, words)
    root, df = float(np.sqrt(found.n)), found.n - 1
    t = found.mean / found.standard_error
    tail = (1.0 - confidence) / 2.0
    low, high = (_noncentrality(t, df, p) / root for p in (1.0 - tail, tail))
    d = t / root
    return EffectSize(found.n, found.mean, d, _hedges(df) * d, low, high, confidence)


def _hedges(df: int) -> float:
    """Hedges' correction J(df), below 1; about 1 - 3 / (4 df - 1)."""
    return float(np.exp(special.gammaln(df / 2.0) - special.gammaln((df - 1) / 2.0)) / np.sqrt(df / 2.0))


def _noncentrality(t: float, df: int, p: float) -> float:
    """Return the noncentrality at which P(T <= t) = p.

    For t >= 0 it is bracketed: P(T <= t) >= P(Z + noncentrality <= 0), and P(T <= t) <= P(V > v) +
    P(Z + noncentrality <= t v) for every v, with v chosen so that both terms are p / 2 at the upper end.
    """
    if t < 0.0:
        return -_noncentrality(-t, df, 1.0 - p)
    low = -special.ndtri(p)
    high = t * np.sqrt(special.chdtri(df, p / 2.0) / df) - special.ndtri(p / 2.0)
    # One more on both sides: at an end of the bracket rounding could give the difference the other sign.
    root = brentq(lambda each: _below(t, df, each) - p, low - 1.0, high + 1.0, xtol=1e-14, rtol=1e-14)
    return float(root)


def _below(t: float, df: int, noncentrality: float) -> float:
    """P(T <= t) for t >= 0, where T = (Z + noncentrality) / V with Z normal and V^2 = chi^2 / df."""
    if t <= LARGE_T:
        p = float(special.nctdtr(df, noncentrality, t))
        return p if np.isfinite(p) else float(noncentrality < t)  # SciPy has NaN at places far in the tails
    v = np.maximum(NODES + noncentrality, 0.0) / t
    return float(WEIGHTS @ special.chdtrc(df, df * v**2) / np.sqrt(2.0 * np.pi))
