"""Figures 1 to 4 of a study, as matplotlib `Figure` objects that no global state knows of.

`style` holds the look and the saving, `response` figure 1, `peaks` figures 2 and 3, `agreement` figure 4.
Numbers come from `nearzero.report.results`, `nearzero.report.comparison` and `nearzero.paper`.
"""

from nearzero.report.figures.agreement import agreement_figure
from nearzero.report.figures.peaks import activations_figure, offsets_figure
from nearzero.report.figures.response import response_figure
from nearzero.report.figures.style import figure_files, pdf_bytes, png_bytes

__all__ = [
    "activations_figure",
    "agreement_figure",
    "figure_files",
    "offsets_figure",
    "pdf_bytes",
    "png_bytes",
    "response_figure",
]
