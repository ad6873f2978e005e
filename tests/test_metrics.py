"""Accuracy and agreement."""

from __future__ import annotations

import numpy as np
import pytest

from nearzero import InputError, metrics

PREDICTIONS = np.array([[0, 1, 2, 2], [0, 0, 0, 0]], np.uint16)


def test_by_hand() -> None:
    np.testing.assert_array_equal(metrics.accuracy(PREDICTIONS, np.array([0, 1, 1, 2])), [0.75, 0.25])
    np.testing.assert_array_equal(metrics.agreement(PREDICTIONS, PREDICTIONS[0]), [1.0, 0.25])
    assert metrics.accuracy(PREDICTIONS[0], np.array([0, 1, 2, 3])) == 0.75


def test_labels_of_another_length() -> None:
    with pytest.raises(
        InputError, match=r"labels must have one entry per example; got \(3,\) for .* shape \(2, 4\)"
    ):
        metrics.accuracy(PREDICTIONS, np.array([0, 1, 1]))


def test_no_examples() -> None:
    with pytest.raises(InputError, match="at least one example"):
        metrics.agreement(PREDICTIONS[:, :0], PREDICTIONS[0, :0])
