"""A table as HTML, for notebooks: escaped, accessible, and readable in light and dark themes.

Colours are those of the page around it. A long table is cut, and a sentence below it says so.
"""

from collections.abc import Iterable
from html import escape

from nearzero.report.table import Cell, Column, Table

__all__ = ["MOST_ROWS", "STYLE", "shown", "to_html"]

MOST_ROWS = 24  # of a table; from a longer one, half as many of its first and of its last rows

# Twice the class, since notebooks style all tables.
STYLE = """
.nearzero.nearzero { line-height: 1.45; max-width: 75em; overflow-wrap: anywhere; }
.nearzero.nearzero p { margin: 0.35em 0; }
.nearzero.nearzero .title { font-weight: bold; font-size: 1.1em; }
.nearzero.nearzero .notice { border-left: 4px solid #e08a00; padding-left: 0.6em; }
.nearzero.nearzero .quiet { font-size: 0.9em; }
.nearzero.nearzero .scroll { overflow-x: auto; margin: 0.5em 0; }
.nearzero.nearzero table { border-collapse: collapse; border: none; margin: 0; font-size: 0.88em;
  font-variant-numeric: tabular-nums; table-layout: auto; }
.nearzero.nearzero caption { caption-side: top; text-align: left; font-weight: bold; color: inherit;
  padding: 0.3em 0; }
.nearzero.nearzero tr, .nearzero.nearzero tr:nth-child(n) { background: transparent; border: none; }
.nearzero.nearzero tr:hover { background: rgba(128, 128, 128, 0.16); }
.nearzero.nearzero th, .nearzero.nearzero td { text-align: right; vertical-align: top; white-space: nowrap;
  border: none; padding: 0.15em 0.5em; max-width: none; overflow-wrap: normal; }
.nearzero.nearzero th:first-child { padding-left: 0.2em; }
.nearzero.nearzero thead th { vertical-align: bottom; border-bottom: 1px solid currentColor; font-weight: bold;
  white-space: normal; }
.nearzero.nearzero details caption { display: none; }
.nearzero.nearzero tbody th { font-weight: normal; }
.nearzero.nearzero th.text, .nearzero.nearzero td.text { text-align: left; }
.nearzero.nearzero .long { white-space: normal; min-width: 11em; max-width: 30em; overflow-wrap: anywhere; }
.nearzero.nearzero .wide { white-space: normal; overflow-wrap: anywhere; }
.nearzero.nearzero tr.block > * { border-top: 1px solid rgba(128, 128, 128, 0.55); }
.nearzero.nearzero td.cut { text-align: left; font-style: italic; }
.nearzero.nearzero summary { cursor: pointer; margin: 0.35em 0; }
.nearzero.nearzero img { display: block; background: white; max-width: 100%; height: auto; margin: 0.5em 0; }
"""
LONG = 36  # characters; a longer text in a cell wraps
MOST_CHARACTERS = 1000  # of one text


def shown(text: str) -> str:
    """Escape a text for HTML, in elements and attributes; of a very long text, its beginning and how much is left out.

    Example:
        >>> from nearzero.report.render.html import shown
        >>> shown("<b> & 'c'")
        '&lt;b&gt; &amp; &#x27;c&#x27;'
    """
    rest = len(text) - MOST_CHARACTERS
    return escape(f"{text[:MOST_CHARACTERS]}… ({rest:,} more characters)" if rest > 0 else text)


def to_html(table: Table, rest: str = "", most: int = MOST_ROWS) -> str:
    """Return the table as HTML: notices, table with its title, caption.

    A test has two columns, t and p; the reason why there is no test is in the first of them.

    Args:
        table: the table.
        rest: where all rows are, as the end of the sentence below a table that is cut.
        most: the greatest number of rows.
    """
    heads = [head for column in table.columns for head in _heads(column)]
    lines = [_notice(notice) for notice in table.notices]
    lines += [f'<div class="scroll" tabindex="0" role="group" aria-label="{shown(table.title)}"><table>']
    lines += [f"<caption>{shown(table.title)}</caption>", f"<thead><tr>{''.join(heads)}</tr></thead>"]
    lines += ["<tbody>", *_body(table, most, len(heads)), "</tbody></table></div>"]
    if table.caption:
        lines.append(f'<p class="quiet">{shown(table.caption)}</p>')
    if len(table.rows) > most:
        where = f"; {rest}" if rest else ""
        lines.append(f'<p class="quiet">{shown(_cut_sentence(len(table.rows), most) + where)}.</p>')
    return "\n".join(lines)


def _notice(text: str) -> str:
    return f'<p class="notice"><b>Notice:</b> {shown(text)}</p>'


def _cut_sentence(rows: int, most: int) -> str:
    half = most // 2
    return f"Left out: {rows - 2 * half:,} of {rows:,} rows, between the first {half} and the last {half}"


def _body(table: Table, most: int, width: int) -> Iterable[str]:
    """Yield the rows; a line above each block but the first; the rows in the middle of a long table left out."""
    half, count = most // 2, len(table.rows)
    blocks = list(table.blocks())
    ruled = len(blocks) < count  # else every row is a block
    place = 0
    for number, block in enumerate(blocks):
        for line, row in enumerate(block):
            if count <= most or place < half or place >= count - half:
                start = ' class="block"' if ruled and number and not line else ""
                yield f"<tr{start}>{_row(table.columns, row)}</tr>"
            elif place == half:
                yield f'<tr><td class="cut" colspan="{width}">… {count - 2 * half:,} rows left out …</td></tr>'
            place += 1


def _heads(column: Column) -> list[str]:
    side = ' class="text"' if column.kind == "text" else ""
    return [f'<th scope="col"{side}>{shown(name)}</th>' if name else "<td></td>" for name in column.headers]


def _row(columns: Iterable[Column], row: Iterable[Cell]) -> str:
    """Return the cells of a row; the first names the row."""
    fields: list[str] = []
    for column, cell in zip(columns, row, strict=True):
        for text in column.texts(cell):
            names = ("text" if column.kind == "text" else "", "long" if len(text) > LONG else "")
            style = f' class="{" ".join(filter(None, names))}"' if any(names) else ""
            tag = "td" if fields else "th"
            scope = "" if fields else ' scope="row"'
            fields.append(f"<{tag}{scope}{style}>{shown(text)}</{tag}>")
    return "".join(fields)
