"""Per-example metrics of predictions, gathered to one number per level.

They take predictions, never models. Accuracy saturates near 100 %; agreement doesn't need labels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError

__all__ = ["accuracy", "agreement", "matches"]


def matches(
    predictions: npt.NDArray[np.integer], reference: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """How many examples are predicted as the reference says: (..., N) and (N,) give (...)."""
    # row by row: the comparison of one level stays in cache, that of all would be as large as the predictions
    rows = predictions.reshape(-1, reference.size)
    equal = np.array([np.count_nonzero(row == reference) for row in rows], dtype=np.int64)
    return equal.reshape(predictions.shape[:-1])


def _share_equal(
    predictions: npt.NDArray[np.integer], reference: npt.NDArray[np.integer], name: str
) -> npt.NDArray[np.float64]:
    if predictions.shape[-1:] != reference.shape:
        raise InputError(
            f"{name} must have one entry per example; "
            f"got {reference.shape} for predictions of shape {predictions.shape}"
        )
    if not reference.size:
        raise InputError("a metric needs at least one example; got none")
    return np.asarray(matches(predictions, reference) / reference.size)


def accuracy(
    predictions: npt.NDArray[np.integer], labels: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    """The share of examples predicted right: predictions (..., N) and labels (N,) give (...), in 0 to 1."""
    return _share_equal(predictions, labels, "labels")


def agreement(
    predictions: npt.NDArray[np.integer], unperturbed: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    """The share of examples predicted as without perturbation: (..., N) and (N,) give (...), in 0 to 1."""
    return _share_equal(predictions, unperturbed, "unperturbed predictions")
