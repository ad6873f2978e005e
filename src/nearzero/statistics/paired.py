"""The paired t-test between two conditions of the same runs.

It exists beside SciPy's for the cases in which a t-test has no answer, which this study meets all the
time: at a level that changes no prediction every pair is equal, and 0 / 0 is not a result. Those cases
get words, for a table to show in place of NaN. Means and intervals live in `summaries`.
"""

from dataclasses import dataclass

from numpy.typing import ArrayLike
from scipy import special

from nearzero.statistics.differences import paired_differences

__all__ = ["PairedTest", "paired_t_test"]


@dataclass(frozen=True)
class PairedTest:
    """What a paired t-test found.

    Attributes:
        n: pairs in which both values are finite.
        mean_difference: mean of first minus second, in the unit of the values; NaN where n is 0.
        t, p: the statistic and its two-sided p value; both None where `words` say why there are none.
        words: empty, or `FEWER_THAN_TWO_RUNS`, `ALL_PAIRS_EQUAL` or `ALL_DIFFERENCES_EQUAL`.
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
