import math

import numpy as np
import pytest

from nearzero.statistics.paired import effect_size


def sample(n: int, d_z: float) -> np.ndarray:
    """n numbers with the standard deviation 1 and the mean d_z."""
    values = np.random.default_rng(n).normal(size=n)
    return (values - values.mean()) / values.std(ddof=1) + d_z


def test_by_hand() -> None:
    """1, 2, 3: mean 2, sd 1; J(2) = G(1) / G(1 / 2) = 1 / sqrt(pi)."""
    effect = effect_size([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert effect == pytest.approx(2.0 / math.sqrt(math.pi), rel=1e-13)


def test_published_values() -> None:
    """Hedges' (1981) table: J(10) = 0.9228, J(19) = 0.9599."""
    for df, correction in ((10, 0.9228), (19, 0.9599)):
        effect = effect_size(sample(df + 1, 1.0))
        assert effect == pytest.approx(correction, abs=1e-4)


@pytest.mark.parametrize("n", [3, 20])
def test_it_grows_with_the_difference(n: int) -> None:
    below, above, back = (effect_size(sample(n, d)) for d in (1.0, 2.5, -1.0))
    assert above == pytest.approx(2.5 * below, rel=1e-12)
    assert back == pytest.approx(-below, rel=1e-12)


def test_the_correction_removes_the_bias() -> None:
    """Normal differences with d_z = 0.8: the mean g_z within four standard errors, that of d_z above."""
    random, n, studies = np.random.default_rng(8), 6, 600
    samples = [random.normal(0.8, 1.0, n) for _ in range(studies)]
    g = np.array([effect_size(each) for each in samples])
    d = np.array([each.mean() / each.std(ddof=1) for each in samples])
    error = g.std() / math.sqrt(studies)
    assert g.mean() == pytest.approx(0.8, abs=4 * error)
    assert d.mean() > 0.8 + 4 * error


def test_degenerate_cases_have_no_size() -> None:
    for values in ([], [0.5, 1.0], [0.0] * 4, [0.1] * 4):
        assert effect_size(values) is None
    assert effect_size([1.0, math.nan, 2.0, 4.0]) == effect_size([1.0, 2.0, 4.0])
