"""Split and Dataset refuse arrays that don't fit."""

from __future__ import annotations

import numpy as np
import pytest

from nearzero.datasets import Dataset, Split
from nearzero.datasets.dataset import pixel_moments
from nearzero.errors import InputError


def split(n: int = 3, side: int = 2, top: int = 2) -> Split:
    return Split(np.arange(n * side * side, dtype=np.uint8).reshape(n, side, side), np.arange(n) % (top + 1))


def test_pixels_are_a_view_of_the_images():
    made = split()
    assert made.pixels.shape == (3, 4)
    assert np.shares_memory(made.pixels, made.images)
    assert len(made) == 3


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4), np.uint8), np.zeros(2, np.int64), r"\(N, H, W\); got uint8 of shape \(2, 4\)"),
        (np.zeros((2, 4, 4)), np.zeros(2, np.int64), "got float64 of shape"),
        (np.zeros((2, 4, 8), np.uint8)[:, :, ::2], np.zeros(2, np.int64), "C-contiguous"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.uint8), "labels must be an int64 array"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros((2, 1), np.int64), r"of shape \(2, 1\)"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(3, np.int64), "3 labels for 2 images"),
        (np.zeros((0, 4, 4), np.uint8), np.zeros(0, np.int64), "at least one pixel"),
    ],
)
def test_what_is_no_split_is_refused(images: np.ndarray, labels: np.ndarray, message: str):
    with pytest.raises(InputError, match=message):
        Split(images, labels)


def dataset(train: Split, test: Split, classes: int = 3) -> Dataset:
    return Dataset("d", train, test, classes, 255, 0.5, 0.5, "here", {})


def test_both_splits_must_fit_each_other_and_the_classes():
    assert dataset(split(), split()).notice is None
    with pytest.raises(InputError, match=r"d: training images are \(2, 2\), test images \(3, 3\)"):
        dataset(split(), split(side=3))
    with pytest.raises(InputError, match=r"d: the test labels run from 0 to 3; with 3 classes .* 0 ... 2"):
        dataset(split(), split(n=4, top=3))
    below = Split(split().images, np.array([0, -1, 1]))
    with pytest.raises(InputError, match="d: the training labels run from -1 to 1"):
        dataset(below, split())


def test_moments_are_those_of_numpy():
    images = np.random.default_rng(1).integers(0, 256, (1400, 28, 28), dtype=np.uint8)
    assert images.size > 1 << 20, "more than one block"
    mean, std = pixel_moments(images, 255)
    assert mean == pytest.approx((images / 255).mean(), rel=1e-12)
    assert std == pytest.approx((images / 255).std(), rel=1e-12)
    assert pixel_moments(np.full((1, 2, 2), 16, np.uint8), 16) == (1.0, 0.0)
