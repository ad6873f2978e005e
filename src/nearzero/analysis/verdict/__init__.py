"""The verdict by rules fixed before the data: does distance or intensity cost more at equal displacement?

A verdict takes responses of several runs, as `nearzero.analysis.matched` measures them, and applies the rules
to them. By default, distance is a boundary shift whose sign is drawn for each unit; intensity is independent
gains, and a cap on activations. The plain shift and the paper's own offset, clip and scale are reported in
addition and don't decide. `rules` has the rules, `compare` applies them to one comparison, `judge` to all
networks of a table, and `sources` accepts what users have.
"""

from nearzero.analysis.verdict.compare import Comparison, costs
from nearzero.analysis.verdict.judge import CheckResult, RelativeCost, Verdict, against_noise, judge
from nearzero.analysis.verdict.rules import CHECKS, LOSS, Finding, Measure, Rules, measure_words
from nearzero.analysis.verdict.sources import REPORTED, design_for, gathered, verdict

__all__ = [
    "CHECKS",
    "LOSS",
    "REPORTED",
    "CheckResult",
    "Comparison",
    "Finding",
    "Measure",
    "RelativeCost",
    "Rules",
    "Verdict",
    "against_noise",
    "costs",
    "design_for",
    "gathered",
    "judge",
    "measure_words",
    "verdict",
]
