"""A table as a value. It is built once, and printed by the six renderers of `render`.

A cell holds a number at full precision and the number of decimals to print. A column holds the kind of its
cells and its names on paper, in a terminal and in a file. The contents of each table are decided in `tables`,
`verdict`, `near_far`, `grids` and `audit`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nearzero.statistics.summaries import Summary
from nearzero.support.display import Displayed

__all__ = [
    "MISSING",
    "Cell",
    "Column",
    "Kind",
    "Level",
    "Number",
    "PValue",
    "Span",
    "TAndP",
    "Table",
    "p_text",
    "t_text",
    "text_table",
]

Kind = Literal["text", "count", "number", "interval", "test"]
MISSING = "–"


@dataclass(frozen=True)
class Number:
    """A finite number, and how it is printed.

    Example:
        >>> from nearzero.report.table import Number
        >>> str(Number(98.3349)), str(Number(0.126, signed=True)), str(Number(-0.004))
        ('98.33', '+0.13', '0.00')
    """

    value: float
    decimals: int = 2
    signed: bool = False

    @classmethod
    def of(cls, value: float | None, decimals: int = 2, *, signed: bool = False) -> "Number | None":
        """Return a number; None if the value is missing or not finite."""
        return None if value is None or not math.isfinite(value) else cls(value, decimals, signed)

    def __str__(self) -> str:
        text = f"{self.value:+.{self.decimals}f}" if self.signed else f"{self.value:.{self.decimals}f}"
        return text.lstrip("+-") if float(text) == 0.0 else text


@dataclass(frozen=True)
class Level:
    """A level: held as a fraction, printed in percent with four digits. None is the identity."""

    value: float | None

    def __str__(self) -> str:
        return "identity" if self.value is None else f"{100.0 * round(self.value, 12) + 0.0:.4g}"


@dataclass(frozen=True)
class Span:
    """An interval from low to high."""

    low: float
    high: float
    decimals: int = 2

    @classmethod
    def of(
        cls, summary: Summary, decimals: int = 2, *, least: float = -math.inf, most: float = math.inf
    ) -> "Span | None":
        """Return the t interval of a summary, cut where values end; None if it has fewer than two runs.

        Args:
            summary: of the runs.
            decimals: to print.
            least, most: the ends of the scale, such as 0 and 100 for an accuracy.
        """
        cut = summary.cut(least, most)
        return cls(cut.low, cut.high, decimals) if summary.n >= 2 else None

    def __str__(self) -> str:
        between = "–" if self.low >= 0 else " to "  # a dash before a minus sign is hard to read
        return f"{Number(self.low, self.decimals)}{between}{Number(self.high, self.decimals)}"


@dataclass(frozen=True)
class PValue:
    """A p value, printed with four decimals; if it is very small, or if `in_powers` is set, in powers of ten.

    Example:
        >>> from nearzero.report.table import PValue
        >>> str(PValue(0.04321)), str(PValue(0.00001234)), str(PValue(0.04321, in_powers=True))
        ('0.0432', '1.2e-05', '4.3e-02')
    """

    value: float
    in_powers: bool = False

    def __str__(self) -> str:
        return p_text(self.value) if self.in_powers or self.value < 0.0001 else f"{self.value:.4f}"


@dataclass(frozen=True)
class TAndP:
    """A t statistic and its p value over n pairs, or the reason why there are none."""

    t: float | None
    p: float | None
    n: int | None
    reason: str = ""


Cell = str | int | Number | PValue | Level | Span | TAndP | None


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: in a CSV file. An interval becomes two columns, with `_low` and `_high` before the unit; a test
            becomes four, with `_t`, `_p`, `_n` and `_words` (the reason why there is no test) after the name.
        header: on paper.
        short: in a terminal, where a line break starts a second line; the header if empty.
        kind: of its cells.
        unit: end of the name in a CSV file, such as `percent`.
        spare: priority for leaving the column out of a narrow terminal, greatest first; 0: never left out.
    """

    name: str
    header: str
    short: str = ""
    kind: Kind = "number"
    unit: str = ""
    spare: int = 0

    @property
    def headers(self) -> tuple[str, ...]:
        """Return the header, or two of them for a test: of its t and its p."""
        return (f"t {self.header}", f"p {self.header}") if self.kind == "test" else (self.header,)

    def texts(self, cell: Cell) -> tuple[str, ...]:
        """Return a cell of the column as a text for each header; the reason why there is no test in the first."""
        if isinstance(cell, TAndP):
            return (
                (cell.reason, MISSING)
                if cell.t is None or cell.p is None
                else (t_text(cell.t), p_text(cell.p))
            )
        return (MISSING if cell is None else str(cell),) * len(self.headers)


@dataclass(frozen=True)
class Table(Displayed):
    """A table with a title, notices above it, and a caption that says how to read it.

    Attributes:
        name: of its files, such as `table2_scale`.
        title, caption: one line each, as plain text.
        columns, rows: every row has a cell for every column.
        notices: warnings that are printed above the table.
        group: name of the column by which rows are grouped into blocks: a change of its value starts a new
            block. Empty: they aren't grouped.
    """

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notices: tuple[str, ...] = ()
    group: str = "network"

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.name!r}: row {number} has {len(row)} cells for {len(self.columns)} columns"
                )

    def blocks(self) -> Iterator[list[tuple[Cell, ...]]]:
        """Yield the rows in order, in blocks with the same value in the column `group`; in one block without it."""
        if not self.group:
            yield list(self.rows)
            return
        index = [column.name for column in self.columns].index(self.group)
        block: list[tuple[Cell, ...]] = []
        for row in self.rows:
            if block and row[index] != block[-1][index]:
                yield block
                block = []
            block.append(row)
        if block:
            yield block

    def without_empty(self, name: str) -> "Table":
        """Return the table without a column, if all of its cells are None."""
        if any(cell is not None for cell in self.cells(name)):
            return self
        kept = [index for index, column in enumerate(self.columns) if column.name != name]
        rows = (tuple(row[index] for index in kept) for row in self.rows)
        return replace(self, columns=tuple(self.columns[index] for index in kept), rows=tuple(rows))

    def cells(self, name: str) -> Sequence[Cell]:
        """Return the cells of the column of that name."""
        index = [column.name for column in self.columns].index(name)
        return [row[index] for row in self.rows]


def t_text(t: float) -> str:
    """Format a t statistic: with one decimal, as published; in powers of ten from 100,000 on."""
    return f"{t:.1f}" if abs(t) < 1e5 else f"{t:.1e}"


def p_text(p: float) -> str:
    """Format a p value: 6.1e-17, or <1e-300 if it is too small for a float."""
    return f"{p:.1e}" if p >= 1e-300 else "<1e-300"


def text_table(name: str, rows: Sequence[Mapping[str, str]], title: str = "", caption: str = "") -> Table:
    """Return rows of texts as a table; a column of whole numbers, but not the first, is one of counts.

    Args:
        name: of the table.
        rows: texts by the header of their column; all rows have the same headers. The name of a column is its header
            with underscores for spaces.
        title, caption: of the table.

    Example:
        >>> from nearzero.report.table import text_table
        >>> text_table("layers", [{"layer": "act", "units": "1,024"}]).rows
        (('act', 1024),)
    """
    headers = list(rows[0]) if rows else []
    counted = {header for header in headers[1:] if all(_is_count(row[header]) for row in rows)}
    return Table(
        name=name,
        title=title,
        caption=caption,
        columns=tuple(
            Column(header.replace(" ", "_"), header, kind="count" if header in counted else "text")
            for header in headers
        ),
        rows=tuple(
            tuple(
                int(row[header].replace(",", "")) if header in counted else row[header] for header in headers
            )
            for row in rows
        ),
        group="",
    )


def _is_count(text: str) -> bool:
    return text.replace(",", "").isdecimal()
