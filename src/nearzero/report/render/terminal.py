"""A table in a terminal, printed by rich: one line per row at any width.

If a table is too wide for the terminal, its least important columns are left out and named below it; nothing
is wrapped or cut. The files that `write` makes have every column.
"""

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from nearzero.report.table import MISSING, Cell, Column, Table, TAndP, p_text, t_text

__all__ = ["print_table"]


def print_table(table: Table, console: Console) -> None:
    """Print title, notices, table and caption of a table to a rich console."""
    console.print(Text(table.title, style="bold"))
    for notice in table.notices:
        console.print(Text(f"NOTICE: {notice}", style="bold yellow"))
    if table.rows:
        kept, gap = _fit(table, console.width)
        console.print(_rich(table, kept, gap))
        left_out = [column.header for column in table.columns if column not in kept]
        if left_out:
            console.print(Text(f"Left out for want of width: {'; '.join(left_out)}", style="dim"))
    console.print(Text(table.caption, style="dim"))
    console.print()


def _rich(table: Table, kept: list[Column], gap: int) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, gap - 1, 0, 0), pad_edge=False)
    for column in kept:
        side = "left" if column.kind == "text" else "right"
        drawn.add_column(column.short or column.header, justify=side, no_wrap=True, vertical="bottom")  # type: ignore[arg-type]
    indices = [table.columns.index(column) for column in kept]
    names = [column.name for column in kept]
    for number, block in enumerate(table.blocks()):
        if number:
            drawn.add_section()
        for line, row in enumerate(block):
            texts = [_text(row[index]) for index in indices]
            if line and table.group in names:
                texts[names.index(table.group)] = ""
            drawn.add_row(*(Text(text) for text in texts))
    return drawn


def _fit(table: Table, width: int) -> tuple[list[Column], int]:
    """Return the columns that fit into a width, and the gap between them."""
    kept = list(table.columns)
    while True:
        widths = sum(_width(table, column) for column in kept)
        for gap in (2, 1):
            if widths + gap * (len(kept) - 1) <= width:
                return kept, gap
        spare = max(kept, key=lambda column: column.spare)
        if not spare.spare:
            return kept, 1
        kept.remove(spare)


def _width(table: Table, column: Column) -> int:
    lines = (column.short or column.header).split("\n") + [_text(cell) for cell in table.cells(column.name)]
    return max(len(line) for line in lines)


def _text(cell: Cell) -> str:
    if isinstance(cell, TAndP):
        # The leading blank separates two tests where the gap between columns is a single blank.
        if cell.t is None or cell.p is None:
            return f" {cell.reason}"
        return f" {t_text(cell.t)} {p_text(cell.p):>7}"
    return MISSING if cell is None else str(cell)
