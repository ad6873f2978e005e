"""The cache: written atomically, checked by hashes, and never essential."""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nearzero.datasets import fetch, load
from nearzero.datasets.registry import IDX_FILES
from nearzero.errors import InputError
from nearzero.support.files import cache_root

if TYPE_CHECKING:
    from conftest import Mirror, Tiny


@pytest.fixture
def served(tiny: Tiny, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """Return the tiny data set, with a mirror."""
    mirror.offer(tiny.files)
    tiny.change(monkeypatch, mirrors=(mirror.url,))
    return tiny


def test_the_place_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert cache_root() == tmp_path / "cache"
    monkeypatch.setenv("NEARZERO_CACHE", "")
    assert cache_root().name == "nearzero"


def test_what_was_fetched_once_is_read_from_the_cache(served: Tiny, cached: Path, mirror: Mirror):
    assert load("mnist").source == "public mirror"
    assert load("mnist").source == "cache"
    assert len(mirror.asked) == 4
    assert {path.name: path.read_bytes() for path in cached.iterdir()} == served.files


@pytest.mark.parametrize("damage", [b"", b"\0", None])
def test_a_damaged_file_is_reported_and_fetched_again(
    served: Tiny, cached: Path, mirror: Mirror, said: list[str], damage: bytes | None
):
    served.write(cached)
    path = cached / IDX_FILES[1]
    path.write_bytes(path.read_bytes()[:-1] + b"\xff" if damage is None else damage)
    dataset = load("mnist", report=said.append)
    assert dataset.source == "cache and public mirror"
    assert dataset.train.labels.tolist() == served.arrays[IDX_FILES[1]].tolist()
    assert mirror.asked == [f"{IDX_FILES[1]}.gz"]
    assert said[0].startswith(f"mnist: not using a damaged file of the cache: {path} h")
    assert path.read_bytes() == served.files[IDX_FILES[1]]


def test_a_damaged_file_that_cant_be_fetched_again_is_never_used(tiny: Tiny, cached: Path):
    tiny.write(cached)
    path = cached / IDX_FILES[1]
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(
        InputError, match=r"no source has mnist \(the cache: has 3 of 4 files\): put train-im"
    ):
        load("mnist", report=lambda _: None)


def test_without_a_report_the_log_is_told(served: Tiny, caplog: pytest.LogCaptureFixture):
    load("mnist")
    assert "mnist: fetching from the public mirror 127.0.0.1" in caplog.text


def test_a_folder_in_a_files_place_does_no_harm(served: Tiny, cached: Path, said: list[str]):
    (cached / IDX_FILES[0]).mkdir(parents=True)
    assert load("mnist", report=said.append).source == "public mirror"
    assert f"{cached / IDX_FILES[0]} is not a regular file" in said[0]
    assert "can't be written (Is a directory): the data are used from memory and not kept" in said[-1]


def test_a_file_in_the_cache_folders_place_does_no_harm(
    served: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEARZERO_CACHE", str(tmp_path / "file"))
    assert load("mnist", report=said.append).source == "public mirror"
    assert sum("can't be written (Not a directory)" in line for line in said) == 1
    monkeypatch.setenv("NEARZERO_CACHE", "a\0b" if os.name == "nt" else 300 * "x")
    assert load("mnist", report=said.append).source == "public mirror"


def test_no_space_left_costs_a_warning_and_leaves_nothing(
    served: Tiny, cached: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert load("mnist", report=said.append).train.labels.tolist() == served.arrays[IDX_FILES[1]].tolist()
    assert said[1:] == [
        f"mnist: the cache folder {cached} can't be written (No space left on device): "
        "the data are used from memory and not kept"
    ]
    assert not list(cached.iterdir())
    with pytest.raises(
        InputError, match=r"can't be written \(No space left on device\): free some space, or set"
    ):
        fetch("mnist", report=said.append)


def test_a_read_only_cache_serves_and_is_not_needed(
    served: Tiny, public_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], unprivileged
):
    monkeypatch.setenv("NEARZERO_CACHE", str(public_path))
    with unprivileged():
        if os.access(public_path, os.W_OK, effective_ids=True):
            public_path.chmod(0o555)
        assert load("mnist", report=said.append).source == "public mirror"
    assert "can't be written (Permission denied): the data are used from memory and not kept" in said[-1]
    public_path.chmod(0o755)
    folder = served.write(public_path / "datasets" / "mnist")
    said.clear()
    with unprivileged():
        assert load("mnist", report=said.append).source == "cache"
    assert not said
    folder.chmod(0)
    with unprivileged():
        assert load("mnist", report=said.append).source == "public mirror"
    assert said[0] == f"mnist: the cache folder {folder} can't be read (Permission denied)"
    folder.chmod(0o755)


def test_only_old_leftovers_of_killed_processes_are_cleared(tiny: Tiny, cached: Path):
    tiny.write(cached)
    old, young = cached / ".a.1-2.part", cached / ".b.3-4.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - 3600))
    assert load("mnist").source == "cache"
    assert not old.exists()
    assert young.exists()


def test_a_leftover_that_cant_be_cleared_is_no_matter(tiny: Tiny, cached: Path):
    tiny.write(cached)
    stuck = cached / ".a.1-2.part"
    stuck.mkdir()
    os.utime(stuck, (0, 0))
    assert load("mnist").source == "cache"


def test_an_interrupted_write_leaves_no_file(served: Tiny, cached: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load("mnist", report=lambda _: None)
    assert not list(cached.iterdir())


def test_many_at_once_do_each_other_no_harm(served: Tiny, cached: Path):
    with ThreadPoolExecutor(8) as pool:
        sources = set(pool.map(lambda _: load("mnist", report=lambda _: None).source, range(16)))
    assert sources <= {"cache", "public mirror", "cache and public mirror"}
    assert {path.name: path.read_bytes() for path in cached.iterdir()} == served.files
