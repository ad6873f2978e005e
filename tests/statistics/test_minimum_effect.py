"""The minimum-effect test, against one-sided tests of SciPy."""

import numpy as np
import pytest
from scipy import stats

import nearzero as nz
from nearzero.statistics.paired import equivalence_test, minimum_effect_test


@pytest.mark.parametrize("centre", [-3.0, -1.2, -0.3, 0.0, 0.9, 1.0, 1.4, 2.5])
@pytest.mark.parametrize("runs", [3, 6, 20])
def test_p_is_twice_the_smaller_of_two_one_sided_tests(centre, runs):
    first, second = np.random.default_rng(runs).normal([[centre], [0.0]], 0.7, (2, runs))
    above = stats.ttest_1samp(first - second, 1.0, alternative="greater").pvalue
    below = stats.ttest_1samp(first - second, -1.0, alternative="less").pvalue
    assert minimum_effect_test(first, second, margin=1.0) == pytest.approx(
        min(1, 2 * min(above, below)), rel=1e-10
    )


def test_it_never_agrees_with_the_equivalence_test():
    for centre in np.linspace(-2, 2, 41):
        values = centre + np.array([-0.3, -0.1, 0.0, 0.1, 0.3, 0.2])
        p = minimum_effect_test(values, margin=1.0)
        assert not (p < 0.05 and equivalence_test(values, margin=1.0).equivalent)


def test_equal_differences_have_no_test_and_a_margin_is_positive():
    assert minimum_effect_test([2.0, 2.0, 2.0], margin=1.0) is None
    assert minimum_effect_test([2.0], margin=1.0) is None
    with pytest.raises(nz.InputError, match="the margin is positive"):
        minimum_effect_test([1.0, 2.0], margin=0.0)
