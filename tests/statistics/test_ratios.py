"""Fieller's interval, against a search for its defining property, and its coverage."""

import numpy as np
import pytest
from scipy import optimize, stats

import nearzero as nz
from nearzero.statistics.ratios import ratio_of_means


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_bounds_are_where_a_paired_t_test_of_x_and_r_y_is_just_significant(confidence):
    rng = np.random.default_rng(3)
    y = rng.normal(5.0, 1.0, 12)
    x = 0.4 * y + rng.normal(0.0, 0.8, 12)
    found = ratio_of_means(x, y, confidence)

    def excess(r: float) -> float:
        return float(stats.ttest_rel(x, r * y).pvalue - (1 - confidence))

    low, high = (optimize.brentq(excess, found.ratio, end, xtol=1e-15, rtol=1e-14) for end in (-5.0, 5.0))
    assert found.ratio == pytest.approx(x.mean() / y.mean(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-10)


def test_the_ratio_is_undefined_exactly_if_the_interval_of_the_denominator_contains_0():
    rng = np.random.default_rng(0)
    defined = []
    for shift in np.linspace(-1.5, 1.5, 25):
        x, y = rng.normal([[1.0], [shift]], 1.0, (2, 8))
        contains = stats.ttest_1samp(y, 0.0).pvalue >= 0.05
        found = ratio_of_means(x, y)
        assert (found.reason == "the denominator's interval contains 0") == contains
        assert (found.low is None) == contains
        defined.append(not contains)
    assert 0 < sum(defined) < len(defined)


def test_coverage():
    rng = np.random.default_rng(7)
    studies, runs, truth = 4000, 10, 0.6
    y = rng.normal(4.0, 1.5, (studies, runs))
    x = truth * 4.0 + 0.7 * (y - 4.0) + rng.normal(0.0, 1.0, (studies, runs))
    found = [ratio_of_means(*pair) for pair in zip(x, y, strict=True)]
    covered = sum(each.low is None or each.low <= truth <= each.high for each in found)
    interval = stats.binomtest(covered, studies).proportion_ci(0.999)
    assert interval.low <= 0.95 <= interval.high


def test_runs_without_both_values_are_left_out():
    assert ratio_of_means([1.0, 2.0, np.nan, 5.0], [2.0, 5.0, 1.0, np.nan]) == ratio_of_means(
        [1.0, 2.0], [2.0, 5.0]
    )
    assert ratio_of_means([1.0], [2.0]).reason == "fewer than two runs"
    with pytest.raises(nz.InputError, match=r"two vectors of one length.*\(2,\) and \(3,\)"):
        ratio_of_means([1, 2], [1, 2, 3])
