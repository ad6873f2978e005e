"""A table as CSV, for programs: every number is at full precision, and every line after the header is data.

Notices, which the other renderers print above the table, are a column. Levels are fractions, empty for the
identity; accuracies are in percent, as the column names say.
"""

import csv
import io
from itertools import chain

from nearzero.report.table import Cell, Column, Level, Number, PValue, Span, Table, TAndP

__all__ = ["Field", "field_names", "fields", "to_csv"]

Field = str | int | float | None


def to_csv(table: Table) -> str:
    """Return the table as RFC 4180 text with line feeds: a header line and one line per row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*chain.from_iterable(map(field_names, table.columns)), "notice"])
    notice = " | ".join(table.notices)
    for row in table.rows:
        writer.writerow([*chain.from_iterable(map(fields, table.columns, row)), notice])
    return buffer.getvalue()


def field_names(column: Column) -> list[str]:
    """Return the names of a column's fields: one, two for an interval, four for a test."""
    end = f"_{column.unit}" if column.unit else ""
    if column.kind == "interval":
        return [f"{column.name}_low{end}", f"{column.name}_high{end}"]
    if column.kind == "test":
        return [f"{column.name}_{part}" for part in ("t", "p", "n", "words")]
    return [column.name + end]


def fields(column: Column, cell: Cell) -> list[Field]:
    """Return a cell as fields at full precision; None where there is nothing."""
    match cell:
        case None:
            return [None] * len(field_names(column))
        case Number(value=value) | PValue(value=value) | Level(value=value):
            return [value]
        case Span(low=low, high=high):
            return [low, high]
        case TAndP(t=t, p=p, n=n, reason=reason):
            return [t, p, n, reason]
        case _:
            return [cell]
