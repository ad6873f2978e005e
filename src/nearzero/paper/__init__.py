"""What belongs to the paper alone: its published numbers and its toy model of figures 2 and 3.

`published` holds the tables, `peaks` the five-peak model. How our own results are set beside them lives
in `nearzero.report`.
"""

from nearzero.paper.peaks import FIGURE_2, FIGURE_3, FivePeaks, PeakUnit
from nearzero.paper.published import (
    MeanAndSd,
    Published,
    PublishedBaseline,
    PublishedResponse,
    PublishedRow,
    published,
)

__all__ = [
    "FIGURE_2",
    "FIGURE_3",
    "FivePeaks",
    "MeanAndSd",
    "PeakUnit",
    "Published",
    "PublishedBaseline",
    "PublishedResponse",
    "PublishedRow",
    "published",
]
