import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from nearzero.errors import InputError
from nearzero.statistics.summaries import count, mean, standard_deviation, summarise, t_interval


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(98.3, 0.15, (3, 4, 20))


def test_by_hand() -> None:
    """1, 2, 3, 4: mean 2.5, sum of squares 5; t(3, 0.975) = 3.182446."""
    summary = summarise([1.0, 2.0, 3.0, 4.0])
    assert summary.n == 4
    assert summary.mean == 2.5
    assert summary.population_sd == pytest.approx(math.sqrt(5 / 4), rel=1e-15)
    assert summary.sd == pytest.approx(math.sqrt(5 / 3), rel=1e-15)
    assert summary.high - 2.5 == pytest.approx(3.182446305284263 * math.sqrt(5 / 3) / 2, rel=1e-12)
    assert summary.low + summary.high == pytest.approx(5.0, rel=1e-14)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_intervals_are_those_of_scipy_and_statsmodels(values: np.ndarray, confidence: float) -> None:
    low, high = t_interval(values, confidence)
    assert low.shape == high.shape == (3, 4)
    expected = stats.t.interval(
        confidence, 19, loc=values.mean(-1), scale=values.std(-1, ddof=1) / math.sqrt(20)
    )
    np.testing.assert_allclose((low, high), expected, rtol=1e-12, atol=1e-10)
    for index in np.ndindex(3, 4):
        other = DescrStatsW(values[index]).tconfint_mean(1 - confidence)
        assert (low[index], high[index]) == pytest.approx(other, rel=1e-12, abs=1e-10)


def test_moments_are_those_of_numpy(values: np.ndarray) -> None:
    np.testing.assert_allclose(mean(values), values.mean(-1), rtol=1e-13)
    for ddof in (0, 1):
        expected = values.std(-1, ddof=ddof)
        np.testing.assert_allclose(standard_deviation(values, ddof=ddof), expected, rtol=1e-10)


@pytest.mark.parametrize("missing", [math.nan, math.inf, -math.inf])
def test_runs_that_diverged_are_left_out(values: np.ndarray, missing: float) -> None:
    holed = values.copy()
    holed[0, 1, [2, 5, 19]] = missing
    kept = np.delete(values[0, 1], [2, 5, 19])
    assert count(holed)[0, 1] == 17
    assert count(holed)[0, 0] == 20
    low, high = t_interval(holed)
    whole = t_interval(kept)
    assert (low[0, 1], high[0, 1]) == pytest.approx((float(whole[0]), float(whole[1])), rel=1e-14)
    assert mean(holed)[0, 1] == pytest.approx(kept.mean(), rel=1e-14)
    assert standard_deviation(holed, ddof=1)[0, 1] == pytest.approx(kept.std(ddof=1), rel=1e-10)
    np.testing.assert_array_equal(low[1:], t_interval(values)[0][1:])


def test_equal_values_have_exactly_no_deviation() -> None:
    third = [1 / 3] * 20
    summary = summarise(third)
    assert (summary.mean, summary.sd, summary.low, summary.high) == (1 / 3, 0.0, 1 / 3, 1 / 3)


def test_a_small_deviation_on_a_large_mean_is_not_lost() -> None:
    summary = summarise([1e9, 1e9 + 1, 1e9 + 2])
    assert summary.sd == 1.0
    assert summary.mean == 1e9 + 1


def test_too_few_runs_have_no_interval() -> None:
    single = summarise([0.5])
    assert (single.n, single.mean, single.population_sd) == (1, 0.5, 0.0)
    assert all(math.isnan(value) for value in (single.sd, single.low, single.high))
    none = summarise([math.nan, math.nan])
    assert none.n == 0
    assert all(math.isnan(v) for v in (none.mean, none.sd, none.population_sd, none.low, none.high))
    assert summarise([]).n == 0
    assert t_interval(np.empty((3, 0)))[0].shape == (3,)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, math.nan])
def test_confidence_is_a_fraction(confidence: float) -> None:
    with pytest.raises(InputError, match=r"confidence lies strictly between 0 and 1, .* it was "):
        t_interval([1.0, 2.0], confidence)


def test_shapes_are_checked() -> None:
    with pytest.raises(InputError, match=r"one value per run, shape \(R,\); it saw the shape \(2, 2\)"):
        summarise([[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(InputError, match=r"there is no axis: the value was array\(3\.\)"):
        mean(3.0)


def test_an_interval_is_cut_where_values_end() -> None:
    near = summarise([99.0, 100.0, 100.0])
    assert near.high > 100.0
    cut = near.cut(0.0, 100.0)
    assert (cut.low, cut.high, cut.mean) == (near.low, 100.0, near.mean)
    assert summarise([0.0, 0.0, 1.0]).cut(0.0, 100.0).low == 0.0
    assert np.isnan(summarise([1.0]).cut(0.0, 100.0).low)
