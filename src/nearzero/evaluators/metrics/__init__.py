"""Metrics: their formulas in NumPy, their names, and functions of the user's own.

`own` needs PyTorch, and is imported where it is used.
"""

from nearzero.evaluators.metrics.arrays import BY_LOGITS, NAMES, default_metrics, matches, score
from nearzero.evaluators.metrics.names import PERPLEXITY, by_name, check_names, with_losses

__all__ = [
    "BY_LOGITS",
    "NAMES",
    "PERPLEXITY",
    "by_name",
    "check_names",
    "default_metrics",
    "matches",
    "score",
    "with_losses",
]
