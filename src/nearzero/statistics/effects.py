"""The size of a paired effect in standard deviations.

A p value mixes how large a difference is with how many runs there were; g_z is the first of them alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from nearzero.statistics.differences import paired_differences
from nearzero.statistics.words import FEWER_THAN_THREE_RUNS

__all__ = ["EffectSize", "effect_size"]


@dataclass(frozen=True)
class EffectSize:
    """A paired effect size; numbers without a unit.

    Attributes:
        n: runs with a finite difference.
        mean_difference: in the unit of the values; NaN where n is 0.
        g_z: Cohen's d_z, the mean of the differences over their standard deviation, times Hedges' correction, which
            frees it of bias for normal differences; None where `words` say why.
        words: empty, or `FEWER_THAN_THREE_RUNS`, `ALL_PAIRS_EQUAL` or `ALL_DIFFERENCES_EQUAL`.
    """

    n: int
    mean_difference: float
    g_z: float | None
    words: str = ""


def effect_size(
    first: ArrayLike, second: ArrayLike | None = None, *, tolerance: float | None = None
) -> EffectSize:
    """Estimate Hedges' g_z of first - second, over runs.

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
    words = FEWER_THAN_THREE_RUNS if found.n < 3 else found.words
    if words:
        return EffectSize(found.n, found.mean, None, words)
    d = found.mean / found.standard_error / float(np.sqrt(found.n))
    return EffectSize(found.n, found.mean, _hedges(found.n - 1) * d)


def _hedges(df: int) -> float:
    """Hedges' correction J(df), below 1; about 1 - 3 / (4 df - 1)."""
    return float(np.exp(special.gammaln(df / 2.0) - special.gammaln((df - 1) / 2.0)) / np.sqrt(df / 2.0))
