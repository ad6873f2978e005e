"""Read data files, and check them against their SHA-256.

`sources` decides which folders to search, and `idx` parses the bytes.
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
    """The failure of a source, with the reason in a few words; it is caught, and the next source is tried."""


@dataclass(frozen=True, eq=False)
class VerifiedFile:
    """A file with the published hash.

    Attributes:
        expected: the registry's facts about the file.
        content: the uncompressed IDX bytes.
        sha256: of `content`.
        kept: the bytes for the cache: `content`, or the gzip file if only its hash is published.
        source: the source of the file, in words.
    """

    expected: KnownFile
    content: bytes
    sha256: str
    kept: bytes
    source: str


def sha256(data: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def unpacked(data: bytes, label: str, limit: int = LARGEST_FILE) -> bytes:
    """Return the bytes, uncompressed if they are gzip; `label` names the file in errors."""
    return gunzip(data, label, limit) if is_gzip(data) else data


def verified(expected: KnownFile, delivered: bytes, label: str, source: str) -> VerifiedFile:
    """Return the file if its bytes are those that the registry knows.

    Args:
        expected: the registry's facts about the file.
        delivered: its bytes, gzipped or not.
        label: names the file in errors.
        source: the source of the bytes, in words.

    Raises:
        InputError: the bytes are others, or can't be checked.
    """
    if expected.gz_sha256 is not None:
        if not is_gzip(delivered):
            raise InputError(f"{label} can't be checked: only the SHA-256 of the gzip file is published")
        _compare(expected.gz_sha256, sha256(delivered), label)
        content = gunzip(delivered, label, expected.size)
        return VerifiedFile(expected, content, sha256(content), delivered, source)
    content = unpacked(delivered, label, expected.size)
    if len(content) != expected.size:
        state = "it is truncated" if len(content) < expected.size else "it is another file"
        raise InputError(f"{label} has {len(content):,} bytes instead of {expected.size:,}: {state}")
    seen = sha256(content)
    _compare(expected.sha256, seen, label)
    return VerifiedFile(expected, content, seen, content, source)


def _compare(published: str | None, seen: str, label: str) -> None:
    """Refuse a wrong hash; the message names the data set to which the file belongs, if there is one."""
    if seen != published:
        owner = registry.owner(seen)
        hint = f": it belongs to {owner}" if owner else ""
        raise InputError(f"{label} has SHA-256 {seen[:12]}..., expected {str(published)[:12]}...{hint}")


def file_kind(path: Path) -> str | None:
    """Return "file", "folder" or "other" (device, pipe, dangling link); None if nothing has that name."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "other" if path.is_symlink() else None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be examined: {reason(error)}") from error
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def find_files(folder: Path, wanted: Sequence[str] = IDX_FILES) -> dict[str, Path]:
    """Return the paths of the wanted files in a folder by name.

    Each name has four spellings, and may be that of a folder with the file in it, as some archives unpack.
    """
    return {name: path for name in wanted if (path := _spelled(folder, name)) is not None}


def _spelled(folder: Path, name: str) -> Path | None:
    dotted = name.replace("-idx", ".idx")
    plain = [folder / spelling for spelling in (name, dotted, f"{name}.gz", f"{dotted}.gz")]
    inner = [path / path.name for path in plain]
    files = [path for path in (*plain, *inner) if file_kind(path) == "file"]
    return next((path for path in (*files, *plain) if file_kind(path) is not None), None)


def read_bytes(path: Path) -> bytes:
    """Return all bytes of a regular file of at most `LARGEST_FILE` bytes.

    Raises:
        InputError: it isn't such a file, or can't be read.
    """
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
    """Remove files and folders that weren't modified for so many seconds; errors are ignored."""
    for path in paths:
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > seconds:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def reason(error: OSError | ValueError) -> str:
    """Return the operating system's message, without numbers and paths."""
    return getattr(error, "strerror", None) or str(error)
