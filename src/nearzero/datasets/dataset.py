"""`Dataset`: two splits of images and labels, with their source.

These are plain values. They check their shapes, dtypes, lengths and the range of labels, so that other code
can rely on these. `idx` and `packaged` make arrays of bytes, and `sources` finds the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError

__all__ = ["Dataset", "Split", "pixel_moments"]

_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: (N, H, W) uint8, C-contiguous.
        labels: (N,) int64, from 0.

    Raises:
        InputError: an array of another kind, no pixels, or another number of labels than of images.

    Example:
        >>> import nearzero as nz
        >>> import numpy as np
        >>> split = nz.datasets.Split(np.zeros((2, 3, 4), np.uint8), np.array([1, 0]))
        >>> len(split), split.pixels.shape
        (2, (2, 12))
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 3 or images.dtype != np.uint8 or not images.flags.c_contiguous:
            raise InputError(
                "images must be a C-contiguous uint8 array (N, H, W); "
                f"got {images.dtype} of shape {images.shape}"
            )
        if labels.ndim != 1 or labels.dtype != np.int64:
            raise InputError(
                f"labels must be an int64 array (N,); got {labels.dtype} of shape {labels.shape}"
            )
        if len(images) != len(labels):
            raise InputError(f"{len(labels):,} labels for {len(images):,} images: there must be one for each")
        if not images.size:
            raise InputError(f"images must hold at least one pixel; got the shape {images.shape}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """Return the images as rows, (N, H * W) uint8: a view."""
        return self.images.reshape(len(self), -1)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split, with everything that a result file records about them.

    Attributes:
        name: the registered name, or the folder as it was given.
        train, test: the two splits; their images have the same size.
        classes: the number of classes; labels are below it.
        white: the largest value that a pixel can have.
        mean, std: of pixels / white; for MNIST the field's convention, else computed from the training
            images.
        source: the source of the bytes, in words; never the path of a cache.
        hashes: SHA-256 of each uncompressed IDX file, or of each array as unsigned bytes.
        notice: a warning for the user if this is not the data set that was asked for, else None.

    Raises:
        InputError: images of different sizes, or labels outside of the classes.

    Example:
        >>> import nearzero as nz
        >>> digits = nz.datasets.load("digits")
        >>> digits.train.images.shape, digits.test.images.shape
        ((1442, 8, 8), (355, 8, 8))
        >>> digits.classes, digits.white, digits.source
        (10, 16, 'scikit-learn')
    """

    name: str
    train: Split
    test: Split
    classes: int
    white: int
    mean: float
    std: float
    source: str
    hashes: Mapping[str, str]
    notice: str | None = None

    def __post_init__(self) -> None:
        train, test = self.train.images.shape[1:], self.test.images.shape[1:]
        if train != test:
            raise InputError(
                f"{self.name}: training images are {train}, test images {test}: the sizes must agree"
            )
        for name, split in (("training", self.train), ("test", self.test)):
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= self.classes:
                raise InputError(
                    f"{self.name}: the {name} labels run from {low} to {high}; "
                    f"with {self.classes} classes they must lie in 0 ... {self.classes - 1}"
                )


def pixel_moments(images: npt.NDArray[np.uint8], white: int) -> tuple[float, float]:
    """Return mean and (population) standard deviation of images / white, from exact sums of integers."""
    flat = images.reshape(-1)
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, flat.size, _BLOCK):
        counts += np.bincount(flat[start : start + _BLOCK], minlength=256)
    first, second = (int(counts @ np.arange(256, dtype=np.int64) ** power) for power in (1, 2))
    variance = (flat.size * second - first**2) / flat.size**2
    return first / flat.size / white, variance**0.5 / white
