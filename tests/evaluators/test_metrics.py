"""The number of predictions that equal a reference."""

from __future__ import annotations

import numpy as np

from nearzero.evaluators.metrics import matches

PREDICTIONS = np.array([[0, 1, 2, 2], [0, 0, 0, 0]], np.uint16)


def test_by_hand() -> None:
    np.testing.assert_array_equal(matches(PREDICTIONS, np.array([0, 1, 1, 2])), [3, 1])
    np.testing.assert_array_equal(matches(PREDICTIONS, PREDICTIONS[0]), [4, 1])
    assert matches(PREDICTIONS[0], np.array([0, 1, 2, 3])) == 3
