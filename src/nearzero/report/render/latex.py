r"""A table as LaTeX, to be read in with \input: plain pdflatex and the package booktabs.

The text is ASCII wherever the table's own words are, so that no input encoding matters.
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
    r"""The table as a `table*` float with its notices and caption above a booktabs tabular.

    The widest (2 to 4) are as wide as a page with margins of an inch.
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
    """Plain text with every sign that LaTeX would act upon made literal."""
    return "".join(_ESCAPES.get(sign, sign) for sign in text)


def _width(column: Column) -> int:
    return 2 if column.kind == "test" else 1


def _head(columns: tuple[Column, ...]) -> list[str]:
    """One line of headers; above it, where there are tests, their names over pairs of columns."""
    names: list[str] = []
    spans: list[str] = []
    rules: list[str] = []
    at = 1
    for column in columns:
        if column.kind == "test":
            names.append("$t$ & $p$")
            spans.append(f"\\multicolumn{{2}}{{c}}{{{escape(column.header)}}}")
            rules.append(f"\\cmidrule(lr){{{at}-{at + 1}}}")
        else:
            names.append(escape((column.short or column.header).replace("\n", " ")))
            spans.append("")
        at += _width(column)
    line = f"{' & '.join(names)} \\\\"
    return [f"{' & '.join(spans)} \\\\", " ".join(rules), line] if rules else [line]


def _field(column: Column, cell: Cell) -> str:
    match cell:
        case None:
            return " & ".join(["--"] * _width(column))
        case TAndP(t=None) | TAndP(p=None):
            return f"\\multicolumn{{2}}{{c}}{{{escape(cell.words)}}}"
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
    """6.1e-17 as a power of ten."""
    less, text = ("<", text[1:]) if text.startswith("<") else ("", text)
    digits, exponent = text.split("e")
    factor = "" if digits == "1" else f"{digits}{{\\times}}"
    return f"${less}{factor}10^{{{int(exponent)}}}$"
