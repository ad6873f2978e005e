import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from nearzero.errors import InputError
from nearzero.statistics.paired import EquivalenceTest, equivalence_test


def test_by_hand() -> None:
    """Differences -1, 0, 1 and a margin of 2: se 1 / sqrt(3), t = 2 sqrt(3) and -2 sqrt(3), two degrees."""
    test = equivalence_test([-1.0, 0.0, 1.0], margin=2.0)
    t = 2 * math.sqrt(3)
    one_sided = (1 - t / math.sqrt(t**2 + 2)) / 2  # of Student's distribution with two degrees of freedom
    assert (test.n, test.mean_difference, test.reason) == (3, 0.0, "")
    assert (test.t_lower, test.t_upper) == pytest.approx((t, -t), rel=1e-14)
    assert (test.p, test.p_lower, test.p_upper) == pytest.approx((one_sided,) * 3, rel=1e-12)
    half = 2.919985580353726 / math.sqrt(3)  # t(2, 0.95)
    assert (test.low, test.high) == pytest.approx((-half, half), rel=1e-12)
    assert test.equivalent is True
    assert equivalence_test([-1.0, 0.0, 1.0], margin=1.6).equivalent is False


@pytest.mark.parametrize("centre", [0.0, 0.3, -0.9, 1.0, 5.0])
@pytest.mark.parametrize("runs", [2, 3, 5, 20])
def test_it_is_scipys_and_statsmodels(centre: float, runs: int) -> None:
    random = np.random.default_rng(runs)
    first = random.normal(98, 1, runs)
    second = first - centre + random.normal(0, 0.5, runs)
    test = equivalence_test(first, second, margin=1.0)
    p, (t_lower, p_lower, _), (t_upper, p_upper, _) = ttost_paired(first, second, -1.0, 1.0)
    ours = test.p, test.t_lower, test.p_lower, test.t_upper, test.p_upper
    assert ours == pytest.approx((p, t_lower, p_lower, t_upper, p_upper), rel=1e-10)
    difference = first - second
    lower = stats.ttest_1samp(difference, -1.0, alternative="greater")
    upper = stats.ttest_1samp(difference, 1.0, alternative="less")
    assert ours[2] == pytest.approx(lower.pvalue, rel=1e-10)
    assert ours[4] == pytest.approx(upper.pvalue, rel=1e-10)
    interval = stats.ttest_1samp(difference, 0.0).confidence_interval(0.9)
    assert (test.low, test.high) == pytest.approx((interval.low, interval.high), rel=1e-10)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_p_and_interval_say_the_same(alpha: float) -> None:
    random = np.random.default_rng(4)
    verdicts = []
    for _ in range(200):
        test = equivalence_test(random.normal(0.3, 1.0, 8), margin=1.0, alpha=alpha)
        assert test.p is not None
        assert test.equivalent is (test.p < alpha)
        verdicts.append(test.equivalent)
    assert {True, False} == set(verdicts)


def test_both_orders_and_any_unit_give_the_same_verdict() -> None:
    random = np.random.default_rng(5)
    a, b = random.normal(0.98, 0.01, (2, 10))
    forward, backward, percent = (
        equivalence_test(a, b, margin=0.01),
        equivalence_test(b, a, margin=0.01),
        equivalence_test(100 * a, 100 * b, margin=1.0),
    )
    assert forward.p == pytest.approx(backward.p, rel=1e-12)
    assert forward.p == pytest.approx(percent.p, rel=1e-9)


def test_runs_that_diverged_are_left_out() -> None:
    whole = equivalence_test([0.1, 0.2, -0.1], margin=1.0)
    assert equivalence_test([0.1, math.nan, 0.2, math.inf, -0.1], margin=1.0) == whole


def test_degenerate_cases_have_reasons() -> None:
    assert equivalence_test([0.5], margin=1.0) == EquivalenceTest(
        1, 0.5, 1.0, 0.05, reason="fewer than two runs"
    )
    for values, reason in (([0.0] * 5, "all pairs equal"), ([0.5] * 5, "all differences equal")):
        test = equivalence_test(values, margin=1.0)
        assert test.reason == reason
        assert [test.p, test.low, test.high, test.t_lower, test.equivalent] == [None] * 5
        assert test.mean_difference == values[0]
    none = equivalence_test([], margin=1.0)
    assert (none.n, none.reason) == (0, "fewer than two runs")


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_the_margin_is_positive(margin: float) -> None:
    with pytest.raises(InputError, match=r"the margin is positive .* it was .*: give the smallest"):
        equivalence_test([1.0, 2.0], margin=margin)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 5, math.nan])
def test_alpha_is_a_fraction(alpha: float) -> None:
    with pytest.raises(InputError, match=r"alpha lies strictly between 0 and 0\.5, .* it was "):
        equivalence_test([1.0, 2.0], margin=1.0, alpha=alpha)
