"""What `nearzero data fetch` and `nearzero data verify` do; `load` needs none of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nearzero.datasets import registry
from nearzero.datasets.cache import Cache
from nearzero.datasets.files import file_kind, find_files, read_bytes, verified
from nearzero.datasets.loading import is_folder_name, load
from nearzero.datasets.packaged import packaged, packaged_hashes
from nearzero.datasets.registry import Entry, KnownFile
from nearzero.datasets.sources import find, named_folder, read_named
from nearzero.errors import InputError

__all__ = ["FetchedFile", "FileStatus", "Status", "fetch", "verify"]

Status = Literal["present", "missing", "wrong hash", "unreadable"]

_log = logging.getLogger("nearzero.datasets")


@dataclass(frozen=True)
class FetchedFile:
    """A file that is now at hand, and where it came from in words."""

    name: str
    source: str


@dataclass(frozen=True)
class FileStatus:
    """What `verify` found of one file or array.

    Attributes:
        dataset, file: what was looked for.
        status: 'wrong hash' for a file that can be read and is not what it should be.
        where: the path or the package looked at.
        detail: what is wrong, in one line; otherwise the SHA-256.
    """

    dataset: str
    file: str
    status: Status
    where: str
    detail: str


def fetch(
    name: str, *, data_dir: str | Path | None = None, report: Callable[[str], None] | None = None
) -> list[FetchedFile]:
    """See to it that the user's cache has every file of the data set: `load` then needs no network.

    With `data_dir` (or NEARZERO_DATA) the files are taken from that folder. A packaged data set is checked in
    place.

    Raises:
        InputError: as for `load`, and if the cache can't be written.
    """
    say = report or _log.warning
    if is_folder_name(name):
        raise InputError(f"the data set {name} is a folder of your own: there is nothing to fetch")
    entry = registry.entry(name)
    if entry.package is not None:
        return [FetchedFile(file, packaged(entry).source) for file in packaged_hashes(entry)]
    cache = Cache(entry, say)
    named = named_folder(entry, data_dir, say)
    if named is None:
        files = find(entry, cache, say)
    else:
        files = read_named(entry, *named)
        for known in entry.files:
            cache.keep(files[known.name])
    if cache.trouble is not None:
        raise InputError(
            f"{entry.name}: {cache.trouble}: free some space, or set NEARZERO_CACHE to another folder"
        )
    return [FetchedFile(known.name, files[known.name].source) for known in entry.files]


def verify(name: str | None = None, *, data_dir: str | Path | None = None) -> list[FileStatus]:
    """The state of each file of the data set, or of all registered ones; nothing is fetched or changed.

    Looked at is what `load` would read first: `data_dir`, or NEARZERO_DATA if it has files of the set, or the
    cache.
    """
    if name is None:
        return [row for entry in registry.entries() for row in _rows(entry, data_dir)]
    if is_folder_name(name):
        hashes = load(name, data_dir=data_dir).hashes
        return [
            FileStatus(name, file, "present", name, f"SHA-256 {seen}, not published")
            for file, seen in hashes.items()
        ]
    return _rows(registry.entry(name), data_dir)


def _rows(entry: Entry, data_dir: str | Path | None) -> list[FileStatus]:
    if entry.package is not None:
        return _packaged_rows(entry)
    named = named_folder(entry, data_dir, lambda _: None)
    if named is None:
        folder = Cache(entry, lambda _: None).folder
        places = {known.name: folder / known.cached_name for known in entry.files}
    else:
        folder = named[0]
        found = find_files(folder, [known.name for known in entry.files])
        places = {known.name: found.get(known.name, folder / known.name) for known in entry.files}
    return [_row(entry, known, places[known.name]) for known in entry.files]


def _row(entry: Entry, known: KnownFile, path: Path) -> FileStatus:
    def status(word: Status, detail: str) -> FileStatus:
        return FileStatus(entry.name, known.name, word, str(path), detail)

    try:
        if file_kind(path) is None:
            return status("missing", "not there")
        delivered = read_bytes(path)
    except InputError as error:
        return status("unreadable", str(error))
    try:
        return status("present", f"SHA-256 {verified(known, delivered, path.name, 'disk').sha256}")
    except InputError as error:
        return status("wrong hash", str(error))


def _packaged_rows(entry: Entry) -> list[FileStatus]:
    package = str(entry.package)
    try:
        hashes = packaged_hashes(entry)
    except InputError as error:
        return [FileStatus(entry.name, known.name, "missing", package, str(error)) for known in entry.files]
    rows = []
    for known in entry.files:
        status: Status = "present" if hashes[known.name] == known.sha256 else "wrong hash"
        rows.append(FileStatus(entry.name, known.name, status, package, f"SHA-256 {hashes[known.name]}"))
    return rows
