"""`load`, `fetch` and `verify`: data sets by their name or folder.

`sources` has the order in which sources are tried, and `registry` the facts about each data set.
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
    """A file that `fetch` has checked.

    Attributes:
        name: of the file, or of the array of a packaged data set.
        source: the source of the file, in words.

    Example:
        >>> import nearzero as nz
        >>> file = nz.datasets.fetch("digits")[0]
        >>> f"{file.name} from {file.source}"
        'train-images from scikit-learn'
    """

    name: str
    source: str


@dataclass(frozen=True)
class FileStatus:
    """The state of one file or array, as `verify` returns it.

    Attributes:
        dataset, file: the names of the data set and the file.
        status: "present", "missing", "unreadable", or "wrong hash" for a file that can be read but is another
            one.
        where: the path of the file, or the name of the package.
        detail: the problem, in one line; the SHA-256 if there is none.

    Example:
        >>> import nearzero as nz
        >>> row = nz.datasets.verify("digits")[1]
        >>> row.file, row.status, row.where
        ('train-labels', 'present', 'scikit-learn')
        >>> row.detail[:20]
        'SHA-256 85a46d933100'
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
    """Return the data set with that name; its files are checked against their published SHA-256.

    Args:
        name: one of `names()`, or a folder of IDX files (`train-images-idx3-ubyte`,
            `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, gzipped or not).
            The hashes of a folder's files are recorded, not checked. A string that is a registered name means
            that data set; for a folder with such a name, write `./mnist` or give a `Path`.
        data_dir: a folder with all files of a registered data set. If it is None, the folder in
            NEARZERO_DATA, the user's cache and the public sources are tried one after the other.
        substitute: whether `mnist-5k` may replace `mnist` if no source has it; the result then has a
            `notice`.
        report: is called with one line for each download and each problem; if it is None, the lines go to the
            logger `nearzero.datasets` as warnings.

    Raises:
        NotFoundError: no source has the data set.
        InputError: an unknown name, or a file with another content than expected.

    Example:
        >>> import nearzero as nz
        >>> digits = nz.datasets.load("digits")
        >>> digits.train.pixels.shape, digits.train.labels.shape
        ((1442, 64), (1442,))
        >>> nz.datasets.load("minst")
        Traceback (most recent call last):
            ...
        nearzero.errors.InputError: unknown data set 'minst'; did you mean 'mnist'? Known: mnist, ...
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
        try:
            replacement = replace(load(other.name, report=report), notice=notice)
        except InputError as lacking:
            raise NotFoundError(f"{error}; {other.name} can't replace it: {lacking}") from lacking
        say(notice)
        return replacement


def _is_folder_name(name: str | Path) -> bool:
    """Return whether a name means a folder: it isn't registered, and is a path or an existing folder."""
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
    """Return the training and the test split, from the content of each file and its label in errors."""
    train_images, train_labels, test_images, test_labels = (files[name] for name in IDX_FILES)
    return _split(train_images, train_labels), _split(test_images, test_labels)


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
    """Put every file of a data set into the user's cache, and return them; `load` then needs no network.

    With `data_dir` (or NEARZERO_DATA) the files come from that folder. A data set of an installed package is
    checked and not copied.

    Args:
        name: one of `names()`.
        data_dir, report: as for `load`.

    Raises:
        NotFoundError: no source has the data set.
        InputError: as for `load`, or the cache can't be written.

    Example:
        >>> import nearzero as nz
        >>> [file.name for file in nz.datasets.fetch("digits")]
        ['train-images', 'train-labels', 'test-images', 'test-labels']
    """
    say = report or _log.warning
    if _is_folder_name(name):
        raise InputError(f"the data set {name} is a folder, so there is nothing to fetch")
    entry = registry.entry(name)
    if entry.package is not None:
        dataset = packaged(entry)
        return [FetchedFile(array, dataset.source) for array in dataset.hashes]
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
    return [FetchedFile(filename, file.source) for filename, file in files.items()]


def verify(name: str | None = None, *, data_dir: str | Path | None = None) -> list[FileStatus]:
    """Return the state of each file of a data set, or of all registered ones; nothing is fetched or changed.

    The files are those that `load` would read first: in `data_dir`, in NEARZERO_DATA if it has files of the
    data set, or in the cache.

    Args:
        name: one of `names()`, or a folder; None for all registered data sets.
        data_dir: as for `load`.

    Raises:
        InputError: an unknown name, or a folder that can't be read.

    Example:
        >>> import nearzero as nz
        >>> [row.status for row in nz.datasets.verify("digits")]
        ['present', 'present', 'present', 'present']
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
        paths = {file.name: folder / file.cached_name for file in entry.files}
    else:
        folder = named[0]
        present = find_files(folder, [file.name for file in entry.files])
        paths = {file.name: present.get(file.name, folder / file.name) for file in entry.files}
    return [_row(entry, file, paths[file.name]) for file in entry.files]


def _row(entry: Entry, expected: KnownFile, path: Path) -> FileStatus:
    def row(status: Status, detail: str) -> FileStatus:
        return FileStatus(entry.name, expected.name, status, str(path), detail)

    try:
        if file_kind(path) is None:
            return row("missing", "not there")
        delivered = read_bytes(path)
    except InputError as error:
        return row("unreadable", str(error))
    try:
        return row("present", f"SHA-256 {verified(expected, delivered, path.name, 'disk').sha256}")
    except InputError as error:
        return row("wrong hash", str(error))


def _packaged_rows(entry: Entry) -> list[FileStatus]:
    package = str(entry.package)
    try:
        hashes = packaged_hashes(entry)
    except InputError as error:
        return [FileStatus(entry.name, file.name, "missing", package, str(error)) for file in entry.files]
    rows = []
    for expected in entry.files:
        status: Status = "present" if hashes[expected.name] == expected.sha256 else "wrong hash"
        rows.append(
            FileStatus(entry.name, expected.name, status, package, f"SHA-256 {hashes[expected.name]}")
        )
    return rows
