"""The crossed bootstrap against its variance in closed form and plain loops; `test_coverage` simulates studies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nearzero.errors import InputError
from nearzero.statistics.bootstrap import bootstrap_means, crossed_bootstrap

BOTH = "new runs and new examples"
FIXED = "new runs, data fixed"


def crossed(rng, runs, examples, of_runs=1.0, of_examples=1.0, noise=1.0):
    return (
        of_runs * rng.standard_normal((runs, 1))
        + of_examples * rng.standard_normal(examples)
        + noise * rng.standard_normal((runs, examples))
    )


def test_the_variance_of_the_means_is_known():
    """E(mean*^2) over the multinomial weights, in closed form for small R and N."""
    x = crossed(np.random.default_rng(0), 4, 6)
    runs, examples = x.shape
    # weights have mean 1, variance 1 - 1/n and covariance -1/n
    second = {n: np.ones((n, n)) + np.eye(n) - 1 / n for n in (runs, examples)}
    exact = np.einsum("rn,sm,rs,nm->", x, x, second[runs], second[examples]) / (runs * examples) ** 2
    means = bootstrap_means(x, rng=np.random.default_rng(1), population=BOTH, resamples=200_000)
    assert means.mean() == pytest.approx(x.mean(), abs=5 * means.std() / math.sqrt(200_000))
    assert means.var() == pytest.approx(exact - x.mean() ** 2, rel=0.02)


def test_with_the_data_fixed_it_is_the_bootstrap_of_run_means():
    x = crossed(np.random.default_rng(2), 12, 50)
    result = crossed_bootstrap(x, rng=np.random.default_rng(3), population=FIXED, resamples=50_000)
    assert result.standard_error == pytest.approx(x.mean(axis=1).std(ddof=1) / math.sqrt(12), rel=0.01)
    assert result.df == 11
    assert result.mean == x.mean()


def test_new_examples_widen_the_interval():
    x = crossed(np.random.default_rng(4), 10, 40, of_examples=3.0)
    wide, narrow = (
        crossed_bootstrap(x, rng=np.random.default_rng(5), population=population)
        for population in (BOTH, FIXED)
    )
    assert wide.standard_error > 1.4 * narrow.standard_error
    assert wide.population == BOTH


def test_the_generator_decides_and_pairs_are_differences():
    rng = np.random.default_rng(6)
    first, second = crossed(rng, 6, 30), crossed(rng, 6, 30)
    result, again = (crossed_bootstrap(first, second, rng=np.random.default_rng(7)) for _ in range(2))
    assert result == again
    assert result == crossed_bootstrap(first - second, rng=np.random.default_rng(7))
    assert result != crossed_bootstrap(first, second, rng=np.random.default_rng(8))


def test_runs_without_a_value_are_left_out_and_degenerate_data_get_reasons():
    x = crossed(np.random.default_rng(9), 5, 20)
    x[2] = np.nan
    assert crossed_bootstrap(x, rng=np.random.default_rng(0)).left_out == 1
    x[1, 3] = np.nan
    with pytest.raises(InputError, match="1 run with a value for some examples and not for others"):
        crossed_bootstrap(x, rng=np.random.default_rng(0))
    for values, reason in (
        (np.ones((1, 9)), "fewer than two runs"),
        (np.ones((9, 1)), "fewer than two examples"),
        (np.ones((4, 9)), "no variance"),
    ):
        result = crossed_bootstrap(values, rng=np.random.default_rng(0))
        assert reason in result.reason
        assert result.t_low is result.percentile_high is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resamples": 10}, "at least 100 resamples"),
        ({"confidence": 1.0}, "confidence lies strictly between 0 and 1"),
        ({"population": "all"}, r'the population is "new runs and new examples" or "new runs, .*; it was'),
        ({"population": "new runs data fixed"}, "did you mean 'new runs, data fixed'"),
        ({"rng": 3}, "rng is a NumPy Generator"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(InputError, match=message):
        crossed_bootstrap(np.ones((3, 4)), **{"rng": np.random.default_rng(0), **change})
    with pytest.raises(InputError, match=r"shape \(R, N\); it saw \(3,\)"):
        crossed_bootstrap(np.ones(3), rng=np.random.default_rng(0))
