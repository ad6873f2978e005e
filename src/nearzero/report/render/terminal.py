"""A table in a terminal, printed by rich. No number is ever cut or wrapped.

If a table is too wide for the terminal, its least important columns are left out and named below it. If that isn't
enough, texts wrap between words, and at last each row becomes a block of lines, one for each column. The files that
`write` makes have every column.
"""

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from nearzero.report.table import MISSING, Cell, Column, Table, TAndP, p_text, t_text

__all__ = ["print_table"]

LONG = 40  # characters; a longer text in a cell wraps
SHORT = 8  # characters; text columns aren't narrower, if their texts are longer


def print_table(table: Table, console: Console) -> None:
    """Print title, notices, table and caption of a table to a rich console."""
    if table.title:
        console.print(Text(table.title, style="bold"))
    for notice in table.notices:
        console.print(Text(f"NOTICE: {notice}", style="bold yellow"))
    if table.rows:
        kept, gap = _fit(table, console.width)
        if kept:
            console.print(_rich(table, kept, gap))
            left_out = [column for column in table.columns if column not in kept]
            if left_out:
                names = "; ".join(map(_name, left_out))
                console.print(Text(f"Left out for want of width: {names}", style="dim"))
        else:
            _print_stacked(table, console)
    if table.caption:
        console.print(Text(table.caption, style="dim"))
    console.print()


def _name(column: Column) -> str:
    return f"t, p {column.header}" if column.kind == "test" else column.header


def _rich(table: Table, widths: Mapping[Column, int], gap: int) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, gap - 1, 0, 0), pad_edge=False)
    for column, width in widths.items():
        text = column.kind == "text"
        side = "left" if text else "right"
        header = column.short or column.header
        drawn.add_column(header, justify=side, no_wrap=not text, width=width, vertical="top")  # type: ignore[arg-type]
    indices = [table.columns.index(column) for column in widths]
    names = [column.name for column in widths]
    for number, block in enumerate(table.blocks()):
        if number and len(table.rows) > len(list(table.blocks())):  # else every row is a block
            drawn.add_section()
        for line, row in enumerate(block):
            texts = [_text(row[index]) for index in indices]
            if line and table.group in names:
                texts[names.index(table.group)] = ""
            drawn.add_row(*(Text(text) for text in texts))
    return drawn


def _print_stacked(table: Table, console: Console) -> None:
    """Print a block of lines for each row, with the first column as its heading."""
    names = [name or " " for column in table.columns[1:] for name in column.headers]
    width = max(map(len, names), default=0)
    first = table.columns[0]
    for row in table.rows:
        console.print(Text(f"{first.header} {_text(row[0])}".strip(), style="bold"))
        texts = (
            text
            for column, cell in zip(table.columns[1:], row[1:], strict=True)
            for text in column.texts(cell)
        )
        lines = RichTable.grid(padding=(0, 0, 0, 2))
        lines.add_column(width=width, no_wrap=True)
        lines.add_column(overflow="fold")
        for name, text in zip(names, texts, strict=True):
            if text.strip():
                lines.add_row(Text(name), Text(text.strip()))
        console.print(lines)


def _fit(table: Table, width: int) -> tuple[dict[Column, int], int]:
    """Return the columns that fit into a width, with their widths, and the gap between them; {} if none do."""
    widths = {column: _width(table, column) for column in table.columns}
    least = {column: _least_width(table, column) for column in table.columns}
    for column, own in widths.items():
        if column.kind == "text":
            widths[column] = max(min(own, LONG), least[column])
    while True:
        for gap in (2, 1):
            if sum(widths.values()) + gap * (len(widths) - 1) <= width:
                return _widened(table, widths, width - gap * (len(widths) - 1)), gap
        spare = max(widths, key=lambda column: column.spare)
        if not spare.spare:
            break
        del widths[spare]
    while sum(widths.values()) + len(widths) - 1 > width:
        widest = max(widths, key=lambda column: widths[column] - least[column])
        if widths[widest] <= least[widest]:
            return {}, 1
        widths[widest] -= 1
    return widths, 1


def _widened(table: Table, widths: dict[Column, int], width: int) -> dict[Column, int]:
    """Return the widths, with those of columns that wrap made larger as far as there is room."""
    for column, own in widths.items():
        room = width - sum(widths.values())
        widths[column] = min(own + room, max(own, _width(table, column)))
    return widths


def _lines(table: Table, column: Column) -> list[str]:
    cells = (line for cell in table.cells(column.name) for line in _text(cell).split("\n"))
    return [*(column.short or column.header).split("\n"), *cells]


def _width(table: Table, column: Column) -> int:
    """Return the width of the longest line of a column."""
    return max(map(len, _lines(table, column)))


def _least_width(table: Table, column: Column) -> int:
    """Return the width below which a column can't go: of its longest word, or of its longest line if it has numbers."""
    lines = _lines(table, column)
    widest = max(map(len, lines))
    if column.kind != "text":
        return widest
    words = (len(word) for line in lines for word in line.split())
    return max(max(words, default=0), min(widest, SHORT))


def _text(cell: Cell) -> str:
    if isinstance(cell, TAndP):
        # The leading blank separates two tests where the gap between columns is a single blank.
        if cell.t is None or cell.p is None:
            return f" {cell.reason}"
        return f" {t_text(cell.t)} {p_text(cell.p):>7}"
    return MISSING if cell is None else str(cell)
