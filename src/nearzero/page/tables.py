"""A table as HTML: title, notices, a table whose columns can be sorted by the page's script, and the caption."""

from __future__ import annotations

from collections.abc import Iterator

from nearzero.report.table import MISSING, Cell, Column, Level, Number, Span, Table, TAndP, p_text, t_text
from nearzero.support.markup import Markup, tag

__all__ = ["to_html"]

SHORT, LONG = 24, 60  # characters: shorter texts aren't broken, and longer ones need a wide column


def to_html(table: Table) -> Markup:
    """Return the table as a figure. A test has two columns, t and p.

    Cells carry their full value in `data-value`, by which the page's script sorts.
    """
    notices = [tag("p", tag("strong", "Notice: "), notice, class_="notice") for notice in table.notices]
    rows = [
        tag(
            "tr",
            [
                cell
                for column, value in zip(table.columns, row, strict=True)
                for cell in _cells(column, value)
            ],
        )
        for row in table.rows
    ]
    body = (
        tag(
            "div",
            tag(
                "table",
                tag("caption", table.title),
                tag("thead", tag("tr", [head for column in table.columns for head in _heads(column)])),
                tag("tbody", rows),
                data_table=table.name,
            ),
            class_="scroll",
            tabindex=0,
            role="region",
            aria_label=table.title,
        )
        if table.rows
        else tag("p", tag("strong", table.title), ": no rows.")
    )
    return tag("div", notices, body, tag("p", table.caption, class_="caption"), class_="table")


def _heads(column: Column) -> Iterator[Markup]:
    names = [f"t {column.header}", f"p {column.header}"] if column.kind == "test" else [column.header]
    for name in names:
        yield tag("th", name or " ", scope="col", class_=None if column.kind == "text" else "number")


def _cells(column: Column, cell: Cell) -> Iterator[Markup]:
    length = len(str(cell))
    kind = (
        "number"
        if column.kind != "text"
        else "short"
        if length < SHORT
        else "long"
        if length > LONG
        else None
    )
    if column.kind != "test":
        yield tag("td", MISSING if cell is None else str(cell), class_=kind, data_value=_value(cell))
    elif isinstance(cell, TAndP) and cell.t is not None and cell.p is not None:
        yield tag("td", t_text(cell.t), class_=kind, data_value=cell.t)
        yield tag("td", p_text(cell.p), class_=kind, data_value=cell.p)
    else:
        reason = cell.reason if isinstance(cell, TAndP) else ""
        yield tag("td", reason or MISSING, class_=kind)
        yield tag("td", MISSING, class_=kind)


def _value(cell: Cell) -> float | None:
    """Return the number by which a cell is sorted; None if it is sorted by its text."""
    match cell:
        case Number(value=value) | Level(value=value):
            return value
        case Span(low=low, high=high):
            return (low + high) / 2
        case int():
            return cell
    return None
