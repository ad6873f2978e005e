"""Metrics of predictions and logits, in NumPy.

They take predictions or logits, never models. Accuracy saturates near 100 %; agreement doesn't need labels.
The same metrics for PyTorch's tensors are in `nearzero.evaluators.scores`; `tests/evaluators/test_laws.py`
compares the two.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["BY_LOGITS", "NAMES", "default_metrics", "matches", "score"]

Doubles = npt.NDArray[np.float64]
NAMES = ("accuracy", "agreement", "cross_entropy", "kl_divergence", "margin")
BY_LOGITS = ("cross_entropy", "kl_divergence", "margin")  # these need more than predictions


def default_metrics(labelled: bool) -> tuple[str, ...]:
    """Return the names of the default metrics, for data with labels or without."""
    return ("accuracy", "agreement") if labelled else ("agreement",)


def matches(
    predictions: npt.NDArray[np.integer], reference: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """Return the number of predictions (..., N) that are equal to the reference (N,), (...)."""
    # row by row, since the comparison of one row fits in the cache, and that of all is as large as the
    # predictions
    rows = predictions.reshape(-1, reference.size)
    equal = np.array([np.count_nonzero(row == reference) for row in rows], dtype=np.int64)
    return equal.reshape(predictions.shape[:-1])


def score(
    name: str,
    logits: npt.NDArray[np.floating],
    unperturbed: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer] | None,
) -> Doubles:
    """Return a metric of logits (n, K) example by example, (n,), in nats; the margin has the units of logits.

    - cross_entropy: -log softmax(logits)[label].
    - kl_divergence: sum of p (log p - log q) over classes, p = softmax(unperturbed), q = softmax(logits).
    - margin: the label's logit minus the greatest of the other logits; without labels, that of the
      unperturbed prediction.
    """
    logits, rows = logits.astype(np.float64), np.arange(len(logits))
    with np.errstate(invalid="ignore"):  # of logits that aren't finite, which are counted
        if name == "kl_divergence":
            before, after = _log_softmax(unperturbed.astype(np.float64)), _log_softmax(logits)
            return np.asarray((np.exp(before) * (before - after)).sum(axis=1))
        own = unperturbed.argmax(axis=1) if labels is None else labels
        if name == "cross_entropy":
            return np.asarray(-_log_softmax(logits)[rows, own])
        own_logits = logits[rows, own].copy()
        logits[rows, own] = -np.inf
        return np.asarray(own_logits - logits.max(axis=1))


def _log_softmax(logits: npt.NDArray[np.floating]) -> Doubles:
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
