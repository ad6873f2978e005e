"""Metrics: their formulas in NumPy, their names, and functions of the user's own.

`own` needs PyTorch, and is imported where it is used.
"""

from nearzero.evaluators.metrics.arrays import BY_LOGITS, NAMES, default_metrics, matches, score
from nearzero.evaluators.metrics.names import by_name, check_names

__all__ = ["BY_LOGITS", "NAMES", "by_name", "check_names", "default_metrics", "matches", "score"]
