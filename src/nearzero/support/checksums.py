"""Checksums of the files in a folder of results: made when a file is written, compared when it is read.

They are in the folder's file `checksums`, one line for each file, as `sha256sum --check checksums` reads them:

    5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03  networks/relu-00.safetensors

A line is added before its file is replaced. So a process killed in between leaves the old file with two lines, and
a file is whole if it has the checksum of any of its lines. When work on the folder ends, one line is left for each
file. The log isn't in the record, since it grows; files of before the record can be read and can't be checked.

A folder may come from a stranger, so no path leaves it: symbolic links in it that lead elsewhere are refused. The
folder itself may be a link.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nearzero.errors import InputError
from nearzero.support.files import explained, locked, make_folder, read_bytes, write_bytes, write_text

__all__ = [
    "RECORD",
    "FileCheck",
    "check_inside",
    "read_recorded",
    "remove_recorded",
    "verify_files",
    "working",
    "write_recorded",
]

RECORD = "checksums"
TRANSIENT = "state/"  # files below it are removed when their step is done
UNCHECKED = {RECORD, "log"}
REMOVED = "-"  # in the place of a checksum: the file was removed on purpose
LINE = re.compile(r"([0-9a-f]{64}|-)  (.+)")


@dataclass(frozen=True)
class FileCheck:
    """The outcome of the check of one file.

    Attributes:
        name: the path of the file in the folder.
        status: "whole"; "damaged", which may be a change by hand; "missing"; or "no checksum".
    """

    name: str
    status: str


def write_recorded(folder: Path, path: Path, content: bytes) -> None:
    """Write a whole file below a folder, atomically, and its checksum into the folder's record.

    Raises:
        InputError: the file or the record can't be written.

    Example:
        >>> from pathlib import Path
        >>> import tempfile
        >>> from nearzero.support.checksums import verify_files, write_recorded
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = Path(place)
        ...     write_recorded(folder, folder / "a.txt", b"whole")
        ...     print(verify_files(folder))
        ...     _ = (folder / "a.txt").write_bytes(b"hole")
        ...     print(verify_files(folder))
        [FileCheck(name='a.txt', status='whole')]
        [FileCheck(name='a.txt', status='damaged')]
    """
    make_folder(path.parent)
    with explained(path):
        _add(folder, path, _sha256(content))
    write_bytes(path, content)


def remove_recorded(folder: Path, path: Path) -> None:
    """Remove a file below a folder, and its checksum."""
    with explained(path):
        if (folder / RECORD).exists():
            _add(folder, path, REMOVED)
        path.unlink(missing_ok=True)


def read_recorded(folder: Path, path: Path, remedy: str) -> bytes:
    """Return the content of a file below a folder; a file without a checksum isn't checked.

    Args:
        folder: the folder with the record.
        path: the path of the file.
        remedy: what to do about a damaged file, for the message.

    Raises:
        InputError: the file can't be read, or its checksum isn't the recorded one.
    """
    check_inside(folder, path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} isn't a file, and reading a pipe might never end; {remedy}")
    content = read_bytes(path)
    expected = _sums(folder).get(_name(folder, path))
    if expected and _sha256(content) not in expected:
        raise InputError(
            f"{path} is damaged, or was changed by hand: its SHA-256 isn't the one in {RECORD}; {remedy}"
        )
    return content


def verify_files(folder: Path) -> list[FileCheck]:
    """Return the outcome for every file of a folder but the log, and for files that are missing.

    Raises:
        InputError: a file can't be read.
    """
    sums, present = _sums(folder), {_name(folder, path) for path in _files(folder)}
    checks = []
    for name in sorted((present | set(sums)) - UNCHECKED):
        if name not in present:
            status = "missing"
        elif not (folder / name).is_file() or not _inside(folder, folder / name):
            status = "damaged"  # nearzero writes neither pipes nor links
        elif name not in sums:
            status = "no checksum"
        else:
            status = "whole" if _sha256(read_bytes(folder / name)) in sums[name] else "damaged"
        if status != "missing" or not name.startswith(TRANSIENT):
            checks.append(FileCheck(name, status))
    if any(LINE.fullmatch(line) is None for line in _lines(folder)):
        checks.append(FileCheck(RECORD, "damaged"))
    return checks


@contextmanager
def working(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of results; remove what killed processes left, and tidy the record at the end.

    Raises:
        InputError: another process works in the folder, it can't be written, or a link in it leads elsewhere.
    """
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            if os.path.islink(path := Path(place, name)):
                check_inside(folder, path)
    with locked(folder):
        for path in _files(folder, parts=True):
            with suppress(OSError):
                path.unlink()
        _tidy(folder)
        try:
            yield
        finally:
            _tidy(folder)


def _inside(folder: Path, path: Path) -> bool:
    """Return whether a path below a folder stays below it when symbolic links are followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def check_inside(folder: Path, path: Path) -> None:
    """Refuse a path that leaves a folder.

    Raises:
        InputError: a symbolic link leads elsewhere.
    """
    if not _inside(folder, path):
        raise InputError(
            f"{path} leads out of {folder} by a symbolic link, which isn't followed; put the files themselves there "
            "(the whole folder may be a link)"
        )


def _tidy(folder: Path) -> None:
    """Leave one line in the record for each file; a file that is damaged keeps its last one."""
    before = _lines(folder)
    # the last line is torn if the process was killed while it wrote it; others that can't be read are damaged
    unreadable = [line for line in before if LINE.fullmatch(line) is None and line != before[-1]]
    lines = unreadable
    for name, sums in _sums(folder).items():
        path = folder / name
        if name.startswith(TRANSIENT) and not path.exists():
            continue
        if len(sums) > 1 and path.is_file() and (found := _sha256(read_bytes(path))) in sums:
            lines.append(f"{found}  {name}")
        else:
            lines.append(f"{sums[-1]}  {name}")
    if lines != before:
        write_text(folder / RECORD, "".join(f"{line}\n" for line in lines))


def _add(folder: Path, path: Path, checksum: str) -> None:
    """Add a line to a record, in one write, so that threads and processes can do it side by side."""
    file = os.open(folder / RECORD, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, f"{checksum}  {_name(folder, path)}\n".encode())
        if (
            path.exists()
        ):  # after a power failure, a new file without its line is read, and a replaced one isn't
            os.fsync(file)
    finally:
        os.close(file)


def _sums(folder: Path) -> dict[str, list[str]]:
    """Return the checksums of each file in a record, the last one written last."""
    sums: dict[str, list[str]] = {}
    for match in filter(None, map(LINE.fullmatch, _lines(folder))):
        if match[1] == REMOVED:
            sums.pop(match[2], None)
        else:
            sums.setdefault(match[2], []).append(match[1])
    return sums


def _lines(folder: Path) -> list[str]:
    path = folder / RECORD
    return read_bytes(path).decode(errors="replace").splitlines() if path.exists() else []


def _files(folder: Path, *, parts: bool = False) -> Iterator[Path]:
    """Yield the files of a folder, or those that writers haven't finished; not those of studies within it."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not (Path(place) / name / RECORD).exists()]
        for name in names:
            if name.endswith(".part") == parts and not name.endswith(".lock"):
                yield Path(place) / name


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
