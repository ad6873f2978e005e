"""Files that are either whole or absent.

All files of nearzero are written through `atomic`: a process killed at any moment leaves the old file or the
new one. The callers decide where files are and what they hold.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from nearzero.errors import InputError
from nearzero.support.memory import is_out_of_memory
from nearzero.support.users import reason

__all__ = [
    "atomic",
    "cache_root",
    "claim_folder",
    "explained",
    "locked",
    "make_folder",
    "parsing",
    "read_bytes",
    "write_bytes",
    "write_text",
]

_REASONS = {
    errno.ENOSPC: "no space is left on the device; free some and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EACCES: "permission denied; choose a folder that you can write, or change its permissions",
    errno.EPERM: "permission denied; choose a folder that you can write, or change its permissions",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "a part of the path is a file and not a folder; choose another path",
    errno.EEXIST: "a file of that name is in the way; choose another path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter path",
}


def cache_root() -> Path:
    """Return the folder for files that can be fetched or compiled again.

    It is the value of the environment variable NEARZERO_CACHE, or else the platform's cache folder.

    Raises:
        InputError: the value is the home of a user that doesn't exist.
    """
    override = os.environ.get("NEARZERO_CACHE")
    try:
        return Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("nearzero"))
    except RuntimeError as error:
        raise InputError(f"NEARZERO_CACHE = {override!r} names the home of an unknown user") from error


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError that is raised while `path` is written into an InputError of one line.

    Raises:
        InputError: the block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        # HDF5 raises OSError without an errno: the number is in its text only
        number = error.errno or next((n for n in _REASONS if f"errno = {n}," in str(error)), None)
        reason = _REASONS.get(number or 0, error.strerror or str(error).splitlines()[0])
        raise InputError(f"can't write {path}: {reason}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, so that no other process works in it. A killed process releases its lock.

    A thread that holds the lock can take it again.

    Raises:
        InputError: another process holds the lock, or the folder can't be written.
    """
    lock = FileLock(folder.resolve() / ".lock", timeout=0, is_singleton=True)
    with explained(folder):
        try:
            held = lock.acquire()
        except Timeout:
            raise InputError(f"another process is working on {folder}; wait for it, or stop it") from None
    with held:
        yield


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move the file to `path` if the block ends without an error.

    Raises:
        InputError: the operating system refused (no space, no permission, ...).

    Example:
        >>> from pathlib import Path
        >>> import tempfile
        >>> from nearzero.support.files import atomic
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "results.txt"
        ...     with atomic(path) as temporary:
        ...         _ = temporary.write_text("whole")
        ...         exists = path.exists()
        ...     print(exists, path.read_text())
        False whole
    """
    with explained(path):
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}.part")
        temporary.touch(exist_ok=False)  # with the permissions that the user's umask allows
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink()


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a whole file, atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a whole text file in UTF-8, atomically."""
    write_bytes(path, content.encode())


def make_folder(path: Path) -> Path:
    """Make a folder and its parents if they don't exist, and return its path.

    Raises:
        InputError: a folder can't be made.
    """
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def claim_folder(folder: Path, name: str) -> Path:
    """Make a folder that is to be marked as one of nearzero's by the file `name`, and return its path.

    Locks, unfinished files and checksums may be in the folder already.

    Raises:
        InputError: the folder holds other files and not this one, or can't be made.
    """
    unmarked = not (folder / name).exists() and folder.is_dir()
    begun = (".lock", ".part", "checksums")
    if unmarked and any(not path.name.endswith(begun) for path in folder.iterdir()):
        raise InputError(f"{folder} holds other files and no {name}; choose an empty or a new folder")
    return make_folder(folder)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        InputError: the file can't be read.
    """
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise InputError(f"can't read {path}: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def parsing(source: object, remedy: str) -> Iterator[None]:
    """Turn any error in the block, in which a file is parsed, into an InputError of one line.

    Damaged files make parsers raise errors of all kinds.

    Args:
        source: the file, for the message.
        remedy: what to do about a file that can't be parsed.

    Raises:
        InputError: the block raised an error.

    Example:
        >>> import json
        >>> from nearzero.support.files import parsing
        >>> with parsing("a.json", "delete it"):
        ...     json.loads("{")
        Traceback (most recent call last):
        nearzero.errors.InputError: a.json can't be read (JSONDecodeError: Expecting property name ...); delete it
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise InputError(f"memory is used up while {source} is read") from error
        raise InputError(f"{source} can't be read ({reason(error)}); {remedy}") from error
