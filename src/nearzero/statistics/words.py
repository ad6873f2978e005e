"""The words that stand where a number would mean nothing.

A figure or table shows them in place of a t, a p or an interval. They live together so that one case has
one wording in every result, and so that no module of this package has to import another for them.
"""

__all__ = [
    "ALL_DIFFERENCES_EQUAL",
    "ALL_PAIRS_EQUAL",
    "ALL_RUNS_EQUAL",
    "FEWER_THAN_THREE_RUNS",
    "FEWER_THAN_TWO_EXAMPLES",
    "FEWER_THAN_TWO_RUNS",
    "MINIMUM_RUNS",
    "NO_VARIANCE",
]

ALL_PAIRS_EQUAL = "all pairs equal"
ALL_DIFFERENCES_EQUAL = "all differences equal"
ALL_RUNS_EQUAL = "all runs equal"
NO_VARIANCE = "no variance"
FEWER_THAN_TWO_RUNS = "fewer than two runs"
FEWER_THAN_THREE_RUNS = "fewer than three runs"
FEWER_THAN_TWO_EXAMPLES = "fewer than two examples"

# With five runs the smallest two-sided p of the sign-flip test is 2 / 2^5 = 0.0625: no outcome whatever could
# be significant at 0.05. With six it is 0.03125.
MINIMUM_RUNS = 6
