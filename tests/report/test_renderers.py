import csv
import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from nearzero.report.render import to_csv, to_latex, to_markdown
from nearzero.report.render.latex import escape
from nearzero.report.render.terminal import print_table
from nearzero.report.table import Column, Level, Number, Span, Table, TAndP, text_table
from nearzero.report.tables import response_table, tables

SMALL = Table(
    name="small_table",
    title="A & B",
    caption="50 % of it",
    columns=(
        Column("network", "network", kind="text"),
        Column("level", "level, %", "level\n%"),
        Column("n", "n", kind="count", spare=1),
        Column("accuracy", "accuracy, %", unit="percent"),
        Column("interval95", "95 % interval", kind="interval", unit="percent", spare=2),
        Column("identity", "vs identity", "t, p\nvs identity", kind="test"),
    ),
    rows=(
        ("ReLU", Level(1 / 3), 20, Number(2 / 3), Span(0.1, 0.7), TAndP(-26.49, 1.84e-16, 20)),
        ("ReLU", Level(1.0), 20, Number(-1.0), Span(0.1, 0.7), TAndP(None, None, 20, "all pairs equal")),
        ("a|b_c", Level(None), 0, None, None, None),
        ("a|b_c", Level(1.0), 2, Number(1e-9), Span(0.0, 1.0), TAndP(2e7, 0.0, 2)),
    ),
    notices=("mnist-5k took the place of mnist_full",),
)


def shown(table: Table, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_table(table, console)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_csv_has_every_digit() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(SMALL))))
    assert list(rows[0]) == [
        *("network", "level", "n", "accuracy_percent", "interval95_low_percent", "interval95_high_percent"),
        *("identity_t", "identity_p", "identity_n", "identity_words", "notice"),
    ]
    assert float(rows[0]["level"]) == 1 / 3
    assert float(rows[0]["accuracy_percent"]) == 2 / 3
    assert (float(rows[0]["identity_t"]), float(rows[0]["identity_p"])) == (-26.49, 1.84e-16)
    assert (rows[1]["identity_t"], rows[1]["identity_p"], rows[1]["identity_words"]) == (
        "",
        "",
        "all pairs equal",
    )
    assert (rows[2]["network"], rows[2]["level"], rows[2]["n"], rows[2]["accuracy_percent"]) == (
        "a|b_c",
        "",
        "0",
        "",
    )
    assert {row["notice"] for row in rows} == {"mnist-5k took the place of mnist_full"}


def test_csv_of_a_study_parses_back_to_its_cells(study) -> None:
    for table in tables(study):
        text = to_csv(table)
        lines = list(csv.reader(io.StringIO(text)))
        assert len({len(line) for line in lines}) == 1
        assert len(lines) == 1 + len(table.rows)
        assert not any(line.startswith("#") for line in text.splitlines())
        assert "nan" not in text
        for line, row in zip(csv.DictReader(io.StringIO(text)), table.rows, strict=True):
            for column, cell in zip(table.columns, row, strict=True):
                end = f"_{column.unit}" if column.unit else ""
                match cell:
                    case Number(value=value):
                        assert float(line[column.name + end]) == value
                    case Span(low=low, high=high):
                        assert float(line[f"{column.name}_low{end}"]) == low
                        assert float(line[f"{column.name}_high{end}"]) == high
                    case TAndP(t=float(t), p=float(p)):
                        assert float(line[f"{column.name}_t"]) == t
                        assert float(line[f"{column.name}_p"]) == p


def test_markdown_by_eye() -> None:
    assert to_markdown(SMALL).splitlines() == [
        "## A & B",
        "",
        "> **Notice:** mnist-5k took the place of mnist_full",
        "",
        "| network | level, % | n | accuracy, % | 95 % interval | t vs identity | p vs identity |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| ReLU | 33.33 | 20 | 0.67 | 0.10–0.70 | -26.5 | 1.8e-16 |",
        "| ReLU | 100 | 20 | -1.00 | 0.10–0.70 | all pairs equal | – |",
        "| a\\|b_c | identity | 0 | – | – | – | – |",
        "| a\\|b_c | 100 | 2 | 0.00 | 0.00–1.00 | 2.0e+07 | <1e-300 |",
        "",
        "50 % of it",
    ]


def test_markdown_of_a_study_is_rectangular(study_of: Callable) -> None:
    for table in tables(study_of(runs=3, networks=("abs", "gelu"), splits=("train", "test"))):
        lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
        assert len(lines) == 2 + len(table.rows)
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_latex_by_eye() -> None:
    lines = to_latex(SMALL).splitlines()
    assert lines[1] == r"\begin{table*}"
    assert lines[3] == (
        r"\caption{A \& B. \textbf{Notice: mnist-5k took the place of mnist\_full.} 50 \% of it}"
    )
    assert lines[4:] == [
        r"\label{tab:small-table}",
        r"\begin{tabular}{@{}lrrrrrr@{}}",
        r"\toprule",
        r" &  &  &  &  & \multicolumn{2}{c}{vs identity} \\",
        r"\cmidrule(lr){6-7}",
        r"network & level \% & n & accuracy, \% & 95 \% interval & $t$ & $p$ \\",
        r"\midrule",
        r"ReLU & 33.33 & 20 & 0.67 & 0.10--0.70 & $-26.5$ & $1.8{\times}10^{-16}$ \\",
        r"ReLU & 100 & 20 & $-1.00$ & 0.10--0.70 & \multicolumn{2}{c}{all pairs equal} \\",
        r"\addlinespace",
        r"a\textbar{}b\_c & identity & 0 & -- & -- & -- & -- \\",
        r"a\textbar{}b\_c & 100 & 2 & 0.00 & 0.00--1.00 & $2.0{\times}10^{7}$ & $<10^{-300}$ \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]


def test_latex_escapes() -> None:
    assert escape("a_b & 5 % of $x^2 #1 {~} <\\>") == (
        r"a\_b \& 5 \% of \$x\textasciicircum{}2 \#1 \{\textasciitilde{}\} "
        r"\textless{}\textbackslash{}\textgreater{}"
    )
    assert escape("1–2 ± 3 × −4") == r"1--2 $\pm$ 3 $\times$ $-$4"


def test_latex_of_a_study_is_sound(study_of: Callable) -> None:
    """No compiler needed: ASCII, balanced, and every row as wide as the column specification."""
    for table in tables(study_of(runs=3, splits=("train", "test"), notices=("50 % & {more}",))):
        text = to_latex(table)
        assert text.isascii()
        bare = re.sub(r"\\[{}]", "", text)
        assert bare.count("{") == bare.count("}")
        assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
        assert re.findall(r"\\begin\{(.*?)\}", text) == re.findall(r"\\end\{(.*?)\}", text)[::-1]
        specification = re.search(r"tabular\}\{@\{\}([lr]+)@", text)
        assert specification is not None
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        for row in rows:
            width = 1 + len(re.findall(r"(?<!\\)&", row)) + row.count(r"\multicolumn{2}")
            assert width == len(specification[1]), row
        assert not re.search(r"(?<!\\)%", text.split("\n", 1)[1])


@pytest.mark.parametrize("width", [80, 100, 110, 120, 160])
def test_terminal_rows_are_whole_at_any_width(study_of: Callable, width: int) -> None:
    study = study_of(diverged={"relu": (2,)}, splits=("train", "test"), shift=-1.6)
    for table in tables(study):
        lines = shown(table, width)
        assert max(map(len, lines)) <= width
        assert not any("…" in line for line in lines)
        rule = next(number for number, line in enumerate(lines) if line.startswith("─"))
        body = [line for line in lines[rule + 1 :] if line.strip()][: len(table.rows)]
        levels = [str(cell) for cell in table.cells("level")] if table.name != "table1_baseline" else []
        for line, level in zip(body, levels, strict=bool(levels)):
            assert level in line.split()


def test_terminal_by_eye() -> None:
    assert [line.rstrip() for line in shown(SMALL, 90)] == [
        "A & B",
        "NOTICE: mnist-5k took the place of mnist_full",
        "            level                                              t, p",
        "network         %   n  accuracy, %  95 % interval       vs identity",
        "───────────────────────────────────────────────────────────────────",
        "ReLU        33.33  20         0.67      0.10–0.70     -26.5 1.8e-16",
        "              100  20        -1.00      0.10–0.70   all pairs equal",
        "",
        "a|b_c    identity   0            –              –                 –",
        "              100   2         0.00      0.00–1.00   2.0e+07 <1e-300",
        "50 % of it",
        "",
    ]


def test_a_narrow_terminal_says_what_it_leaves_out() -> None:
    lines = shown(SMALL, 50)
    assert "Left out for want of width: 95 % interval" in lines
    assert not any("95 %" in line for line in lines if "Left out" not in line)
    lines = shown(SMALL, 47)
    assert "Left out for want of width: n; 95 % interval" in lines
    assert any("vs identity" in line for line in shown(SMALL, 30))


def test_tables_2_to_4_keep_accuracy_and_tests_at_80_columns(study) -> None:
    text = "\n".join(shown(response_table(study, "offset"), 80))
    for word in ("acc.", "publ.", "diff.", "vs identity", "vs entry 50"):
        assert word in text


def test_names_that_are_numbers_stay_names() -> None:
    table = text_table("layers", [{"layer": "01", "units": "1,024"}, {"layer": "2", "units": "8"}])
    assert table.rows == (("01", 1024), ("2", 8))
