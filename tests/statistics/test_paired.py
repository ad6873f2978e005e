import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from nearzero.errors import InputError
from nearzero.statistics.differences import rounding_tolerance
from nearzero.statistics.paired import PairedTest, paired_t_test

EXAMPLES = 60_000


def test_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, sd 1, t = 2 sqrt(3); p = 1 - t / sqrt(t^2 + 2) with two degrees."""
    test = paired_t_test([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    t = 2 * math.sqrt(3)
    assert (test.n, test.mean_difference, test.reason) == (3, 2.0, "")
    assert test.t == pytest.approx(t, rel=1e-14)
    assert test.p == pytest.approx(1 - t / math.sqrt(t**2 + 2), rel=1e-12)


@pytest.mark.parametrize("gap", [0.0, 0.01, 1.0, 30.0])
@pytest.mark.parametrize("runs", [2, 3, 20])
def test_it_is_scipys_and_statsmodels(gap: float, runs: int) -> None:
    random = np.random.default_rng(runs)
    first = random.normal(98, 0.1, runs)
    second = first - gap + random.normal(0, 0.05, runs)
    test, expected = paired_t_test(first, second), stats.ttest_rel(first, second)
    assert (test.t, test.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-10)
    t, p, _ = DescrStatsW(first - second).ttest_mean(0)
    assert (test.t, test.p) == pytest.approx((t, p), rel=1e-10)
    reverse = paired_t_test(second, first)
    assert reverse.t is not None
    assert (-reverse.t, reverse.p) == (test.t, test.p)


def test_a_baseline_that_is_better_gives_a_positive_t() -> None:
    test = paired_t_test([0.99, 0.98, 0.99], [0.50, 0.51, 0.52])
    assert test.t is not None
    assert test.t > 0
    assert test.mean_difference > 0


def test_pairs_with_a_run_that_diverged_are_left_out() -> None:
    first = np.array([0.9, np.nan, 0.8, 0.7, 0.95])
    second = np.array([0.5, 0.4, np.inf, 0.2, 0.7])
    assert paired_t_test(first, second) == paired_t_test(first[[0, 3, 4]], second[[0, 3, 4]])
    assert paired_t_test(first, second).n == 3


def test_tiny_p_values_do_not_become_nonsense() -> None:
    first = np.full(20, 1.0)
    second = np.tile([1e-9, 0.0], 10)
    test = paired_t_test(first, second)
    assert test.p is not None
    assert 0.0 <= test.p < 1e-100


def counts(seed: int, runs: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(1000, EXAMPLES - 1000, runs)


@pytest.mark.parametrize("scale", [1, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counts_that_differ_by_a_constant_have_no_t(scale: int, dtype: type) -> None:
    noisy = 0
    for seed in range(50):
        k = counts(seed)
        first = scale * (k / EXAMPLES).astype(dtype)
        second = scale * ((k - 37) / EXAMPLES).astype(dtype)
        noisy += np.ptp(first.astype(float) - second.astype(float)) > 0
        test = paired_t_test(first, second)
        assert (test.t, test.p, test.reason) == (None, None, "all differences equal")
        assert test.mean_difference == pytest.approx(scale * 37 / EXAMPLES, rel=1e-2)
    assert noisy > 40  # without a tolerance nearly every one would have had a t


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_example_more_in_one_run_is_no_noise(dtype: type) -> None:
    k = counts(3)
    other = k.copy()
    other[7] += 1
    test = paired_t_test((k / EXAMPLES).astype(dtype), (other / EXAMPLES).astype(dtype))
    assert test.reason == ""
    assert test.t == pytest.approx(-1.0, rel=1e-3)
    shifted = paired_t_test((k / EXAMPLES).astype(dtype), ((other - 5) / EXAMPLES).astype(dtype))
    assert shifted.reason == ""


def test_equal_pairs_up_to_rounding_have_reasons() -> None:
    k = counts(5) / EXAMPLES
    assert paired_t_test(k, k) == PairedTest(20, 0.0, None, None, "all pairs equal")
    noise = np.nextafter(k, np.tile([0.0, 1.0], 10))
    assert np.any(noise != k)
    assert paired_t_test(k, noise) == PairedTest(20, 0.0, None, None, "all pairs equal")
    assert paired_t_test([0.0, 0.0], [0.0, 0.0]).reason == "all pairs equal"
    assert paired_t_test([1, 2, 3], [1, 2, 3]).reason == "all pairs equal"


def test_integers_are_compared_as_numbers() -> None:
    assert paired_t_test(np.array([3, 4, 7]), np.array([1, 2, 5])).reason == "all differences equal"
    unsigned = paired_t_test(np.array([1, 2, 3], np.uint8), np.array([2, 4, 3], np.uint8))
    assert unsigned.mean_difference == -1.0


def test_the_tolerance_follows_type_and_size() -> None:
    values = np.array([0.5, 1.0])
    assert rounding_tolerance(values, values) == 8 * 2.0**-52
    assert rounding_tolerance(100 * values, values) == 800 * 2.0**-52
    assert rounding_tolerance(values.astype(np.float32), values) == 8 * 2.0**-23
    assert rounding_tolerance(np.array([]), np.array([])) == 0.0


def test_too_few_pairs_have_reasons() -> None:
    assert paired_t_test([0.5], [0.25]) == PairedTest(1, 0.25, None, None, "fewer than two runs")
    none = paired_t_test([np.nan, 1.0], [1.0, np.nan])
    assert (none.n, none.reason) == (0, "fewer than two runs")
    assert math.isnan(none.mean_difference)


@pytest.mark.parametrize(("first", "second"), [([1.0, 2.0], [1.0]), ([[1.0, 2.0]], [[1.0, 2.0]])])
def test_shapes_are_checked(first: list, second: list) -> None:
    with pytest.raises(
        InputError, match=r"two vectors of one length, shape \(R,\); it saw \(.*\) and \(.*\)"
    ):
        paired_t_test(first, second)
