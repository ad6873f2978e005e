"""Reading data files off a disk, and checking that each is what its SHA-256 says.

Nothing here knows where a file should be looked for (`sources`), nor what its bytes mean (`idx`).
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nearzero.datasets import registry
from nearzero.datasets.idx import LARGEST_FILE, gunzip, is_gzip
from nearzero.datasets.registry import IDX_FILES, KnownFile
from nearzero.errors import InputError

__all__ = [
    "Unavailable",
    "VerifiedFile",
    "file_kind",
    "find_files",
    "read_bytes",
    "reason",
    "remove_leftovers",
    "sha256",
    "unpacked",
    "verified",
]


class Unavailable(Exception):
    """A source could not deliver; the message says why in a few words. The next one is tried, and no user sees it."""


@dataclass(frozen=True, eq=False)
class VerifiedFile:
    """A file whose hash was the published one.

    Attributes:
        known: what the registry says of it.
        content: the uncompressed IDX bytes.
        sha256: of `content`.
        kept: the bytes a cache should keep: `content`, or the gzip file where only that can be checked again.
        source: where it came from, in words.
    """

    known: KnownFile
    content: bytes
    sha256: str
    kept: bytes
    source: str


def sha256(data: bytes) -> str:
    """The SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def unpacked(data: bytes, what: str, limit: int = LARGEST_FILE) -> bytes:
    """The bytes themselves, or what is in them if they are gzip; `what` names the file in errors."""
    return gunzip(data, what, limit) if is_gzip(data) else data


def verified(known: KnownFile, delivered: bytes, what: str, source: str) -> VerifiedFile:
    """The file, if the delivered bytes (gzipped or not) are those that the registry knows.

    Args:
        known: what was expected.
        delivered: the bytes as they came.
        what: names them in errors.
        source: where they came from, in words.
    """
    if known.gz_sha256 is not None:
        if not is_gzip(delivered):
            raise InputError(
                f"{what} can't be checked: only the SHA-256 of the gzip file, as published, is known"
            )
        _compare(known.gz_sha256, sha256(delivered), what)
        content = gunzip(delivered, what, known.size)
        return VerifiedFile(known, content, sha256(content), delivered, source)
    content = unpacked(delivered, what, known.size)
    if len(content) != known.size:
        state = "it is truncated" if len(content) < known.size else "it is another file"
        raise InputError(f"{what} holds {len(content):,} bytes where {known.size:,} were expected: {state}")
    seen = sha256(content)
    _compare(known.sha256, seen, what)
    return VerifiedFile(known, content, seen, content, source)


def _compare(expected: str | None, seen: str, what: str) -> None:
    """Refuse a wrong hash, saying so if the file belongs to another data set."""
    if seen != expected:
        owner = registry.owner(seen)
        hint = f": it belongs to {owner}" if owner else ""
        raise InputError(f"{what} has SHA-256 {seen[:12]}..., expected {str(expected)[:12]}...{hint}")


def file_kind(path: Path) -> str | None:
    """'file', 'folder' or 'other' (a device, a pipe, a dangling link); None if nothing has that name."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "other" if path.is_symlink() else None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be looked at: {reason(error)}") from error
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def find_files(folder: Path, wanted: Sequence[str] = IDX_FILES) -> dict[str, Path]:
    """Those of the wanted files that a folder has, in any of their four spellings."""
    return {name: path for name in wanted if (path := _spelled(folder, name)) is not None}


def _spelled(folder: Path, name: str) -> Path | None:
    dotted = name.replace("-idx", ".idx")
    candidates = (folder / spelling for spelling in (name, dotted, f"{name}.gz", f"{dotted}.gz"))
    return next((path for path in candidates if file_kind(path) is not None), None)


def read_bytes(path: Path) -> bytes:
    """All bytes of a regular file of bearable size."""
    if file_kind(path) != "file":
        raise InputError(f"{path} is not a regular file")
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise InputError(f"{path} has {size:,} bytes, more than the {LARGEST_FILE:,} allowed")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read: {reason(error)}") from error


def remove_leftovers(paths: Iterable[Path], seconds: float) -> None:
    """Remove files and folders that weren't touched for so long; if that fails it is no matter."""
    for path in paths:
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > seconds:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def reason(error: OSError | ValueError) -> str:
    """What the operating system said, without numbers and paths."""
    return getattr(error, "strerror", None) or str(error)
