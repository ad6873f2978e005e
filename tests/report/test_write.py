import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nearzero.errors import InputError
from nearzero.report.captions import figure_captions
from nearzero.report.write import write_report


def test_a_report_on_disk(study_of: Callable, tmp_path: Path) -> None:
    study = study_of(families=("scale",), notices=("a notice",))
    paths = write_report(study, tmp_path / "study")
    names = [str(path.relative_to(tmp_path / "study")) for path in paths]
    tables = ("table1_baseline", "table2_scale", "differing_rows")
    figures = ("figure2_activations", "figure3_offsets", "figure1_response", "figure4_agreement")
    assert names == [
        *(f"tables/{name}.{suffix}" for name in tables for suffix in ("md", "csv", "tex")),
        *(f"figures/{name}.{suffix}" for name in figures for suffix in ("png", "pdf")),
        "figures/captions.md",
    ]
    record = tmp_path / "study" / "checksums"
    assert {path for path in (tmp_path / "study").rglob("*") if path.is_file()} == {*paths, record}
    assert record.read_text().count("\n") == len(paths)
    assert all(path.stat().st_size for path in paths)
    for path in paths:
        if path.suffix in (".md", ".csv", ".tex") and path.name != "differing_rows.csv":  # has no row
            assert "a notice" in path.read_text(encoding="utf-8"), path
        start = path.read_bytes()[:5]
        assert start == {".png": b"\x89PNG\r", ".pdf": b"%PDF-"}.get(path.suffix, start)


def test_captions_say_how_to_read_the_figures(study) -> None:
    text = figure_captions(study)
    for number in (1, 2, 3, 4):
        assert f"**Figure {number}.**" in text
    assert "72 of the 72 published accuracies" in text
    assert "what the paper calls a negative offset is where the boundary goes" in text
    assert "Notice" not in text


def test_a_table_is_whole_or_as_it_was(
    study_of: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(runs=2, families=("scale",))
    table = tmp_path / "tables" / "table1_baseline.md"
    table.parent.mkdir()
    table.write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)  # the last thing that can fail
    with pytest.raises(InputError, match=rf"can't write {table}: no space is left on the device; free some"):
        write_report(study, tmp_path)
    assert table.read_text() == "old"
    assert list(table.parent.iterdir()) == [table]


def test_a_folder_that_is_a_file(study, tmp_path: Path) -> None:
    (tmp_path / "study").write_text("not a folder")
    with pytest.raises(InputError, match=r"can't write .*study/tables: a part of the path is a file"):
        write_report(study, tmp_path / "study")
    assert (tmp_path / "study").read_text() == "not a folder"
