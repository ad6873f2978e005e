import numpy as np
import pytest

from nearzero import statistics
from nearzero.statistics import MINIMUM_RUNS, description_only, sign_flip_test


@pytest.mark.parametrize("runs", [0, 1, 5])
def test_few_runs_are_described_only(runs: int) -> None:
    assert description_only(runs) == "fewer than six runs, description only"


@pytest.mark.parametrize("runs", [6, 20, 1000])
def test_enough_runs_have_no_words(runs: int) -> None:
    assert description_only(runs) == ""


def test_the_minimum_is_where_the_sign_flip_test_can_first_be_significant() -> None:
    enough, few = (sign_flip_test(np.arange(1.0, n + 1)) for n in (MINIMUM_RUNS, MINIMUM_RUNS - 1))
    assert enough.smallest_p is not None
    assert few.smallest_p is not None
    assert enough.smallest_p < 0.05 < few.smallest_p


def test_the_package_exports_what_it_names() -> None:
    constants = [name for name in statistics.__all__ if name.isupper()]
    assert statistics.__all__ == [
        *sorted(constants),
        *sorted(name for name in statistics.__all__ if name[0].isupper() and name not in constants),
        *sorted(name for name in statistics.__all__ if name[0].islower()),
    ]
    assert all(hasattr(statistics, name) for name in statistics.__all__)
