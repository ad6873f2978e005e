"""A table as a value: built once in `tables`, shown by the four renderers of `render`.

A cell knows its number at full precision and how many decimals a reader wants; a column knows what its
cells are and how it is called on paper, in a terminal and in a file. What goes into which table is not
decided here.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from nearzero.statistics.summaries import Summary

__all__ = [
    "MISSING",
    "Cell",
    "Column",
    "Kind",
    "Level",
    "Number",
    "Span",
    "TAndP",
    "Table",
    "p_text",
    "t_text",
]

Kind = Literal["text", "count", "number", "interval", "test"]
MISSING = "–"


@dataclass(frozen=True)
class Number:
    """A finite number, and how a reader wants to see it."""

    value: float
    decimals: int = 2
    signed: bool = False

    @classmethod
    def of(cls, value: float | None, decimals: int = 2, *, signed: bool = False) -> "Number | None":
        """The number, or None in place of one that is missing or not finite."""
        return None if value is None or not math.isfinite(value) else cls(value, decimals, signed)

    def __str__(self) -> str:
        text = f"{self.value:+.{self.decimals}f}" if self.signed else f"{self.value:.{self.decimals}f}"
        return text.lstrip("+-") if float(text) == 0.0 else text


@dataclass(frozen=True)
class Level:
    """A level, kept as the fraction it is and shown in percent with four digits; None is the identity."""

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
    def of(cls, summary: Summary, decimals: int = 2) -> "Span | None":
        """The t interval of a summary, or None where it has fewer than two runs."""
        return cls(summary.low, summary.high, decimals) if summary.n >= 2 else None

    def __str__(self) -> str:
        between = "–" if self.low >= 0 else " to "  # a dash beside a minus can't be read
        return f"{Number(self.low, self.decimals)}{between}{Number(self.high, self.decimals)}"


@dataclass(frozen=True)
class TAndP:
    """A t statistic and its p value over n pairs, or the words that stand in their place."""

    t: float | None
    p: float | None
    n: int | None
    words: str = ""


Cell = str | int | Number | Level | Span | TAndP | None


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: in a CSV file; an interval gets `_low` and `_high` before its unit, a test `_t`, `_p`, `_n`
            and `_words` after it.
        header: for paper.
        short: for a terminal, where a line break starts a second line; the header where it is empty.
        kind: what its cells are.
        unit: the end of the name in a CSV file, such as `percent`.
        spare: how soon a narrow terminal leaves it out; 0 is never, then the greatest goes first.
    """

    name: str
    header: str
    short: str = ""
    kind: Kind = "number"
    unit: str = ""
    spare: int = 0


@dataclass(frozen=True)
class Table:
    """A titled table with notices for its head and a caption that says how to read it.

    Attributes:
        name: of its files, such as `table2_scale`.
        title, caption: one line each, as plain text.
        columns, rows: every row has a cell for every column.
        notices: what a reader must not miss.
        group: name of the column whose change starts a new block of rows.
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
        """Rows in blocks of one value of the `group` column, in order."""
        at = [column.name for column in self.columns].index(self.group)
        block: list[tuple[Cell, ...]] = []
        for row in self.rows:
            if block and row[at] != block[-1][at]:
                yield block
                block = []
            block.append(row)
        if block:
            yield block

    def cells(self, name: str) -> Sequence[Cell]:
        """Every cell of the named column."""
        at = [column.name for column in self.columns].index(name)
        return [row[at] for row in self.rows]


def t_text(t: float) -> str:
    """A t statistic with one decimal, as published; in powers of ten from 100,000 on."""
    return f"{t:.1f}" if abs(t) < 1e5 else f"{t:.1e}"


def p_text(p: float) -> str:
    """A p value as 6.1e-17; what is too small for a float as <1e-300."""
    return f"{p:.1e}" if p >= 1e-300 else "<1e-300"
