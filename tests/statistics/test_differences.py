import math

import numpy as np
import pytest

from nearzero.errors import InputError
from nearzero.statistics.differences import paired_differences
from nearzero.statistics.paired import paired_t_test


def test_by_hand() -> None:
    differences = paired_differences([2.0, 4.0, math.nan, 6.0], [1.0, 2.0, 0.0, 3.0])
    assert differences.values.tolist() == [1.0, 2.0, 3.0]
    assert (differences.n, differences.mean, differences.reason) == (3, 2.0, "")
    assert differences.standard_error == pytest.approx(1 / math.sqrt(3), rel=1e-15)


def test_one_sample_is_a_pair_with_zeros() -> None:
    values = np.array([0.25, -1.5, 3.0])
    sample, pair = paired_differences(values), paired_differences(values, np.zeros(3))
    np.testing.assert_array_equal(sample.values, pair.values)
    assert sample.tolerance == pair.tolerance == 24.0 * 2.0**-52
    assert paired_t_test(values) == paired_t_test(values, np.zeros(3))


def test_small_numbers_that_come_from_larger_ones_need_their_tolerance() -> None:
    """Costs of 0.0015, each the difference of two accuracies, in different runs."""
    accuracy = np.array([0.09, 0.19, 0.4, 0.985])
    cost = accuracy - (accuracy - 0.0015)
    assert np.ptp(cost) > 0
    assert paired_differences(cost).reason == ""
    assert paired_differences(cost, tolerance=8 * 2.0**-52).reason == "all differences equal"
    assert paired_t_test(cost, tolerance=8 * 2.0**-52).reason == "all differences equal"


@pytest.mark.parametrize(
    ("values", "reason", "mean"),
    [
        ([], "fewer than two runs", math.nan),
        ([math.nan], "fewer than two runs", math.nan),
        ([0.5], "fewer than two runs", 0.5),
        ([0.0, 0.0], "all pairs equal", 0.0),
        ([0.5, 0.5], "all differences equal", 0.5),
        ([0.5, 0.25], "", 0.375),
    ],
)
def test_degenerate_cases_have_reasons(values: list[float], reason: str, mean: float) -> None:
    differences = paired_differences(values)
    assert differences.reason == reason
    assert differences.mean == pytest.approx(mean, nan_ok=True)


def test_what_is_given_is_checked() -> None:
    with pytest.raises(InputError, match=r"it saw \(2,\) and \(1,\): give one value per run"):
        paired_differences([1.0, 2.0], [1.0])
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match=r"0 or a positive number; it was "):
            paired_differences([1.0, 2.0], tolerance=wrong)
