"""Adjust the p values of many tests in one table, so that the probability of any false rejection stays small.

Holm's method assumes nothing about how the tests depend on each other, and is never weaker than Bonferroni's.

The method is written out here because it takes four lines. statsmodels has it as
`multipletests(method="holm")`, but statsmodels would be one more dependency (with patsy and formulaic) for
every user of nearzero, and it counts a test that isn't available, NaN, as a test. Our tests compare these
lines with statsmodels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearzero.errors import InputError

__all__ = ["holm"]


def holm(p_values: ArrayLike | Sequence[float | None]) -> NDArray[np.float64]:
    """Adjust the p values of a family of tests by Holm's step-down method.

    With p_(1) <= ... <= p_(m): adjusted p_(i) = max over j <= i of min(1, (m - j + 1) p_(j)). Rejecting every
    test whose adjusted p is below alpha keeps the probability of any false rejection at alpha or below,
    however the tests depend on each other.

    Args:
        p_values: of any shape; all of them form one family. NaN or None means that a test isn't available
            (there is a reason in place of its p value); it isn't counted in m.

    Returns:
        The adjusted p values, in the shape of `p_values`; NaN where a test isn't available.

    Raises:
        InputError: a p value isn't between 0 and 1.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6; `statsmodels.stats.multitest.multipletests(method="holm")` gives the same.

    Example:
        >>> from nearzero.statistics.multiplicity import holm
        >>> holm([0.25, 0.0625, 0.5]).tolist()  # 2 * 0.25, 3 * 0.0625 and 1 * 0.5
        [0.5, 0.1875, 0.5]
        >>> holm([0.25, None, 0.5]).tolist()  # two tests
        [0.5, nan, 0.5]
    """
    p = np.asarray(p_values, dtype=np.float64)
    present = ~np.isnan(p)
    family = p[present]
    if outside := family[(family < 0.0) | (family > 1.0)].tolist():
        raise InputError(
            f"p values lie between 0 and 1; {len(outside)} did not, the first of them {outside[0]!r}: "
            "give NaN where a test is not available"
        )
    m = family.size
    order = np.argsort(family, kind="stable")
    stepped = np.minimum(np.maximum.accumulate((m - np.arange(m)) * family[order]), 1.0)
    unsorted = np.empty(m)
    unsorted[order] = stepped
    adjusted = np.full(p.shape, np.nan)
    adjusted[present] = unsorted
    return adjusted
