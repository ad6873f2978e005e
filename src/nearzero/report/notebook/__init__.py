"""Results as notebooks display them: a sentence, a picture where there is a natural one, tables, and notes.

`fragment` puts the parts of a display together as HTML, and `results` decides which parts each result has. The
classes of results call these functions when a notebook asks for `_repr_html_`, and not before: matplotlib is imported
then. Results that stand before `nearzero.report` call `to_html` by way of `nearzero.support.display`.
"""

from nearzero.report.notebook.results import (
    generation_html,
    grid_html,
    probe_html,
    refusal_html,
    study_html,
    summary_html,
    to_html,
)

__all__ = [
    "generation_html",
    "grid_html",
    "probe_html",
    "refusal_html",
    "study_html",
    "summary_html",
    "to_html",
]
