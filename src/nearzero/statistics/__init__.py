"""Intervals and tests over runs. They need NumPy and SciPy only.

Runs are the unit of inference. Intervals for new runs with the data fixed: `summaries` (mean, standard
deviation, t interval), `paired` (tests and effect size for paired runs) and `bands` (simultaneous bands for
curves). Intervals for new runs and new examples: `bootstrap`. Many tests at once: `multiplicity`. All paired
tests begin with `differences`. How the numbers are printed is decided in `nearzero.report`.
"""
