"""The parts of a display, and the HTML that they make."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nearzero.report.render.html import MOST_ROWS, STYLE, shown, to_html
from nearzero.report.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Fragment", "Picture"]

MOST_LINES = 12  # of sentences in a row


@dataclass(frozen=True)
class Picture:
    """A figure, and a sentence for those who can't see it."""

    figure: Figure
    words: str

    def html(self) -> str:
        """Return the figure as an image, within the HTML."""
        from nearzero.report.figures.style import screen_picture

        content, size = screen_picture(self.figure)
        source = f"data:image/png;base64,{b64encode(content).decode()}"
        return f'<img width="{size["width"]}" alt="{shown(self.words)}" src="{source}">'


@dataclass(frozen=True)
class Fragment:
    """The parts of a display, in this order.

    Attributes:
        title: one line; "" if that of the first table is enough.
        notices: warnings; those of the tables are added to them.
        lines: the sentences that carry the result.
        picture: a figure, or None.
        tables: tables that are open.
        further: tables that are opened by a click.
        facts: other properties, by name.
        notes: sentences that restrict the result.
        rest: where all rows and sentences are, where some are left out.
    """

    title: str
    notices: Sequence[str] = ()
    lines: Sequence[str] = ()
    picture: Picture | None = None
    tables: Sequence[Table] = ()
    further: Sequence[Table] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    rest: str = ""

    def html(self) -> str:
        """Return the parts as HTML, with all of their texts escaped."""
        own = [notice for table in (*self.tables, *self.further) for notice in table.notices]
        notices = [f"Notice: {notice}" for notice in dict.fromkeys((*self.notices, *own))]
        parts = [
            f'<div class="nearzero"><style>{STYLE}</style>',
            *([f'<p class="title">{shown(self.title)}</p>'] if self.title else []),
            *self._sentences(notices, "notice"),
            *self._sentences(self.lines),
            *([] if self.picture is None else [self.picture.html()]),
            *(self._table(table) for table in self.tables),
            *(
                f"<details><summary>{shown(table.title)}</summary>{self._table(table)}</details>"
                for table in self.further
            ),
            *_facts(self.facts),
            *self._sentences(self.notes, "quiet"),
            "</div>",
        ]
        return "\n".join(parts)

    def _table(self, table: Table) -> str:
        return to_html(replace(table, notices=()), self.rest, MOST_ROWS)

    def _sentences(self, texts: Sequence[str], style: str = "") -> Iterable[str]:
        """Yield a paragraph for each text; of very many, the first ones and the number of those left out."""
        name = f' class="{style}"' if style else ""
        yield from (f"<p{name}>{shown(text)}</p>" for text in texts[:MOST_LINES])
        if len(texts) > MOST_LINES:
            where = f"; {self.rest}" if self.rest else ""
            left_out = f"Left out: {len(texts) - MOST_LINES:,} more lines{where}."
            yield f'<p class="quiet">{shown(left_out)}</p>'


def _facts(facts: Mapping[str, str]) -> Iterable[str]:
    """Yield a table of properties, if there are any."""
    if not facts:
        return
    yield '<div class="scroll"><table><tbody>'
    for name, value in facts.items():
        yield f'<tr><th scope="row" class="text">{shown(name)}</th><td class="text wide">{shown(value)}</td></tr>'
    yield "</tbody></table></div>"
