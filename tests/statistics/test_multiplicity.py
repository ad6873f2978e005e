import math

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from nearzero.errors import InputError
from nearzero.statistics.multiplicity import holm


def test_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.5: times 4, 3, 2, 1 it is 0.04, 0.06, 0.06, 0.5."""
    adjusted = holm([0.03, 0.5, 0.01, 0.02])
    np.testing.assert_allclose(adjusted, [0.06, 0.5, 0.04, 0.06], rtol=1e-15)
    # 0.02 times 3 is 0.06 and 0.021 times 2 only 0.042: a greater p never gets a smaller one.
    np.testing.assert_allclose(holm([0.02, 0.021, 0.001]), [0.04, 0.04, 0.003], rtol=1e-15)
    np.testing.assert_allclose(holm([0.4, 0.6, 0.9]), [1.0, 1.0, 1.0], rtol=1e-15)


@pytest.mark.parametrize("tests", [1, 2, 7, 100])
def test_it_is_statsmodels(tests: int) -> None:
    random = np.random.default_rng(tests)
    for power in (1, 3, 12):
        p = random.random(tests) ** power
        p[tests // 2 :: 3] = p[0]  # ties
        expected = multipletests(p, method="holm")[1]
        np.testing.assert_allclose(holm(p), expected, rtol=1e-12, atol=0)


def test_tests_that_are_not_available_are_left_out() -> None:
    adjusted = holm([[0.01, math.nan], [None, 0.04]])
    np.testing.assert_allclose(adjusted, [[0.02, math.nan], [math.nan, 0.04]], rtol=1e-15)


def test_no_test_at_all() -> None:
    assert holm([]).shape == (0,)
    assert np.isnan(holm([math.nan, math.nan])).all()


def test_the_ends_of_the_range() -> None:
    assert holm([0.0, 1.0]).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("wrong", [-0.01, 1.0001, math.inf])
def test_p_values_are_probabilities(wrong: float) -> None:
    with pytest.raises(InputError, match=r"p values lie between 0 and 1; 1 did not, .*: give NaN"):
        holm([0.5, wrong])
