"""Intervals and tests over runs, with NumPy and SciPy alone.

One module per subject: `summaries` (mean, standard deviation, t interval) and `paired` (the paired
t-test). Runs are the unit of inference, and always the last axis. What the numbers are shown as lives
in `nearzero.report`.
"""

from nearzero.statistics.paired import (
    ALL_DIFFERENCES_EQUAL,
    ALL_PAIRS_EQUAL,
    FEWER_THAN_TWO_RUNS,
    PairedTest,
    paired_t_test,
    rounding_tolerance,
)
from nearzero.statistics.summaries import Summary, count, mean, standard_deviation, summarise, t_interval

__all__ = [
    "ALL_DIFFERENCES_EQUAL",
    "ALL_PAIRS_EQUAL",
    "FEWER_THAN_TWO_RUNS",
    "PairedTest",
    "Summary",
    "count",
    "mean",
    "paired_t_test",
    "rounding_tolerance",
    "standard_deviation",
    "summarise",
    "t_interval",
]
