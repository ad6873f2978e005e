import numpy as np

from nearzero import statistics
from nearzero.statistics import MINIMUM_RUNS, sign_flip_test


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
