"""Files that are either whole or absent."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nearzero import InputError
from nearzero.support import files

WRITER = """
import os, sys
from pathlib import Path
from nearzero.support import files
os.fsync = lambda _: (print("written", flush=True), sys.stdin.read())
files.write_bytes(Path(sys.argv[1]) / "file", bytes(100_000))
"""


def test_a_killed_writer_leaves_no_file_of_that_name(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        timer = threading.Timer(30, process.kill)
        timer.start()
        assert process.stdout.readline() == b"written\n"
        process.kill()
        timer.cancel()
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.atomic(path) as temporary:  # noqa: PT012
        temporary.write_text("new, but only ha")
        raise RuntimeError
    assert path.read_text() == "old"
    files.write_text(path, "néw")
    assert path.read_bytes() == "néw".encode()
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_has_the_permissions_that_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "file", "")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left on the device"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk quota is used up"),
        (
            OSError("Can't write data (errno = 28, error message = 'No space left')"),
            "no space is left on the device",
        ),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError("something else\nand more"), "something else"),
    ],
)
def test_reasons_are_one_line(error: OSError, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught, files.explained(tmp_path / "x"):
        raise error
    assert str(caught.value).startswith(f"can't write {tmp_path / 'x'}: {message}")
    assert "\n" not in str(caught.value)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file of that name is in the way"):
        files.make_folder(tmp_path / "file")
    with pytest.raises(InputError, match="a part of the path is a file and not a folder"):
        files.make_folder(tmp_path / "file" / "more")


def test_writing_never_changes_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The umask belongs to the whole process: of two threads, one could restore the value that the other set."""
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask was set"))
    files.write_bytes(tmp_path / "file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x"
