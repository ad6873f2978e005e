"""From a name or a folder to arrays.

The order in which sources are tried is in `sources`, the facts about each data set in `registry`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from nearzero.datasets import registry
from nearzero.datasets.cache import Cache
from nearzero.datasets.dataset import Dataset, Split, pixel_moments
from nearzero.datasets.files import file_kind, find_files, read_bytes, sha256, unpacked
from nearzero.datasets.idx import parse_idx
from nearzero.datasets.packaged import packaged
from nearzero.datasets.registry import IDX_FILES, Entry
from nearzero.datasets.sources import NotFoundError, existing_folder, find, named_folder, read_named
from nearzero.errors import InputError

__all__ = ["is_folder_name", "load"]

_log = logging.getLogger("nearzero.datasets")


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
    if is_folder_name(name):
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
        return dataclasses.replace(load(other.name, report=report), notice=notice)


def is_folder_name(name: str | Path) -> bool:
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
    ordered = [files[known.name] for known in entry.files]
    train, test = _splits({file.known.name: (file.content, file.known.name) for file in ordered})
    mean, std = entry.moments or pixel_moments(train.images, entry.white)
    source = " and ".join(dict.fromkeys(file.source for file in ordered))
    hashes = {file.known.name: file.sha256 for file in ordered}
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
