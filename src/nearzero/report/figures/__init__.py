"""Figures as matplotlib `Figure` objects, which are independent of pyplot and its global state.

`response` draws figure 1 of a study, `peaks` figures 2 and 3, `agreement` figure 4, `matched` figure 5 and
`relative` figure 6; `grid` draws a grid, `layers` a probe and `critical` critical levels. `style` holds the
common style and saves figures as files, and `content` says what a figure draws. Numbers come from
`nearzero.report.results`, `nearzero.report.comparison`, `nearzero.analysis.verdict` and `nearzero.paper`.
"""
