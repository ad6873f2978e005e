"""From a name or a folder to arrays: `load`; and what `nearzero data` does: `fetch` and `verify`.

The order in which sources are tried is in `sources`, the facts about each data set in `registry`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from nearzero.datasets import registry
from nearzero.datasets.dataset import Dataset, Split, pixel_moments
from nearzero.datasets.files import file_kind, find_files, read_bytes, sha256, unpacked, verified
from nearzero.datasets.idx import parse_idx
from nearzero.datasets.packaged import packaged, packaged_hashes
from nearzero.datasets.registry import IDX_FILES, Entry, KnownFile
from nearzero.datasets.sources import Cache, NotFoundError, existing_folder, find, named_folder, read_named
from nearzero.errors import InputError

__all__ = ["FetchedFile", "FileStatus", "fetch", "load", "verify"]

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


def load(
    name: str | Path,
    *,
    data_dir: str | Path | None = None,
    substitute: bool = False,
    report: Callable[[str], None] | None = None,
) -> Dataset:
    """The data set of that name, every byte of it checked against the published SHA-256.

    Args:
        name: one of `names()`, or a folder of IDX files (`train-images-idx3-ubyte`,
            `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, gzipped or not).
            A folder's hashes are recorded, there being none to check them against. A string that is a
            registered name means that; write `./mnist`, or give a `Path`, for a folder called so.
        data_dir: a folder with the files of a registered data set; it must have them. In its absence the
            environment variable NEARZERO_DATA, the user's cache and the public sources are tried in turn.
        substitute: whether `mnist-5k` may stand in for an `mnist` that can't be had; the result then has a
            `notice`.
        report: is told, one line at a time, what is fetched from where and what went wrong on the way;
            without it the lines go to the logger `nearzero.datasets`, as warnings.

    Raises:
        InputError: an unknown name, files that are not what they should be, or no source that delivers.
    """
    say = report or _log.warning
    if _is_folder_name(name):
        if data_dir is not None:
            raise InputError(f"the data set {name} is a folder itself: leave out the data folder {data_dir}")
        return _from_folder(str(name))
    entry = registry.entry(str(name))
    if entry.package is not None:
        if data_dir is not None:
            say(f"{entry.name} comes with {entry.package}: the data folder {data_dir} is not used")
        return packaged(entry)
    try:
        return _registered(entry, data_dir, say)
    except NotFoundError as error:
        if not (substitute and entry.substitute):
            raise
        other = registry.entry(entry.substitute)
        notice = f"NOT {entry.name} but {other.name} was used ({other.description}). {error}"
        say(notice)
        return replace(load(other.name, report=report), notice=notice)


def _is_folder_name(name: str | Path) -> bool:
    """Whether a name means a folder: not registered, and it looks like a path or such a folder exists."""
    if isinstance(name, Path):
        return True
    if not name or name in registry.names():
        return False
    is_path = name.startswith((".", "~")) or os.sep in name or (os.altsep or os.sep) in name
    return is_path or file_kind(Path(name)) == "folder"


def _registered(entry: Entry, data_dir: str | Path | None, say: Callable[[str], None]) -> Dataset:
    named = named_folder(entry, data_dir, say)
    files = find(entry, Cache(entry, say), say) if named is None else read_named(entry, *named)
    train, test = _splits({name: (file.content, name) for name, file in files.items()})
    mean, std = entry.moments or pixel_moments(train.images, entry.white)
    source = " and ".join(dict.fromkeys(file.source for file in files.values()))
    hashes = {name: file.sha256 for name, file in files.items()}
    return Dataset(entry.name, train, test, entry.classes, entry.white, mean, std, source, hashes)


def _from_folder(given: str) -> Dataset:
    folder = existing_folder(given, "the data set")
    paths = find_files(folder)
    lacking = [name for name in IDX_FILES if name not in paths]
    if lacking:
        raise InputError(f"the data set {given} lacks {', '.join(lacking)} (gzipped or not)")
    files = {name: (unpacked(read_bytes(path), str(path)), str(path)) for name, path in paths.items()}
    train, test = _splits(files)
    mean, std = pixel_moments(train.images, 255)
    if std == 0:
        raise InputError(
            f"{paths[IDX_FILES[0]]}: every pixel has the same value: there is nothing to learn from"
        )
    hashes = {name: sha256(data) for name, (data, _) in files.items()}
    classes = int(train.labels.max()) + 1
    return Dataset(given, train, test, classes, 255, mean, std, f"folder {given}", hashes)


def _splits(files: Mapping[str, tuple[bytes, str]]) -> tuple[Split, Split]:
    """The training and the test split, from the content of each file and what it is called in errors."""
    first, second, third, fourth = (files[name] for name in IDX_FILES)
    return _split(first, second), _split(third, fourth)


def _split(images_file: tuple[bytes, str], labels_file: tuple[bytes, str]) -> Split:
    images = parse_idx(*images_file, dimensions=3)
    labels = parse_idx(*labels_file, dimensions=1)
    if len(images) != len(labels):
        raise InputError(
            f"{labels_file[1]} has {len(labels):,} labels, but {images_file[1]} has {len(images):,} "
            "images: they do not belong together"
        )
    return Split(images, labels.astype(np.int64))


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
    if _is_folder_name(name):
        raise InputError(f"the data set {name} is a folder of your own: there is nothing to fetch")
    entry = registry.entry(name)
    if entry.package is not None:
        carried = packaged(entry)
        return [FetchedFile(file, carried.source) for file in carried.hashes]
    cache = Cache(entry, say)
    named = named_folder(entry, data_dir, say)
    if named is None:
        files = find(entry, cache, say)
    else:
        files = read_named(entry, *named)
        for file in files.values():
            cache.keep(file)
    if cache.trouble is not None:
        raise InputError(
            f"{entry.name}: {cache.trouble}: free some space, or set NEARZERO_CACHE to another folder"
        )
    return [FetchedFile(each, file.source) for each, file in files.items()]


def verify(name: str | None = None, *, data_dir: str | Path | None = None) -> list[FileStatus]:
    """The state of each file of the data set, or of all registered ones; nothing is fetched or changed.

    Looked at is what `load` would read first: `data_dir`, or NEARZERO_DATA if it has files of the set, or the
    cache.
    """
    if name is None:
        return [row for entry in registry.entries() for row in _rows(entry, data_dir)]
    if _is_folder_name(name):
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
