"""Figures 1 to 4 of a study, as matplotlib `Figure` objects that no global state knows of.

`style` holds the look and the saving, `response` figure 1, `peaks` figures 2 and 3, `agreement` figure 4.
Numbers come from `nearzero.report.results`, `nearzero.report.comparison` and `nearzero.paper`.
"""
