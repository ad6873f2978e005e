"""What commands print: whole numbers at any width, JSON, a last line that concludes, and help with examples."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import typer.main
from commands import Heard, run
from rich.console import Console
from torch import nn

import nearzero as nz
from nearzero import cli
from nearzero.cli import app, output
from nearzero.report.grids import grid_tables
from nearzero.report.render import to_csv, to_json
from nearzero.report.render.sparkline import bar, sparkline
from nearzero.report.render.terminal import print_table
from nearzero.report.table import Column, Number, Table, text_table

ROOT = Path(__file__).parents[1]
PAPER, GRIDS = ROOT / "results" / "paper", ROOT / "results" / "grids"
WIDE = 1000


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(6, 4)).astype(np.float32)
    model = nz.TwoLayer(weights, np.zeros(6), weights.T.copy(), np.zeros(4), "relu").to_module()
    x = rng.normal(size=(40, 4)).astype(np.float32)
    result = nz.probe(model, (x, x.argmax(1)), levels=9, progress=False)
    return result.save(tmp_path_factory.mktemp("probed"))


@pytest.fixture(scope="module")
def printed(probed: Path) -> dict[str, Table]:
    """All tables that commands print, by what they are of and their name."""
    study = nz.Study.open(PAPER)
    made = {f"paper {table.name}": table for part in study.tables().values() for table in part}
    made["paper curves"] = output.study_plot(study)
    for folder in sorted(GRIDS.iterdir()):
        grid = nz.Grid.open(folder)
        tables = (output.grid_plot(grid.verdict()), *grid_tables(grid))
        made |= {f"{folder.name} {table.name}": table for table in tables}
    result = nz.ProbeResult.open(probed)
    tables = (output.probe_plot(result), *output.probe_tables(result))
    return made | {f"probe {table.name}": table for table in tables}


def lines_of(table: Table, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_table(table, console)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def words_of(lines: list[str]) -> set[str]:
    return {word.strip("─") for line in lines for word in line.replace(";", " ").split()}


@pytest.mark.parametrize("width", [80, 120])
def test_no_word_of_any_table_is_cut(printed: dict[str, Table], width: int) -> None:
    """A word of the narrow table that the wide one doesn't have would be a part of a number, or of a name."""
    assert len(printed) > 40
    more = words_of(["Left out for want of width: t, p"])
    for name, table in printed.items():
        lines = lines_of(table, width)
        assert max(map(len, lines)) <= width, name
        assert not any("…" in line for line in lines), name
        whole = words_of(lines_of(table, WIDE)) | more
        whole |= words_of([header for column in table.columns for header in (column.header, *column.headers)])
        assert words_of(lines) <= whole, (name, words_of(lines) - whole)


@pytest.mark.parametrize("width", [80, 120])
def test_every_column_is_shown_or_named_as_left_out(printed: dict[str, Table], width: int) -> None:
    for name, table in printed.items():
        text = " ".join(lines_of(table, width)).replace("  ", " ")
        for column in table.columns:
            heads = (column.short or column.header).split()
            assert all(word in text for word in heads) or column.header in text, (name, column.name)


def test_what_fits_no_width_is_stacked_and_whole() -> None:
    columns = tuple(Column(f"measured_{k}", f"measured {k}") for k in range(30))
    table = Table(
        "wide", "", "", columns, (tuple(Number(1000.0 + k) for k in range(30)),), group="measured_0"
    )
    lines = lines_of(table, 40)
    assert max(map(len, lines)) <= 40
    for k in range(1, 30):
        assert ["measured", f"{k}", f"{1000 + k}.00"] in [line.split() for line in lines]


def test_a_cut_would_be_noticed() -> None:
    table = text_table("t", [{"a": "x" * 30, "b": "+10.25"}])
    assert "+10.25" in words_of(lines_of(table, 40))
    assert not words_of(["+10.…"]) <= words_of(lines_of(table, WIDE))


# --- JSON ---


@pytest.mark.parametrize("folder", [PAPER, GRIDS / "width"])
def test_show_as_json_has_the_numbers_of_the_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "show", folder, "--json")
    assert (code, err) == (0, "")
    tables = json.loads(out)["tables"]
    assert len(tables) > 4
    for name, table in tables.items():
        kept = (folder / "tables" / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        assert len(table["rows"]) == len(kept) - 1
        assert [*table["rows"][0], "notice"] == kept[0].split(","), name


def test_json_is_the_csv_with_null_for_nothing() -> None:
    columns = (Column("network", "network", kind="text"), Column("a", "A", unit="percent"))
    table = Table("t", "T", "", columns, (("x", Number(1 / 3)), ("y", None), ("z", Number(float("inf")))))
    rows = json.loads(to_json([table], ["end"]))["tables"]["t"]["rows"]
    assert rows == [
        {"network": "x", "a_percent": 1 / 3},
        {"network": "y", "a_percent": None},
        {"network": "z", "a_percent": None},
    ]
    assert str(1 / 3) in to_csv(table)


@pytest.mark.parametrize("command", [("data", "verify"), ("verify", PAPER), ("data", "list")])
def test_names_in_json_are_words_of_a_program(
    command: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, *command, "--json")
    assert code == 0
    for name, table in json.loads(out)["tables"].items():
        assert table["rows"]
        assert all(key.isidentifier() for key in (name, *table["rows"][0])), table["rows"][0]


def test_a_hash_is_whole_in_json_and_short_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "data", "verify", "digits", "--json")
    details = [row["detail"] for row in json.loads(out)["tables"]["files"]["rows"]]
    assert all(len(detail) == len("SHA-256 ") + 64 for detail in details)
    _, out, _ = run(capsys, "data", "verify", "digits")
    assert {detail.split()[1][:12] for detail in details} <= set(out.split())


def test_a_probe_as_json_has_every_response(probed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", probed, "--json")
    assert code == 0
    rows = json.loads(out)["tables"]["responses"]["rows"]
    response = nz.ProbeResult.open(probed).response
    assert len(rows) == int(response.accuracy.notnull().sum())
    for row in rows:
        place = {key: row[key] for key in ("layer", "family", "level")}
        assert row["accuracy"] == float(response.accuracy.sel(place))


# --- plots ---


def test_sparklines_and_bars() -> None:
    assert sparkline([0, 100, 50], 0, 100) == "▁█▅"
    assert sparkline([float("nan"), 5, 5], 5, 5) == " ██"
    assert bar(-5, 10).index("█") < bar(-5, 10).index("│") < bar(5, 10).index("█")


# --- the last line, help, errors ---


def test_commands_end_with_their_conclusion(probed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = {
        PAPER: f"70 of 72 published accuracies agree next: nearzero page {PAPER}",
        GRIDS / "width": "distance costs more: 8 networks; no direction is robust",
        probed: f"{nz.ProbeResult.open(probed).conclusion} next: nearzero page {probed}",
    }
    for folder, end in ends.items():
        code, out, _ = run(capsys, "show", folder)
        assert code == 0
        assert " ".join(out.replace("; next:", " next:").split()).endswith(" ".join(end.split()))


def test_a_long_line_hangs() -> None:
    printed = io.StringIO()
    output.print_line(Console(width=20, file=printed), "  versions  numpy 2, torch 2.13", hanging=12)
    assert printed.getvalue().splitlines() == [
        "  versions  numpy 2,",
        "            torch",
        "            2.13",
    ]


def test_a_probe_says_where_it_is_farthest_from_the_unperturbed_model(probed: Path) -> None:
    result = nz.ProbeResult.open(probed)
    distance = abs(result.response.accuracy - float(result.response.unperturbed_accuracy))
    place = distance.argmax(...)
    family = str(result.response.family.values[int(place["family"])])
    level = float(result.response.level.values[int(place["level"])])
    share = float(result.response.accuracy.isel(place))
    assert abs(share - float(result.response.unperturbed_accuracy)) == float(distance.max())
    assert f"under {family} {level:.3g}, accuracy {100 * share:.2f} %" in result.conclusion


def test_data_list_says_what_is_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "data", "list", "--json", "--data-dir", tmp_path)
    assert code == 0
    here = {row["name"]: row["here"] for row in json.loads(out)["tables"]["data"]["rows"]}
    assert (here["digits"], here["mnist"]) == ("yes", "no")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"not an image")
    code, out, _ = run(capsys, "data", "list", "--data-dir", tmp_path)
    assert "1 wrong hash, 3 missing" in " ".join(out.split())


def commands() -> Iterator[tuple[str, object]]:
    """Yield all commands with their names."""

    def walk(name: str, command: object) -> Iterator[tuple[str, object]]:
        inner = getattr(command, "commands", {})
        for key, each in inner.items():
            yield from walk(f"{name} {key}", each)
        if not inner:
            yield name, command

    yield from walk("nearzero", typer.main.get_command(app))


@pytest.mark.parametrize(("name", "command"), [pytest.param(*each, id=each[0]) for each in commands()])
def test_the_examples_of_a_commands_help_are_commands(name: str, command: object) -> None:
    lines = [line.strip() for line in (getattr(command, "epilog", "") or "").split("\n\n")]
    assert lines[0] == "Examples:"
    assert len(lines) > 1
    known = {each for parameter in command.params for each in parameter.opts}  # type: ignore[attr-defined]
    for line in lines[1:]:
        if line.startswith(f"{name} ") or line == name:
            options = {word for word in shlex.split(line) if word.startswith("-")}
            assert options <= known, line
    assert any(line.startswith(name) for line in lines[1:])


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["probe", "--nonsense"], "nearzero probe --help"),
        (["data", "verify", "--nonsense"], "nearzero data verify --help"),
        (["--nonsense"], "nearzero --help"),
    ],
)
def test_usage_errors_point_to_the_commands_own_help(
    arguments: list[str], where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.endswith(f"Try `{where}`.\n")


def test_the_version_imports_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['nearzero', '--version']\n"
        "from nearzero.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numba', 'numpy', 'scipy', 'torch', 'xarray', 'matplotlib', 'rich.table'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("nearzero 0.")


def completed(line: str, folder: Path) -> set[str]:
    """Return the words by which bash completes the last word of a line, in a folder."""
    words = line.split(" ")
    script = "from nearzero.cli import main; main()"
    environment = {
        "_NEARZERO_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | environment,
    )
    return set(done.stdout.split())


def test_labels_of_a_stranger_control_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    parts = {"hidden": nn.Linear(4, 6), "rectified": nn.ReLU(), "readout": nn.Linear(6, 4)}
    x = rng.normal(size=(40, 4)).astype(np.float32)
    result = nz.probe(nn.Sequential(OrderedDict(parts)), (x, x.argmax(1)), levels=5, progress=False)
    path = result.save(tmp_path) / "probe.nc"
    # as long as the name, and erases the screen of a terminal that knows one-byte controls
    stranger = "\x9b2Jrecti"
    path.write_bytes(path.read_bytes().replace(b"rectified", stranger.encode()))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    code, out, _ = run(capsys, "show", tmp_path)
    assert code == 0
    assert " 2Jrecti" in out
    assert "\x9b" not in out
    assert "\x1b[1m" in out  # bold, of nearzero's own


def test_the_shell_completes_commands_and_their_words(tmp_path: Path) -> None:
    for name in ("studies/quick/spec.toml", "studies/grids/width/grid.toml", "probed/probe.nc", "g/a.toml"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    for line, words in {
        "nearzero re": {"reproduce", "report"},
        "nearzero show ": {"studies/quick", "studies/grids/width", "probed"},
        "nearzero show studies/g": {"studies/grids/width"},
        "nearzero verdict stu": {"studies/quick"},
        "nearzero grid g/": {"g/a.toml"},
        "nearzero data fetch m": {"mnist", "mnist-5k"},
        "nearzero probe net.py:Net --data di": {"digits"},
        "nearzero probe net.py:Net --family sc": {"scale"},
        "nearzero reproduce --preset ": {"quick", "paper"},
    }.items():
        assert completed(line, tmp_path) == words, line


def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    """Return a standard error that is no terminal, on which lines come in quick succession."""
    stream = Heard()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("nearzero.support.progress.SAY_EVERY", 0.01)
    return stream


def main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["nearzero", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


def test_compile_says_what_it_compiles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = heard(monkeypatch)

    def compile_slowly(*, begun: Callable[[str], None]) -> None:
        for name in ("_sums", "walk"):
            begun(name)
            stream.wait_for(f", {name.lstrip('_')}: 0:")

    monkeypatch.setattr("nearzero.study.compiling.compile_kernels", compile_slowly)
    main(monkeypatch, "compile")
    assert "compiling kernel 1, sums: 0:" in stream.getvalue()
    assert capsys.readouterr().out == "2 kernels are compiled; next: nearzero reproduce\n"


def test_a_command_in_a_pipe_says_what_it_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines are whole, without carriage returns; they are on standard error, also where JSON is printed."""
    stream, tables = heard(monkeypatch), nz.Study.tables

    def slowly(study: nz.Study) -> dict[str, tuple[Table, ...]]:
        stream.wait_for("reading")
        return tables(study)

    monkeypatch.setattr(nz.Study, "tables", slowly)
    main(monkeypatch, "show", PAPER, "--json")
    assert json.loads(capsys.readouterr().out)["tables"]
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert set(stream.getvalue().splitlines()) <= {f"reading {PAPER}: 0:{k:02d}" for k in range(60)}


def test_a_quiet_command_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, began = heard(monkeypatch), Event()
    monkeypatch.setattr("nearzero.study.compiling.compile_kernels", lambda *, begun: began.wait(0.2))
    main(monkeypatch, "compile", "--quiet")
    assert stream.getvalue() == ""
