"""A table as HTML, for notebooks and pages: escaped, accessible, and readable in light and dark themes.

`STYLE` is its look in a notebook, with the colours around it; a page has a style of its own. A cell carries the
number by which a page's script sorts. A table that is cut says so in a sentence below it.
"""

from collections.abc import Iterable, Iterator

from nearzero.report.render.markup import Markup, tag, text
from nearzero.report.table import Cell, Column, Level, Number, PValue, Span, Table, TAndP

__all__ = ["MOST_ROWS", "STYLE", "shown", "to_html"]

MOST_ROWS = 24  # of a table in a notebook

# Twice the class, since notebooks style all tables.
STYLE = """
.nearzero.nearzero { line-height: 1.45; max-width: 75em; overflow-wrap: anywhere; }
.nearzero.nearzero p { margin: 0.35em 0; }
.nearzero.nearzero .title { font-weight: bold; font-size: 1.1em; }
.nearzero.nearzero .notice { border-left: 4px solid #e08a00; padding-left: 0.6em; }
.nearzero.nearzero .quiet, .nearzero.nearzero .caption { font-size: 0.9em; }
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


def shown(words: str) -> Markup:
    """Escape a text for HTML, in elements and attributes; of a very long text, its beginning and how much is left out.

    Example:
        >>> from nearzero.report.render.html import shown
        >>> shown("<b> & 'c'")
        '&lt;b&gt; &amp; &#x27;c&#x27;'
    """
    rest = len(words) - MOST_CHARACTERS
    return text(f"{words[:MOST_CHARACTERS]}… ({rest:,} more characters)" if rest > 0 else words)


def to_html(table: Table, rest: str = "", most: int | None = None) -> Markup:
    """Return the table as HTML: notices, table with its title, caption.

    A test has two columns, t and p; the reason why there is no test is in the first of them. Where a cell holds a
    number, `data-value` has it in full.

    Args:
        table: the table.
        rest: where all rows are, as the end of the sentence below a table that is cut.
        most: the greatest number of rows; from a longer table, half as many of its first and of its last rows. All
            rows if None.
    """
    heads = [head for column in table.columns for head in _heads(column)]
    title, most = shown(table.title), len(table.rows) if most is None else most
    held = tag(
        "table",
        tag("caption", title),
        tag("thead", tag("tr", heads)),
        tag("tbody", _body(table, most, len(heads))),
        data_table=shown(table.name),
    )
    return tag(
        "div",
        [tag("p", tag("b", "Notice:"), " ", shown(notice), class_="notice") for notice in table.notices],
        tag("div", held, class_="scroll", tabindex=0, role="group", aria_label=title),
        None if table.rows else tag("p", "No rows.", class_="caption"),
        tag("p", shown(table.caption), class_="caption") if table.caption else None,
        tag("p", _cut_sentence(len(table.rows), most, rest), class_="caption")
        if len(table.rows) > most
        else None,
        class_="table",
    )


def _cut_sentence(rows: int, most: int, rest: str) -> Markup:
    half, where = most // 2, f"; {rest}" if rest else ""
    left_out = (
        f"Left out: {rows - 2 * half:,} of {rows:,} rows, between the first {half} and the last {half}{where}"
    )
    return Markup(f"{shown(left_out)}.")


def _body(table: Table, most: int, width: int) -> Iterable[Markup]:
    """Yield the rows; a line above each block but the first; the rows in the middle of a long table left out."""
    half, count = most // 2, len(table.rows)
    blocks = list(table.blocks())
    ruled = len(blocks) < count  # else every row is a block
    place = 0
    for number, block in enumerate(blocks):
        for line, row in enumerate(block):
            if count <= most or place < half or place >= count - half:
                start = "block" if ruled and number and not line else None
                yield tag("tr", _row(table.columns, row), class_=start)
            elif place == half:
                words = f"… {count - 2 * half:,} rows left out …"
                yield tag("tr", tag("td", words, class_="cut", colspan=width))
            place += 1


def _heads(column: Column) -> Iterator[Markup]:
    for name in column.headers:
        kind = "text" if column.kind == "text" else "number"
        yield tag("th", shown(name), scope="col", class_=kind) if name else tag("td")


def _row(columns: Iterable[Column], row: Iterable[Cell]) -> Iterator[Markup]:
    """Yield the cells of a row; the first names the row."""
    name, scope = "th", "row"
    for column, cell in zip(columns, row, strict=True):
        kind = "text" if column.kind == "text" else "number"
        for words, value in zip(column.texts(cell), _values(cell), strict=False):
            style = f"{kind} long" if len(words) > LONG else kind
            yield tag(name, shown(words), scope=scope or None, class_=style, data_value=value)
            name, scope = "td", ""


def _values(cell: Cell) -> tuple[float | None, float | None]:
    """Return the numbers by which a cell is sorted, of a test t and p; None where it is sorted by its text."""
    match cell:
        case TAndP(t=t, p=p):
            return (t, p) if t is not None and p is not None else (None, None)
        case Number(value=value) | PValue(value=value) | Level(value=value):
            return value, None
        case Span(low=low, high=high):
            return (low + high) / 2, None
        case int():
            return cell, None
    return None, None
