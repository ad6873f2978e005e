"""The paper: its published numbers, its toy model of figures 2 and 3, and the audit of its study.

`published` holds the tables, `peaks` the five-peak model, `audit` the audit. A study's results are compared
with the published numbers in `nearzero.report`.
"""
