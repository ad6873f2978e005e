"""Tables and figures of a study: it reads, and computes no sweep.

`results` is all that it knows of a study; `comparison` sets the published numbers beside ours; `tables`
builds the tables, `captions` explains them and `render` shows them; `figures` draws; `write` puts it all on
disk and on the screen. Importing this package imports neither matplotlib nor rich.
"""

from nearzero.report.comparison import (
    Comparison,
    Reproduction,
    compare_baseline,
    compare_responses,
    reproduction,
)
from nearzero.report.results import StudyResults
from nearzero.report.table import Column, Table
from nearzero.report.tables import baseline_table, differing_table, heldout_table, response_table, tables
from nearzero.report.write import (
    print_audit,
    print_grid,
    print_tables,
    print_verdict,
    write_audit,
    write_grid,
    write_report,
    write_verdict,
)

__all__ = [
    "Column",
    "Comparison",
    "Reproduction",
    "StudyResults",
    "Table",
    "baseline_table",
    "compare_baseline",
    "compare_responses",
    "differing_table",
    "heldout_table",
    "print_audit",
    "print_grid",
    "print_tables",
    "print_verdict",
    "reproduction",
    "response_table",
    "tables",
    "write_audit",
    "write_grid",
    "write_report",
    "write_verdict",
]
