"""Checksums of files: made when they're written, compared when they're read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import nearzero as nz
from nearzero import InputError
from nearzero.support import checksums
from nearzero.support.checksums import (
    read_recorded,
    remove_recorded,
    verify_files,
    working,
    write_recorded,
)


def statuses(folder: Path) -> dict[str, str]:
    return {check.name: check.status for check in verify_files(folder)}


def test_a_tool_of_others_reads_the_record(tmp_path: Path) -> None:
    with working(tmp_path):
        for content in (b"first", b"second"):
            write_recorded(tmp_path, tmp_path / "tables" / "ä b.md", content)
        write_recorded(tmp_path, tmp_path / "b", b"")
    command = ["sha256sum", "--strict", "--check", "checksums"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "checksums").read_text().count("\n") == 2


def test_what_was_changed_is_named(tmp_path: Path) -> None:
    for name in ("whole", "damaged", "missing", "removed"):
        write_recorded(tmp_path, tmp_path / name, name.encode())
    (tmp_path / "damaged").write_bytes(b"dbmaged")
    (tmp_path / "missing").unlink()
    remove_recorded(tmp_path, tmp_path / "removed")
    (tmp_path / "mine").touch()
    (tmp_path / "log").touch()
    expected = {"whole": "whole", "damaged": "damaged", "missing": "missing", "mine": "no checksum"}
    assert statuses(tmp_path) == expected
    assert read_recorded(tmp_path, tmp_path / "whole", "") == b"whole"
    with pytest.raises(InputError, match=r"damaged is damaged, or was changed by hand: .*; make it again"):
        read_recorded(tmp_path, tmp_path / "damaged", "make it again")


def test_a_writer_killed_between_checksum_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file is still whole, and the next work leaves the checksum that it has."""
    path = tmp_path / "file"
    write_recorded(tmp_path, path, b"old")
    with monkeypatch.context() as patched:
        patched.setattr(checksums, "write_bytes", lambda *_: None)
        write_recorded(tmp_path, path, b"new")
    assert read_recorded(tmp_path, path, "") == b"old"
    with working(tmp_path):
        pass
    path.write_bytes(b"new")  # by hand
    assert statuses(tmp_path) == {"file": "damaged"}


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    write_recorded(tmp_path, tmp_path / "one", b"")
    write_recorded(tmp_path, tmp_path / "two", b"")
    record = tmp_path / "checksums"
    whole = record.read_bytes()
    record.write_bytes(b"x" + whole[1:])
    for _ in range(2):
        assert statuses(tmp_path) == {"one": "no checksum", "two": "whole", "checksums": "damaged"}
        with working(tmp_path):  # keeps the line that can't be read
            pass
    record.write_bytes(whole[:-20])  # torn, since its writer was killed
    with working(tmp_path):
        pass
    assert statuses(tmp_path) == {"one": "whole", "two": "no checksum"}


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    left, other = tmp_path / "tables" / ".a.md-01.part", tmp_path / "inner" / ".a.md-01.part"
    write_recorded(tmp_path / "inner", tmp_path / "inner" / "a", b"")  # another study, which may be worked on
    for path in (left, other):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with working(tmp_path):
        assert not left.exists()
        assert other.exists()


def test_a_pipe_in_the_place_of_a_file(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="isn't a file"):
        read_recorded(tmp_path, tmp_path / "pipe", "delete it")


@pytest.mark.parametrize("name", ["state", "log", ".lock", "checksums", "tables/one.md"])
def test_links_that_leave_the_folder_are_refused_before_anything_is_written(
    name: str, tmp_path: Path
) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    write_recorded(folder, folder / "whole", b"")
    outside.mkdir()
    for kept in ("one.md", ".x-00.part"):
        (outside / kept).write_bytes(b"mine")
    link = folder / name
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(outside if name == "state" else outside / "one.md")
    with pytest.raises(InputError, match=f"{name} leads out of .*folder by a symbolic link"), working(folder):
        pytest.fail("work has begun")
    assert [path.read_bytes() for path in sorted(outside.iterdir())] == [b"mine", b"mine"]


def test_a_link_to_a_file_elsewhere_is_neither_read_nor_whole(tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "folder"
    write_recorded(folder, folder / "a", b"same")
    secret.write_bytes(b"same")
    (folder / "a").unlink()
    (folder / "a").symlink_to(secret)
    os.mkfifo(folder / "pipe")  # reading it would never end
    assert statuses(folder) == {"a": "damaged", "pipe": "damaged"}
    with pytest.raises(InputError, match="a leads out of"):
        read_recorded(folder, folder / "a", "")


def test_links_within_a_folder_and_to_it_are_followed(tmp_path: Path) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    write_recorded(folder, folder / "networks" / "a", b"a")
    (folder / "inner").symlink_to("networks")
    link.symlink_to("folder")
    with working(link):
        assert read_recorded(link, link / "inner" / "a", "") == b"a"


@pytest.mark.parametrize(
    ("opened", "name"), [(nz.Study, "spec.toml"), (nz.Grid, "grid.toml"), (nz.ProbeResult, "probe.nc")]
)
def test_what_is_opened_is_in_its_folder(opened: type, name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=f"{name} leads out of .*folder by a symbolic link"):
        opened.open(tmp_path / "folder")
