"""Simultaneous bands: between pointwise and Bonferroni; `test_coverage` has how often they hold the whole curve."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from nearzero.errors import InputError
from nearzero.statistics.bands import simultaneous_band


def curves(rng, runs, levels=40, reach=5.0):
    """Smooth random curves with mean 0: neighbours are alike over `reach` levels."""
    distance = np.subtract.outer(np.arange(levels), np.arange(levels))
    root = np.linalg.cholesky(np.exp(-0.5 * (distance / reach) ** 2) + 1e-6 * np.eye(levels))
    return rng.standard_normal((runs, levels)) @ root.T


def test_one_level_is_the_t_interval():
    x = np.random.default_rng(0).standard_normal((12, 1))
    band = simultaneous_band(x, rng=np.random.default_rng(1))
    low, high = stats.t.interval(0.95, 11, x.mean(), stats.sem(x)[0])
    assert (band.low[0], band.high[0]) == pytest.approx((low, high), rel=1e-10)


def test_it_lies_between_pointwise_and_bonferroni():
    x = curves(np.random.default_rng(3), 20)
    sup = simultaneous_band(x, rng=np.random.default_rng(4)).critical_value
    assert stats.t.ppf(0.975, 19) < sup < stats.t.ppf(1 - 0.05 / 80, 19)


def test_levels_that_are_all_alike_need_no_more_than_one():
    x = np.random.default_rng(5).standard_normal((15, 1)) * np.ones((15, 30))
    band = simultaneous_band(x, rng=np.random.default_rng(6), draws=20_000)
    assert band.critical_value == pytest.approx(stats.t.ppf(0.975, 14), rel=0.03)


def test_flat_levels_and_lost_runs():
    x = curves(np.random.default_rng(7), 9, 6)
    x[:, 2], x[4] = 0.25, np.nan
    band = simultaneous_band(x, rng=np.random.default_rng(8))
    assert (band.n, band.left_out) == (8, 1)
    assert band.flat.tolist() == [False, False, True, False, False, False]
    assert band.low[2] == band.mean[2] == band.high[2] == 0.25
    x[1, 5] = np.nan
    assert np.isnan(simultaneous_band(x, rng=np.random.default_rng(8)).low[5])


def test_reasons_and_refusals():
    rng = np.random.default_rng(0)
    assert "fewer than two runs" in simultaneous_band(np.ones((1, 4)), rng=rng).reason
    assert "no variance" in simultaneous_band(np.ones((5, 4)), rng=rng).reason
    for change, message in (
        ({"draws": 5}, "at least 100 draws"),
        ({"confidence": 0.0}, "confidence lies strictly"),
    ):
        with pytest.raises(InputError, match=message):
            simultaneous_band(np.ones((3, 4)), **{"rng": rng, **change})
    with pytest.raises(InputError, match=r"shape \(R, L\); it saw the shape \(4,\)"):
        simultaneous_band(np.ones(4), rng=rng)
    with pytest.raises(InputError, match="rng is a NumPy Generator"):
        simultaneous_band(np.ones((3, 4)), rng=7)


def test_memory_does_not_grow_with_the_square_of_the_runs():
    x = np.random.default_rng(3).standard_normal((400, 2))
    tracemalloc.start()
    try:
        simultaneous_band(x, rng=np.random.default_rng(4))
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
