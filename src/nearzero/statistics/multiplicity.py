"""Many tests in one table: p values adjusted so that all of them together err rarely.

Holm's method needs no assumption about how the tests depend on each other, and is never weaker than
Bonferroni's.

It is written out here because it takes four lines. statsmodels has it as `multipletests(method="holm")`, but would
be one more dependency (with patsy and formulaic) of everyone who installs nearzero, and it counts a test that was not
available, NaN, as a test. The tests check these lines against it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearzero.errors import InputError

__all__ = ["holm"]


def holm(p_values: ArrayLike | Sequence[float | None]) -> NDArray[np.float64]:
    """Adjust the p values of a family of tests by Holm's step-down method.

    With p_(1) <= ... <= p_(m): adjusted p_(i) = max over j <= i of min(1, (m - j + 1) p_(j)). To reject
    wherever the adjusted p is below alpha keeps the probability of any false rejection at alpha or below,
    whatever the dependence of the tests.

    Args:
        p_values: any shape, the whole of it one family. NaN or None stands for a test that was not available
            (words in place of a number); it isn't counted in m.

    Returns:
        The adjusted p values, of the shape of those given; NaN where a test was not available.

    Raises:
        InputError: where a p value lies outside of 0 to 1.

    Source: Holm (1979); `statsmodels.stats.multitest.multipletests(method="holm")` gives the same.
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
    back = np.empty(m)
    back[order] = stepped
    adjusted = np.full(p.shape, np.nan)
    adjusted[present] = back
    return adjusted
