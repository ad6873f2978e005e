"""Intervals and tests over runs, with NumPy and SciPy alone.

One module per subject. Over runs, data fixed: `summaries` (mean, standard deviation, t interval), `paired`
(the paired t-test), `sign_flip` (the exact test that needs no normal distribution), `effects` (effect size),
`equivalence` (TOST) and `bands` (simultaneous, for curves). For new examples too: `bootstrap`. For many tests
at once: `multiplicity`. `differences` is what the tests start from, `words` what they say in place of a
number. Runs are the unit of inference; what the numbers are shown as lives in `nearzero.report`.
"""

from nearzero.statistics.bands import SimultaneousBand, simultaneous_band
from nearzero.statistics.bootstrap import CrossedBootstrap, Population, bootstrap_means, crossed_bootstrap
from nearzero.statistics.differences import Differences, paired_differences, rounding_tolerance
from nearzero.statistics.effects import EffectSize, effect_size
from nearzero.statistics.equivalence import EquivalenceTest, equivalence_test
from nearzero.statistics.multiplicity import HolmAdjustment, holm
from nearzero.statistics.paired import PairedTest, paired_t_test
from nearzero.statistics.sign_flip import MOST_RUNS, SignFlipTest, sign_flip_test
from nearzero.statistics.summaries import Summary, count, mean, standard_deviation, summarise, t_interval
from nearzero.statistics.words import MINIMUM_RUNS

__all__ = [
    "MINIMUM_RUNS",
    "MOST_RUNS",
    "CrossedBootstrap",
    "Differences",
    "EffectSize",
    "EquivalenceTest",
    "HolmAdjustment",
    "PairedTest",
    "Population",
    "SignFlipTest",
    "SimultaneousBand",
    "Summary",
    "bootstrap_means",
    "count",
    "crossed_bootstrap",
    "effect_size",
    "equivalence_test",
    "holm",
    "mean",
    "paired_differences",
    "paired_t_test",
    "rounding_tolerance",
    "sign_flip_test",
    "simultaneous_band",
    "standard_deviation",
    "summarise",
    "t_interval",
]
