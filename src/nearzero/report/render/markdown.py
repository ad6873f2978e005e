"""A table as Markdown, for the pages of a repository: heading, notices, pipe table, caption."""

from collections.abc import Iterable
from itertools import chain

from nearzero.report.table import Column, Table

__all__ = ["to_markdown"]


def to_markdown(table: Table) -> str:
    """Return the table as GitHub-flavoured Markdown.

    A test has two columns, t and p; the reason why there is no test is in the first of them.
    """
    heads = [name for column in table.columns for name in column.headers]
    rules = ["---" if column.kind == "text" else "---:" for column in table.columns for _ in column.headers]
    lines = [f"## {table.title}", ""]
    for notice in table.notices:
        lines += [f"> **Notice:** {notice}", ""]
    lines += [_line(heads), _line(rules)]
    for row in table.rows:
        lines.append(_line(chain.from_iterable(map(Column.texts, table.columns, row))))
    return "\n".join([*lines, "", table.caption, ""])


def _line(fields: Iterable[str]) -> str:
    escaped = (field.replace("|", "\\|") for field in fields)
    return f"| {' | '.join(escaped)} |"
