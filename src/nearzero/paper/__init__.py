"""What belongs to the paper alone: its published numbers and its toy model of figures 2 and 3.

`published` holds the tables, `peaks` the five-peak model. How our own results are set beside them lives
in `nearzero.report`.
"""
