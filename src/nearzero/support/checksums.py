"""Checksums of the files in a folder of results: made when a file is written, compared when it is read.

They are in the folder's file `checksums`, one line for each file, as `sha256sum --check checksums` reads them:

    5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03  networks/relu-00.safetensors

A line is added before its file is replaced. So a process killed in between leaves the old file with two lines, and
a file is whole if it has the checksum of any of its lines. When work on the folder ends, one line is left for each
file. The log isn't in the record, since it grows; files of before the record can be read and can't be checked.

A folder may come from a stranger, so no path leaves it: symbolic links in it that lead elsewhere are refused. The
folder itself may be a link.

Only the process that holds the folder's lock writes the record. Another process that writes files for it collects
their checksums (`unrecorded`) and hands them over (`record`). Files of interrupted work, below `state/`, are sealed:
their checksum is in the file itself, so that any process can write and check them.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from nearzero.errors import InputError
from nearzero.support.files import explained, locked, make_folder, read_bytes, write_bytes, write_text

__all__ = [
    "RECORD",
    "UNSEALED",
    "FileCheck",
    "Written",
    "check_inside",
    "collected",
    "is_recorded",
    "read_recorded",
    "read_sealed",
    "record",
    "remove_recorded",
    "unrecorded",
    "verify_files",
    "working",
    "write_recorded",
    "write_sealed",
]

RECORD = "checksums"
TRANSIENT = "state/"  # files below it are sealed, and removed when their step is done
UNCHECKED = {RECORD, "log"}
REMOVED = "-"  # in the place of a checksum: the file was removed on purpose
LINE = re.compile(r"([0-9a-f]{64}|-)  (.+)")
UNSEALED = {"sha256": "0" * 64}  # goes into the metadata of a safetensors file that is to be sealed
SEAL = re.compile(rb'"sha256":"([0-9a-f]{64})"')
Written = dict[tuple[str, str], str]  # the checksum of a file, by its folder and its name there
_collected: ContextVar[Written | None] = ContextVar("collected", default=None)


@dataclass(frozen=True)
class FileCheck:
    """The outcome of the check of one file.

    Attributes:
        name: the path of the file in the folder.
        status: "whole"; "damaged", which may be a change by hand; "missing"; or "no checksum".
    """

    name: str
    status: str


def write_recorded(folder: Path, path: Path, content: bytes | memoryview) -> None:
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
    elsewhere, checksum = _collected.get(), _sha256(content)
    if elsewhere is None:
        with explained(path):
            _add(folder, path, checksum)
    write_bytes(path, content)
    if elsewhere is not None:
        elsewhere[str(folder), _name(folder, path)] = checksum


@contextmanager
def unrecorded() -> Iterator[Written]:
    """Yield what `write_recorded` writes within the block; no record is changed.

    Example:
        >>> from pathlib import Path
        >>> import tempfile
        >>> from nearzero.support.checksums import is_recorded, record, unrecorded, write_recorded
        >>> with tempfile.TemporaryDirectory() as place:
        ...     path = Path(place) / "a.txt"
        ...     with unrecorded() as written:
        ...         write_recorded(path.parent, path, b"whole")
        ...     record(written)
        ...     print(is_recorded(path.parent, path))
        True
    """
    written: Written = {}
    before = _collected.set(written)
    try:
        yield written
    finally:
        _collected.reset(before)


def collected() -> Written:
    """Return a copy of what the enclosing `unrecorded` block has written so far; empty outside of one."""
    return dict(_collected.get() or {})


def record(written: Written) -> None:
    """Add files that were written by `unrecorded` work to the records of their folders, or to the enclosing block's.

    Raises:
        InputError: a record can't be written.
    """
    elsewhere = _collected.get()
    if elsewhere is not None:
        elsewhere.update(written)
        return
    for (folder, name), checksum in written.items():
        path = Path(folder) / name
        if checksum not in _checksums(Path(folder), path):
            with explained(path):
                _add(Path(folder), path, checksum)


def is_recorded(folder: Path, path: Path) -> bool:
    """Return whether a file exists and has a checksum, or is in a folder of before the record."""
    return path.is_file() and (not (folder / RECORD).exists() or bool(_checksums(folder, path)))


def write_sealed(path: Path, content: bytes) -> None:
    """Write a whole file with its own checksum, atomically.

    Args:
        path: the path of the file; its folder is made.
        content: of a safetensors file that has `UNSEALED` in its metadata.
    """
    make_folder(path.parent)
    write_bytes(path, content.replace(_seal(UNSEALED["sha256"]), _seal(_sha256(content)), 1))


def read_sealed(path: Path, remedy: str) -> bytes:
    """Return the content of a file that `write_sealed` wrote.

    Raises:
        InputError: the file can't be read, or isn't the one that was written.
    """
    content = read_bytes(path)
    if not _sealed(content):
        raise InputError(
            f"{path} is damaged, or was changed by hand: its SHA-256 isn't the one in it; {remedy}"
        )
    return content


def _sealed(content: bytes) -> bool:
    """Return whether the content of a file has the checksum that is in it."""
    seal = SEAL.search(content)
    if seal is None:
        return False
    blank = content[: seal.start()] + _seal(UNSEALED["sha256"]) + content[seal.end() :]
    return _sha256(blank) == seal[1].decode()


def _seal(checksum: str) -> bytes:
    return f'"sha256":"{checksum}"'.encode()


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
    expected = _checksums(folder, path)
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
        elif name.startswith(TRANSIENT):
            status = "whole" if _sealed(read_bytes(folder / name)) else "damaged"
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
    """Hold the lock of a folder of results; remove what killed processes and workers left, and tidy the record.

    Raises:
        InputError: another process works in the folder, it can't be written, or a link in it leads elsewhere.
    """
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            if os.path.islink(path := Path(place, name)):
                check_inside(folder, path)
    with locked(folder):
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
    """Remove what killed processes left, and leave one line in the record for each file.

    A file that is damaged keeps its last line.
    """
    for path in _files(folder, parts=True):
        with suppress(OSError):
            path.unlink()
    before = _lines(folder)
    # the last line is torn if the process was killed while it wrote it; others that can't be read are damaged
    unreadable = [line for line in before if LINE.fullmatch(line) is None and line != before[-1]]
    lines = unreadable
    for name, sums in _sums(folder).items():
        path = folder / name
        if name.startswith(TRANSIENT):  # of before they were sealed
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
    _take(_lines(folder), sums)
    return sums


def _take(lines: Iterable[str], sums: dict[str, list[str]]) -> None:
    """Add the checksums in lines of a record to those of each file."""
    for match in filter(None, map(LINE.fullmatch, lines)):
        if match[1] == REMOVED:
            sums.pop(match[2], None)
        else:
            sums.setdefault(match[2], []).append(match[1])


@dataclass
class _ReadRecord:
    """The part of a record that was read so far; reading all of a record for each file would take ever longer.

    Attributes:
        identity: the number of the file, which changes when the record is replaced.
        end: the bytes that were read, up to the end of a line.
        last: the last line that was read.
        time: of the last change.
        sums: the checksums of each file.
    """

    identity: int = -1
    end: int = 0
    last: bytes = b""
    time: int = 0
    sums: dict[str, list[str]] = field(default_factory=dict)


_records: dict[Path, _ReadRecord] = {}
_reading = threading.Lock()
MOST_RECORDS = 256  # that are remembered


def _checksums(folder: Path, path: Path) -> list[str]:
    """Return the checksums of a file in a record, of which only new lines are read.

    Raises:
        InputError: the record can't be read.
    """
    record = folder / RECORD
    if not record.exists():
        return []
    with _reading:
        if len(_records) >= MOST_RECORDS:
            _records.clear()
        key = record.absolute()
        known = _records[key] = _read_on(record, _records.get(key, _ReadRecord()))
        return list(known.sums.get(_name(folder, path), ()))


def _read_on(record: Path, known: _ReadRecord) -> _ReadRecord:
    """Return what is in a record, given what was read of it before."""
    try:
        with record.open("rb") as file:
            state = os.fstat(file.fileno())
            unchanged = (known.identity, known.end, known.time) == (
                state.st_ino,
                state.st_size,
                state.st_mtime_ns,
            )
            if unchanged:
                return known
            file.seek(known.end - len(known.last))
            grown = state.st_ino == known.identity and state.st_size > known.end
            if not grown or file.read(len(known.last)) != known.last:
                known = _ReadRecord(state.st_ino)
                file.seek(0)
            added = file.read()
    except OSError as error:
        raise InputError(f"can't read {record}: {error.strerror or error}") from error
    lines = added[: added.rfind(b"\n") + 1].splitlines(
        keepends=True
    )  # another process may be at the last one
    _take((line.decode(errors="replace").rstrip("\r\n") for line in lines), known.sums)
    known.end, known.time = known.end + sum(map(len, lines)), state.st_mtime_ns
    known.last = lines[-1] if lines else known.last
    return known


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


def _sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
