import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from nearzero.errors import InputError
from nearzero.statistics.paired import MINIMUM_RUNS, sign_flip_test


def test_by_hand() -> None:
    """Differences 1, 2, -4: sums 7, 5, 3, 1, -1, -3, -5, -7, of which -1 was found."""
    values = [1.0, 2.0, -4.0]
    assert sign_flip_test(values) == 1.0  # all eight are at least as far from 0
    assert sign_flip_test([-1.0, 2.0, 6.0]) == 4 / 8  # 9, 7 and their negatives, not 5 and 3
    assert sign_flip_test([1.0, 2.0, 4.0]) == 2 / 8


def exact(values: list[Fraction]) -> Fraction:
    """By the definition, in exact arithmetic."""
    patterns = itertools.product((1, -1), repeat=len(values))
    sums = [sum(sign * value for sign, value in zip(signs, values, strict=True)) for signs in patterns]
    observed = sum(values)
    return Fraction(sum(abs(total) >= abs(observed) for total in sums), len(sums))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_zeros_and_rounding_as_in_exact_arithmetic(dtype: type) -> None:
    """Accuracies that are counts over 60,000 have many ties; none is lost, and none is invented."""
    random = np.random.default_rng(6)
    wrong = 0
    for _ in range(40):
        k = random.integers(50_000, 60_000, 9)
        step = random.integers(-3, 5, 9)
        first, second = (100 * (counts / 60_000).astype(dtype) for counts in (k, k - step))
        expected = exact([Fraction(int(each)) for each in step])
        assert sign_flip_test(first, second) == float(expected)
        d = first.astype(float) - second
        sums = np.array(list(itertools.product((1, -1), repeat=9))) @ d
        wrong += (abs(sums) >= abs(d.sum())).mean() != float(expected)
    assert wrong > 10  # without a tolerance many would have been wrong


@pytest.mark.parametrize("runs", [2, 3, 6, 11])
def test_it_is_scipys(runs: int) -> None:
    random = np.random.default_rng(runs)
    for centre in (0.0, 0.5, -2.0):
        values = random.normal(centre, 1.0, runs)
        options = {"permutation_type": "samples", "n_resamples": np.inf, "vectorized": True}
        expected = stats.permutation_test((values,), np.mean, **options)
        assert sign_flip_test(values) == pytest.approx(expected.pvalue, rel=1e-12)


def test_it_is_exact_under_the_null() -> None:
    """P(p <= x) is at most x, and equals x at each possible p: here over all sign patterns of given sizes."""
    sizes = np.array([0.3, 1.0, 1.7, 2.2, 5.1, 6.4])
    p = np.array([sign_flip_test(sizes * signs) for signs in itertools.product((1, -1), repeat=6)])
    for value in np.unique(p):
        assert (p <= value).mean() == value


def test_differences_that_are_all_equal_have_the_smallest_p() -> None:
    for runs in (2, 6, 20):
        assert sign_flip_test(np.full(runs, 0.1)) == 2.0 ** (1 - runs)


def test_the_minimum_of_runs_is_where_it_can_first_be_significant() -> None:
    enough, few = (sign_flip_test(np.ones(runs)) for runs in (MINIMUM_RUNS, MINIMUM_RUNS - 1))
    assert enough < 0.05 < few


def test_a_zero_leaves_p() -> None:
    values = np.array([0.4, -0.1, 0.9, 1.3])
    assert sign_flip_test(values) == sign_flip_test([*values, 0.0, 0.0])
    assert sign_flip_test([*abs(values), 0.0, 0.0]) == 1 / 8


def test_all_million_patterns_of_twenty_runs() -> None:
    """The differences 1, 2, 4, ... give every odd number from -(2^20 - 1) to 2^20 - 1 once."""
    values = 2.0 ** np.arange(20)
    values[0] = -1.0
    # all that is as far out: with the sign of the smallest changed, and the negatives
    assert sign_flip_test(values) == 4 / 2**20
    assert sign_flip_test(abs(values)) == 2 / 2**20
    values[19] *= -1
    assert sign_flip_test(values) == pytest.approx(np.ceil(2**20 - abs(values.sum())) / 2**20, abs=2 / 2**20)


def test_runs_that_diverged_are_left_out() -> None:
    assert sign_flip_test([1.0, math.nan, 2.0], [0.5, 0.0, 0.0]) == sign_flip_test([0.5, 2.0])


def test_degenerate_cases_have_no_p() -> None:
    for values in ([], [0.5], [0.0, 0.0, 0.0]):
        assert sign_flip_test(values) is None


def test_what_is_given_is_checked() -> None:
    with pytest.raises(InputError, match=r"takes at most 20 runs, .* it saw 21: use paired_t_test"):
        sign_flip_test(np.arange(21.0))
    assert sign_flip_test([*np.arange(1.0, 21.0), math.nan]) == 2 / 2**20
