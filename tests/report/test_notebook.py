"""Results as notebooks display them: complete, escaped, and with the numbers of the tables."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import nearzero as nz
from nearzero.mechanisms.power import Counts, Power
from nearzero.mechanisms.studies import Condition
from nearzero.paper.audit.values import Audit
from nearzero.probing.summary import ProbeSummary
from nearzero.report.figures.style import ShownFigure, figure_bytes
from nearzero.report.notebook import grid_html, study_html
from nearzero.report.notebook.fragment import MOST_LINES, Fragment
from nearzero.report.render import to_markdown
from nearzero.report.render.html import MOST_CHARACTERS, MOST_ROWS, to_html
from nearzero.report.table import Column, Level, Number, Span, Table, TAndP
from nearzero.report.tables import response_table
from nearzero.report.verdict import comparisons_table

ROOT = Path(__file__).parents[2]
HOSTILE = "</td></table><script>alert('x')</script><img src=x onerror=\"y\">&amp; '\""
TAGS = {
    *(
        "div",
        "style",
        "p",
        "b",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "details",
        "summary",
        "img",
    ),
}


class Reader(HTMLParser):
    """Reads tags, attributes, texts and the rows of tables; every tag but img must be closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag != "img":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def read(result: object) -> Reader:
    return Reader(result._repr_html_())  # type: ignore[attr-defined]


def markdown_rows(table: Table) -> list[list[str]]:
    """The header and the rows of a table, as another renderer has them."""
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (lines[0], *lines[2:])]


def table_of(rows: int, text: str = "a") -> Table:
    columns = (Column("name", "name", kind="text"), Column("value", "value, %"))
    numbers = tuple((text, Number(float(row))) for row in range(rows))
    return Table("long", "Title", "Caption.", columns, numbers, group="name")


@pytest.fixture(scope="module")
def network() -> nz.TwoLayer:
    return nz.TwoLayer([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.5], "relu")


def hostile_model() -> nn.Module:
    """A model whose class and layer have hostile names."""
    torch.manual_seed(0)
    inner = type(HOSTILE, (nn.Sequential,), {})(nn.Linear(4, 6))
    inner.add_module(HOSTILE.replace(".", ""), nn.ReLU())
    inner.add_module("end", nn.Linear(6, 3))
    return inner


@pytest.fixture(scope="module")
def probed() -> nz.ProbeResult:
    data = (torch.randn(20, 4), torch.randint(3, (20,)))
    return nz.probe(hostile_model(), data, levels=3)


@pytest.fixture(scope="module")
def study() -> nz.Study:
    return nz.Study.open(ROOT / "results" / "paper")


# --- every public result ---


def test_every_public_result_has_a_display(
    network: nz.TwoLayer, probed: nz.ProbeResult, study: nz.Study, tmp_path: Path
) -> None:
    x = [[-2.0], [-1.0], [0.25], [1.0]]
    model = nn.Linear(2, 2)
    torch.save(model.state_dict(), tmp_path / "net.pt")
    results = [
        study,
        study.verdict(),
        study.audited(),
        response_table(study, "offset"),
        nz.Grid.open(ROOT / "results" / "grids" / "width"),
        probed,
        probed.summary(),
        nz.critical_levels(network, x, family="scale"),
        nz.scale_audit(network, x),
        Power(
            nz.Rules(),
            1,
            0,
            (
                Counts(
                    Condition(mechanism="distance", activation="abs"),
                    6,
                    {"distance costs more": 9, "inconclusive": 1},
                ),
            ),
        ),
        nz.load_weights(model, tmp_path / "net.pt"),
    ]
    kinds = {nz.Study, nz.Verdict, Audit, Table, nz.Grid, nz.ProbeResult, ProbeSummary}
    kinds |= {Power, nz.CriticalLevels, nz.ScaleAudit, nz.LoadedWeights}
    assert {type(result) for result in results} == kinds
    for result in results:
        html = result._repr_html_()
        reader = Reader(html)
        assert len(reader.text) > 30
        assert len(html) < 300_000
        assert "nan" not in reader.text.split()
        for tag, name, value in reader.attributes:
            assert name != "alt" or value, tag
        for line in reader.rows:
            assert line


def test_results_from_files_are_displayed_as_those_in_memory(
    network: nz.TwoLayer, probed: nz.ProbeResult, tmp_path: Path
) -> None:
    again = nz.ProbeResult.open(probed.save(tmp_path / "probe"))
    assert again._repr_html_() == probed._repr_html_()
    found = nz.critical_levels(network, [[-2.0], [0.25], [1.0]], family="offset")
    loaded = nz.CriticalLevels.load(found.save(tmp_path / "critical.npz"))
    assert loaded._repr_html_() == found._repr_html_()


def test_a_study_is_displayed_at_every_stage(tmp_path: Path) -> None:
    settings = {"data": "digits", "runs": 2, "units": 8, "steps": 20}
    study = nz.Study.create(tmp_path / "study", "quick", settings)
    assert "nothing yet" in read(study).text
    text = read(study.train()).text
    assert "nothing yet" not in text
    assert "Not swept yet" in text
    text = read(study.sweep()).text
    assert "Reproduction:" in text
    assert "No verdict at equal displacement yet" in text
    del settings["units"]
    spec = nz.GridSpec(title="Width", question=HOSTILE, vary="units", values=[8, 16], study=settings)
    text = read(nz.Grid.create(tmp_path / "grid", spec)).text
    assert "Not measured yet" in text
    assert HOSTILE in text


def test_what_cant_be_read_is_said(tmp_path: Path) -> None:
    settings = {"data": "digits", "runs": 2, "steps": 20}
    study = nz.Study.create(tmp_path / "study", "quick", settings)
    (study.folder / "results.nc").write_bytes(b"no data")
    spec = nz.GridSpec(title="Width", vary="units", values=[8, 16], study=settings)
    grid = nz.Grid.create(tmp_path / "grid", spec)
    (grid.folder / "responses.nc").write_bytes(b"no data")
    for result, file in ((study, "results.nc"), (grid, "responses.nc")):
        text = read(result).text
        assert "Notice:" in text
        assert f"{file} can't be read" in text


# --- escaping ---


def test_hostile_texts_are_escaped_in_tables() -> None:
    columns = (Column("name", HOSTILE, kind="text"), Column("test", HOSTILE, kind="test"))
    table = Table(
        "t",
        HOSTILE,
        HOSTILE,
        columns,
        ((HOSTILE, TAndP(None, None, None, HOSTILE)),),
        (HOSTILE,),
        group="name",
    )
    for html in (table._repr_html_(), to_html(table, rest=HOSTILE)):
        reader = Reader(html)
        assert reader.rows == [[HOSTILE, f"t {HOSTILE}", f"p {HOSTILE}"], [HOSTILE, HOSTILE, "–"]]
        assert reader.text.count(HOSTILE) >= 7
        assert {value for _, name, value in reader.attributes if name == "aria-label"} == {HOSTILE}


def test_hostile_names_are_escaped_in_results(
    probed: nz.ProbeResult, network: nz.TwoLayer, study: nz.Study, study_of: Callable
) -> None:
    def hostile(result: object) -> bool:
        return HOSTILE in read(result).text

    assert hostile(probed)
    assert hostile(probed.summary())
    assert hostile(nz.LoadedWeights(Path(HOSTILE), HOSTILE, "", (HOSTILE,), unused=(HOSTILE,)))
    assert hostile(replace(nz.scale_audit(network, [[1.0], [2.0]]), layer=HOSTILE, normalisations=(HOSTILE,)))
    verdict = study.verdict()
    named = [
        replace(row, network=HOSTILE if row.network == "relu" else row.network) for row in verdict.comparisons
    ]
    costs = verdict.costs.assign_coords(network=["abs", HOSTILE])
    assert hostile(
        replace(verdict, comparisons=tuple(named), checks={}, costs=costs, left_out={HOSTILE: (HOSTILE,)})
    )
    assert hostile(replace(study.audited(), title=HOSTILE, notices=(HOSTILE,)))
    made_up = study_of(runs=3, notices=(HOSTILE,))
    assert HOSTILE in Reader(study_html(HOSTILE, {HOSTILE: HOSTILE}, made_up, None)).text
    assert HOSTILE in Reader(grid_html(HOSTILE, "", None)).text


def test_the_display_of_a_probe_of_a_long_name_stays_short() -> None:
    long = "x" * 10 * MOST_CHARACTERS
    reader = read(nz.LoadedWeights(Path(long), "", "", (), unused=(long,)))
    assert len(reader.text) < 3 * MOST_CHARACTERS
    assert "more characters)" in reader.text


# --- numbers ---


def test_numbers_are_those_of_the_text_tables(study: nz.Study) -> None:
    table = response_table(study, "clip")
    assert read(table).rows == markdown_rows(table)
    verdict = study.verdict()
    expected = markdown_rows(comparisons_table(verdict, "abs, relu"))
    assert read(verdict).rows[: len(expected)] == expected
    rows = read(study).rows
    for network in ("abs", "relu"):
        runs = study.history.loss.sel(network=network).isel(step=-1).values.astype(np.float64)
        own = next(row for row in rows if row[:2] == [{"abs": "Abs", "relu": "ReLU"}[network], "loss, nats"])
        assert own[2:4] == [str(len(runs)), f"{runs.mean():.4f}"]
    text = read(study).text
    assert all(f"{network}: {verdict.of(network)}" in text for network in verdict.networks)


def test_cells_of_every_kind() -> None:
    columns = (
        Column("level", "level, %"),
        Column("n", "n", kind="count"),
        Column("interval", "95 %", kind="interval"),
        Column("identity", "vs identity", kind="test"),
    )
    row = (Level(0.1), 20, Span(-0.25, 1.0), TAndP(-26.49, 1.84e-16, 20))
    table = Table("t", "T", "", columns, (row, (Level(None), 0, None, None)), group="level")
    head = ["level, %", "n", "95 %", "t vs identity", "p vs identity"]
    assert read(table).rows == [
        head,
        ["10", "20", "-0.25 to 1.00", "-26.5", "1.8e-16"],
        ["identity", "0", *"–––"],
    ]


def test_the_levels_by_which_predictions_change(network: nz.TwoLayer) -> None:
    """Of one input x > 0, the logits are s x and 0.5: the class changes at s = 0.5 / x."""
    x = np.array([0.25, 0.3125, 0.4, 1.0, 100.0])[:, None]
    rows = read(nz.critical_levels(network, x, family="scale")).rows
    # unperturbed, the first three are of class 1 and change above 1, at 2, 1.6 and 1.25; the others below it
    assert rows[1:] == [
        ["below", "0.5", "–", "–", "4", "80.00", "0"],
        ["above", "1.25", "2", "–", "2", "40.00", "0"],
    ]


def test_the_table_of_a_scale_audit(network: nz.TwoLayer) -> None:
    audit = nz.scale_audit(network, [[-2.0], [-1.0], [0.25], [1.0]], [1, 1, 1, 0], levels=[0.25, 1.0, 4.0])
    reader = read(audit)
    head, *rows = (row for row in reader.rows if len(row) > 2)
    measured = head.index("measured agreement, %")
    assert [row[measured] for row in rows] == ["75.00", "100.00", "75.00"]
    assert [row[0] for row in rows] == ["0.25", "1", "4"]
    assert audit.meaning in reader.text
    assert audit.words in reader.text


def test_the_summary_of_a_probe(probed: nz.ProbeResult) -> None:
    rows = [list(row.values()) for row in probed.summary()]
    shown = read(probed)
    assert shown.rows[1 : 1 + len(rows)] == rows
    assert probed.headline in shown.text
    assert all(note in shown.text for note in probed.notes)
    assert ["set by" in row for row in shown.rows].count(True) == 1


# --- length ---


@pytest.mark.parametrize("rows", [0, 1, MOST_ROWS, MOST_ROWS + 1, 100, 2500])
def test_a_cut_table_says_so(rows: int) -> None:
    reader = Reader(to_html(table_of(rows), "elsewhere", MOST_ROWS))
    values = [row[1] for row in reader.rows[1:] if len(row) > 1]
    half = MOST_ROWS // 2
    if rows <= MOST_ROWS:
        assert values == [f"{row:.2f}" for row in range(rows)]
        assert "Left out" not in reader.text
        return
    assert values == [f"{row:.2f}" for row in (*range(half), *range(rows - half, rows))]
    left_out = rows - 2 * half
    sentence = (
        f"Left out: {left_out:,} of {rows:,} rows, between the first {half} and the last {half}; elsewhere."
    )
    assert sentence in reader.text
    assert [f"… {left_out:,} rows left out …"] in reader.rows


def test_many_lines_are_cut() -> None:
    lines = [f"line {number}" for number in range(100)]
    text = Reader(Fragment("t", lines=lines, rest="elsewhere").html()).text
    assert f"line {MOST_LINES - 1}\n" in text
    assert f"line {MOST_LINES}\n" not in text
    assert f"Left out: {100 - MOST_LINES} more lines; elsewhere." in text


def test_rules_separate_blocks_of_several_rows() -> None:
    table = replace(
        table_of(0), rows=(("a", Number(1)), ("a", Number(2)), ("b", Number(3)), ("b", Number(4)))
    )
    assert to_html(table).count('class="block"') == 1
    assert to_html(replace(table, rows=table.rows[1:3])).count('class="block"') == 0


# --- pictures ---


def test_figures_display_themselves_and_keep_their_layout() -> None:
    figure = ShownFigure(figsize=(2.0, 1.0), layout="constrained")
    figure.subplots()
    content, size = figure._repr_png_()
    assert Image.open(io.BytesIO(content)).size == (288, 144)
    assert size == {"width": 192, "height": 96}
    assert figure.get_layout_engine() is not None
    assert Image.open(io.BytesIO(figure_bytes(figure, "png"))).size == (600, 300)


def test_the_plots_of_a_probe_display_themselves(probed: nz.ProbeResult) -> None:
    assert isinstance(probed.plot(), ShownFigure)
    assert isinstance(probed.plot_lines(), ShownFigure)
