"""Every number of every table against a second computation from the arrays, by SciPy."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from nearzero.errors import InputError
from nearzero.paper.published import published
from nearzero.report.table import Cell, Column, Level, Number, Span, Table, TAndP, p_text, t_text
from nearzero.report.tables import baseline_table, differing_table, heldout_table, response_table, tables

NAMES = {"abs": "Abs", "relu": "ReLU", "gelu": "GELU"}


def row_of(table: Table, *start: Cell) -> dict[str, Cell]:
    for row in table.rows:
        if row[: len(start)] == start:
            return {column.name: cell for column, cell in zip(table.columns, row, strict=True)}
    raise AssertionError(f"no row {start}")


def number(cell: Cell) -> float:
    assert isinstance(cell, Number)
    return cell.value


def runs_at(study, network: str, family: str, level: float, split: str = "train") -> np.ndarray:
    grid = study.response["accuracy"].sel(network=network, family=family, split=split)
    return 100 * grid.dropna("level", how="all").sel(level=level, method="nearest").values


def assert_test(cell: Cell, first: np.ndarray, second: np.ndarray) -> None:
    assert isinstance(cell, TAndP)
    if np.array_equal(first, second):
        assert (cell.t, cell.p, cell.reason) == (None, None, "all pairs equal")
        return
    expected = stats.ttest_rel(first, second)
    assert (cell.t, cell.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-6)


@pytest.mark.parametrize("family", ["scale", "clip", "offset"])
def test_tables_2_to_4(study, family: str) -> None:
    table = response_table(study, family)
    assert len(table.rows) == 2 * (1 + len(published().families[family]))
    swept = study.response["accuracy"].sel(network="abs", family=family, split="train").notnull().all("run")
    own = study.response["level"].values[swept.values]
    for network, name in (("abs", "Abs"), ("relu", "ReLU")):
        identity = 100 * study.response["unperturbed_accuracy"].sel(network=network, split="train").values
        entry = runs_at(study, network, family, own[50])
        for row in published().families[family]:
            cells = row_of(table, name, Level(row.level))
            runs, beside = runs_at(study, network, family, row.level), row.networks[network]
            assert cells["grid_level"] == Level(own[np.abs(own - row.level).argmin()])
            assert cells["n"] == 20
            assert number(cells["accuracy"]) == pytest.approx(runs.mean(), rel=1e-12)
            assert number(cells["sd_ddof1"]) == pytest.approx(runs.std(ddof=1), rel=1e-9)
            span = cells["interval95"]
            assert isinstance(span, Span)
            expected = stats.t.interval(0.95, 19, runs.mean(), stats.sem(runs))
            assert (span.low, span.high) == pytest.approx(expected, rel=1e-10)
            assert cells["published_accuracy"] == Number(beside.accuracy)
            assert number(cells["difference"]) == pytest.approx(runs.mean() - beside.accuracy, rel=1e-9)
            error = runs.std(ddof=1) * math.sqrt(0.1)
            in_errors = (runs.mean() - beside.accuracy) / error
            assert number(cells["difference_standard_errors"]) == pytest.approx(in_errors, rel=1e-6)
            assert_test(cells["identity"], identity, runs)
            assert_test(cells["entry50"], entry, runs)
            assert cells["published"] == TAndP(beside.t, beside.p, 20)
        unmoved = row_of(table, name, Level(None))
        assert number(unmoved["accuracy"]) == pytest.approx(identity.mean(), rel=1e-12)
        assert_test(unmoved["entry50"], entry, identity)
        assert (unmoved["identity"], unmoved["published"], unmoved["grid_level"]) == (None, None, None)


def test_a_loss_of_accuracy_has_a_positive_t_and_the_wrong_baseline_a_negative(study) -> None:
    cells = row_of(response_table(study, "clip"), "Abs", Level(0.75))
    identity, entry = cells["identity"], cells["entry50"]
    assert isinstance(identity, TAndP)
    assert isinstance(entry, TAndP)
    assert identity.t is not None
    assert identity.t > 0
    assert entry.t is not None
    assert entry.t < 0


def test_captions_name_conduct_and_entry(study) -> None:
    caption = response_table(study, "offset").caption
    assert "against entry 50 of the grid (level -22 %), which the published tests took" in caption
    switches = (
        "pixels raw, offset as-run, clip pre, clip threshold min+pr, range post, ttest baseline identity"
    )
    assert caption.endswith(f"Conduct: {switches}.")
    assert "entry 50 of the grid (level 32.75 %)" in response_table(study, "scale").caption
    assert "population standard deviation (sd, ddof 0, as published)" in baseline_table(study).caption


def test_table_1(study) -> None:
    table = baseline_table(study)
    assert len(table.rows) == 6
    for network, name in (("abs", "Abs"), ("relu", "ReLU")):
        facts = published().baseline[network]
        for variable, label, entry, factor in (
            ("train_accuracy", "train accuracy, %", facts.train, 100),
            ("test_accuracy", "test accuracy, %", facts.test, 100),
            ("loss", "loss, nats", facts.loss, 1),
        ):
            cells = row_of(table, name, label)
            runs = factor * study.history[variable].sel(network=network).values[:, -1]
            assert number(cells["mean"]) == pytest.approx(runs.mean(), rel=1e-12)
            assert number(cells["sd_ddof0"]) == pytest.approx(runs.std(), rel=1e-9)
            assert number(cells["published_mean"]) == entry.mean
            assert number(cells["published_sd_ddof0"]) == entry.sd
            assert number(cells["difference"]) == pytest.approx(runs.mean() - entry.mean, rel=1e-9)
            span = cells["interval95"]
            assert isinstance(span, Span)
            assert (span.low, span.high) == pytest.approx(
                stats.t.interval(0.95, 19, runs.mean(), stats.sem(runs)), rel=1e-10
            )


def test_a_network_that_the_paper_has_not(study_of: Callable) -> None:
    study = study_of(runs=3, networks=("gelu", "relu"))
    cells = row_of(response_table(study, "scale"), "GELU", Level(0.05))
    assert number(cells["accuracy"]) == pytest.approx(runs_at(study, "gelu", "scale", 0.05).mean())
    assert [cells[name] for name in ("published_accuracy", "difference", "published")] == [None] * 3
    assert isinstance(cells["identity"], TAndP)
    first = row_of(baseline_table(study), "GELU", "loss, nats")
    assert (first["n"], first["published_mean"], first["difference"]) == (3, None, None)


def test_one_run_has_a_reason_and_no_interval(study_of: Callable) -> None:
    cells = row_of(response_table(study_of(runs=1), "offset"), "ReLU", Level(-0.5))
    assert (cells["n"], cells["sd_ddof1"], cells["interval95"]) == (1, None, None)
    assert cells["identity"] == TAndP(None, None, 1, "fewer than two runs")
    assert number(cells["difference"]) != 0.0


def test_runs_that_diverged_are_left_out_and_counted(study_of: Callable) -> None:
    study = study_of(diverged={"relu": (3, 11)})
    kept = np.delete(np.arange(20), [3, 11])
    cells = row_of(response_table(study, "clip"), "ReLU", Level(0.1))
    runs = runs_at(study, "relu", "clip", 0.1)[kept]
    identity = 100 * study.response["unperturbed_accuracy"].values[1, kept, 0]
    assert cells["n"] == 18
    assert number(cells["accuracy"]) == pytest.approx(runs.mean(), rel=1e-12)
    assert_test(cells["identity"], identity, runs)
    assert isinstance(cells["identity"], TAndP)
    assert cells["identity"].n == 18
    assert row_of(response_table(study, "clip"), "Abs", Level(0.1))["n"] == 20


@pytest.mark.parametrize("which", [("abs", "relu"), ("relu",)])
def test_all_runs_diverged(study_of: Callable, which: tuple[str, ...]) -> None:
    study = study_of(runs=4, diverged=dict.fromkeys(which, (0, 1, 2, 3)))
    for table in tables(study):
        if table.name.startswith("table"):
            rows = [row for row in table.rows if row[0] == "ReLU"]
            at = [column.name for column in table.columns].index("n")
            assert {row[at] for row in rows} == {0}
    cells = row_of(response_table(study, "scale"), "ReLU", Level(0.05))
    assert (cells["accuracy"], cells["sd_ddof1"], cells["interval95"], cells["difference"]) == (None,) * 4
    assert [row[0] for row in differing_table(study).rows].count("ReLU") == 36


def test_a_short_grid_has_no_entry_50(study_of: Callable) -> None:
    study = study_of(runs=3, families=("scale",), levels={"scale": np.array([0.1, 1.0])})
    table = response_table(study, "scale")
    assert row_of(table, "Abs", Level(0.1))["entry50"] == TAndP(None, None, None, "no such entry")
    missed = row_of(table, "Abs", Level(0.5))
    assert missed["n"] == 0
    assert [missed[name] for name in ("grid_level", "accuracy", "difference", "identity")] == [None] * 4
    assert missed["published_accuracy"] == Number(99.99)
    assert "against entry 50 of the grid, which" in table.caption


def test_the_test_split_has_tables_of_its_own(study_of: Callable) -> None:
    study = study_of(runs=5, splits=("train", "test"))
    names = [table.name for table in tables(study)]
    assert names == [
        "table1_baseline",
        *("table2_scale", "table3_clip", "table4_offset"),
        *("table2_scale_test", "table3_clip_test", "table4_offset_test"),
        "differing_rows",
    ]
    cells = row_of(heldout_table(study, "offset"), "ReLU", Level(-0.25))
    runs = runs_at(study, "relu", "offset", -0.25, "test")
    assert number(cells["accuracy"]) == pytest.approx(runs.mean(), rel=1e-12)
    identity = 100 * study.response["unperturbed_accuracy"].sel(network="relu", split="test").values
    assert_test(cells["identity"], identity, runs)
    assert "published_accuracy" not in cells
    with pytest.raises(InputError, match="this study has no split 'test'; it has train"):
        heldout_table(study_of(runs=2), "scale")


def test_only_what_was_swept_has_a_table(study_of: Callable) -> None:
    study = study_of(runs=2, families=("clip",), networks=("abs",), notices=("a notice",))
    assert [table.name for table in tables(study)] == ["table1_baseline", "table3_clip", "differing_rows"]
    assert all(table.notices == ("a notice",) for table in tables(study))
    without_test = study_of(runs=2)
    object.__setattr__(without_test, "history", without_test.history.drop_vars("test_accuracy"))
    assert len(baseline_table(without_test).rows) == 4


def test_the_rows_that_differ(study_of: Callable) -> None:
    study = study_of(shift=-1.6, networks=("abs",))
    table = differing_table(study)
    assert table.title.startswith("Rows that differ from the paper: 20 runs of made-up numbers. ")
    assert table.title.endswith("36 were not measured.")
    assert 0 < len(table.rows) < 36
    assert all(abs(number(cell)) > 1.5 for cell in table.cells("difference"))


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Number(98.3349), "98.33"),
        (Number(-0.004, signed=True), "0.00"),
        (Number(0.004), "0.00"),
        (Number(0.126, signed=True), "+0.13"),
        (Number(-1.0, 1, signed=True), "-1.0"),
        (Level(0.01), "1"),
        (Level(0.049770235643321115), "4.977"),
        (Level(-0.07000000000000006), "-7"),
        (Level(10.0), "1000"),
        (Level(1e-17), "0"),
        (Level(-1e-17), "0"),
        (Level(None), "identity"),
        (Span(52.781, 53.0), "52.78–53.00"),
    ],
)
def test_cells_as_text(cell: Cell, text: str) -> None:
    assert str(cell) == text


def test_statistics_as_text() -> None:
    assert [t_text(t) for t in (-26.46, 493.8, 99_999.0, -1.2e7)] == ["-26.5", "493.8", "99999.0", "-1.2e+07"]
    texts = {0.3: "3.0e-01", 6.14e-17: "6.1e-17", 1e-300: "1.0e-300", 1e-310: "<1e-300", 0.0: "<1e-300"}
    assert {p: p_text(p) for p in texts} == texts
    assert Number.of(math.nan) is None
    assert Number.of(math.inf) is None


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="table 'x': row 1 has 1 cells for 2 columns"):
        Table("x", "", "", (Column("a", "a"), Column("b", "b")), (("1", "2"), ("1",)))


def test_the_switch_says_which_t_test_leads(study) -> None:
    published_first = replace(study, conduct={**study.conduct, "ttest_baseline": "published"})
    usual, other = (response_table(each, "offset") for each in (study, published_first))
    assert [column.name for column in usual.columns][-3:-1] == ["identity", "entry50"]
    assert [column.name for column in other.columns][-3:-1] == ["entry50", "identity"]
    for one, two in zip(usual.rows, other.rows, strict=True):
        assert (one[-3], one[-2]) == (two[-2], two[-3])
        assert one[:-3] == two[:-3]
