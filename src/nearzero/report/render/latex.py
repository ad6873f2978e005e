r"""A table as LaTeX, for \input in a document; needs plain pdflatex and the package booktabs.

If the table's own text is ASCII apart from the characters in `_ESCAPES`, the LaTeX is ASCII, so that no input
encoding matters.
"""

from nearzero.report.table import Cell, Column, Number, Table, TAndP, p_text, t_text

__all__ = ["escape", "to_latex"]

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "’": "'",
}


def to_latex(table: Table) -> str:
    r"""Return the table as a `table*` float with its notices and caption above a booktabs tabular.

    Tables 2 to 4 are the widest; they fit a page with margins of an inch.
    """
    specification = "".join(
        "l" if column.kind == "text" else "r" * _width(column) for column in table.columns
    )
    notices = "".join(f"\\textbf{{Notice: {escape(notice.rstrip('.'))}.}} " for notice in table.notices)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table*}",
        "\\centering\\scriptsize\\setlength{\\tabcolsep}{2pt}",
        f"\\caption{{{escape(table.title.rstrip('.'))}. {notices}{escape(table.caption)}}}",
        f"\\label{{tab:{table.name.replace('_', '-')}}}",
        f"\\begin{{tabular}}{{@{{}}{specification}@{{}}}}",
        "\\toprule",
        *_head(table.columns),
        "\\midrule",
    ]
    for number, block in enumerate(table.blocks()):
        lines += ["\\addlinespace"] if number else []
        lines += [f"{' & '.join(map(_field, table.columns, row))} \\\\" for row in block]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table*}", ""])


def escape(text: str) -> str:
    """Escape every character of plain text that is special in LaTeX."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def _width(column: Column) -> int:
    return 2 if column.kind == "test" else 1


def _head(columns: tuple[Column, ...]) -> list[str]:
    """Return a line of headers; above it, if there are tests, the names of the tests, each over two columns."""
    names: list[str] = []
    spans: list[str] = []
    rules: list[str] = []
    position = 1
    for column in columns:
        if column.kind == "test":
            names.append("$t$ & $p$")
            spans.append(f"\\multicolumn{{2}}{{c}}{{{escape(column.header)}}}")
            rules.append(f"\\cmidrule(lr){{{position}-{position + 1}}}")
        else:
            names.append(escape((column.short or column.header).replace("\n", " ")))
            spans.append("")
        position += _width(column)
    line = f"{' & '.join(names)} \\\\"
    return [f"{' & '.join(spans)} \\\\", " ".join(rules), line] if rules else [line]


def _field(column: Column, cell: Cell) -> str:
    match cell:
        case None:
            return " & ".join(["--"] * _width(column))
        case TAndP(t=None) | TAndP(p=None):
            return f"\\multicolumn{{2}}{{c}}{{{escape(cell.reason)}}}"
        case TAndP(t=float(t), p=float(p)):
            return f"{_number(t_text(t))} & {_power(p_text(p))}"
        case Number():
            return _number(str(cell))
        case _:
            return escape(str(cell))


def _number(text: str) -> str:
    if "e" in text:
        return _power(text)
    return f"${text}$" if text[0] in "+-" else text


def _power(text: str) -> str:
    """Typeset a number such as 6.1e-17 or <1e-300 as a power of ten."""
    sign, text = ("<", text[1:]) if text.startswith("<") else ("", text)
    digits, exponent = text.split("e")
    factor = "" if digits == "1" else f"{digits}{{\\times}}"
    return f"${sign}{factor}10^{{{int(exponent)}}}$"
