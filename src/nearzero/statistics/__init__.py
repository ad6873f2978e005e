"""Intervals and tests over runs, with NumPy and SciPy alone.

One module per subject. Over runs, data fixed: `summaries` (mean, standard deviation, t interval), `paired`
(tests and effect size of paired runs) and `bands` (simultaneous, for curves). For new examples too: `bootstrap`.
For many tests at once: `multiplicity`. `differences` is what the tests start from. Runs are the unit of inference;
what the numbers are shown as lives in `nearzero.report`.
"""
