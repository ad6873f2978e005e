"""Folders of the user: as the data set itself, as `data_dir`, as NEARZERO_DATA."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nearzero.datasets import load, registry
from nearzero.datasets.registry import IDX_FILES
from nearzero.errors import InputError

if TYPE_CHECKING:
    from conftest import Tiny

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = IDX_FILES


def refusal(*args: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_is(dataset, tiny: Tiny) -> None:
    np.testing.assert_array_equal(dataset.train.images, tiny.arrays[TRAIN_IMAGES])
    np.testing.assert_array_equal(dataset.train.labels, tiny.arrays[TRAIN_LABELS])
    np.testing.assert_array_equal(dataset.test.images, tiny.arrays[TEST_IMAGES])
    np.testing.assert_array_equal(dataset.test.labels, tiny.arrays[TEST_LABELS])
    assert dataset.hashes == {name: hashlib.sha256(data).hexdigest() for name, data in tiny.files.items()}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_a_folder_is_a_data_set(tiny: Tiny, tmp_path: Path, packed: bool, dotted: bool):
    folder = tiny.write(tmp_path / "mine", packed=packed, dotted=dotted)
    dataset = load(str(folder))
    assert_is(dataset, tiny)
    assert dataset.name == str(folder)
    assert dataset.source == f"folder {folder}"
    assert (dataset.classes, dataset.white, dataset.notice) == (10, 255, None)
    pixels = tiny.arrays[TRAIN_IMAGES] / 255
    assert (dataset.mean, dataset.std) == pytest.approx((pixels.mean(), pixels.std()))


def test_a_folder_in_the_working_folder_needs_no_slash_but_a_registered_name_wins(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    tiny.write(tmp_path / "mine")
    assert load("mine").source == "folder mine"
    tiny.write(tmp_path / "digits")
    assert load("digits").source == "scikit-learn"
    assert load("./digits").source == "folder ./digits"
    assert load(Path("digits")).source == "folder digits"


def test_the_users_home_may_be_meant(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny.write(tmp_path / "mine")
    assert load("~/mine").source == "folder ~/mine"


DAMAGES = {
    "empty": (TRAIN_IMAGES, lambda tiny, data: b"", "is empty"),
    "truncated": (
        TRAIN_IMAGES,
        lambda tiny, data: data[:-7],
        "is truncated: its header says 30 x 4 x 5 bytes, but it has 593",
    ),
    "magic": (
        TEST_LABELS,
        lambda tiny, data: b"\x89PNG" + data,
        "is not an IDX file: it begins with 89 50 4e 47",
    ),
    "type": (TEST_IMAGES, lambda tiny, data: data[:2] + b"\x0d" + data[3:], "holds float32"),
    "swapped": (
        TRAIN_LABELS,
        lambda tiny, data: tiny.idx_bytes(np.zeros((30, 1, 1))),
        "are the files swapped",
    ),
    "trailing": (TRAIN_LABELS, lambda tiny, data: data + b"\0", "has 1 bytes after its 30 elements"),
    "gzip": (TEST_IMAGES, lambda tiny, data: gzip.compress(data)[:-9], "is a broken gzip file"),
    "length": (
        TRAIN_LABELS,
        lambda tiny, data: tiny.idx_bytes(np.zeros(29)),
        "has 29 labels, but .* has 30 images",
    ),
    "range": (
        TEST_LABELS,
        lambda tiny, data: tiny.idx_bytes(np.full(20, 10)),
        "test labels run from 10 to 10",
    ),
    "sizes": (
        TEST_IMAGES,
        lambda tiny, data: tiny.idx_bytes(np.zeros((20, 5, 5))),
        r"\(4, 5\), test images \(5, 5\)",
    ),
    "blank": (
        TRAIN_IMAGES,
        lambda tiny, data: tiny.idx_bytes(np.ones((30, 4, 5))),
        "every pixel has the same value",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_in_a_folder_is_named(tiny: Tiny, tmp_path: Path, damage: str):
    name, change, expected = DAMAGES[damage]
    folder = tiny.write(tmp_path / "mine")
    (folder / name).write_bytes(change(tiny, tiny.files[name]))
    message = refusal(str(folder))
    assert re.search(expected, message)
    assert name in message or damage in ("range", "sizes")
    assert str(folder) in message


def test_missing_files_are_listed(tiny: Tiny, tmp_path: Path):
    folder = tiny.write(tmp_path / "mine")
    (folder / TRAIN_LABELS).unlink()
    (folder / TEST_IMAGES).unlink()
    assert (
        refusal(str(folder)) == f"the data set {folder} lacks {TRAIN_LABELS}, {TEST_IMAGES} (gzipped or not)"
    )


def test_what_is_no_folder_is_said(tmp_path: Path):
    assert refusal("./nowhere") == "the data set ./nowhere does not exist"
    (tmp_path / "file").touch()
    assert refusal(str(tmp_path / "file")) == f"the data set {tmp_path / 'file'} is not a folder"
    assert refusal("./a\0b") == "a b can't be examined: embedded null byte"
    assert "File name too long" in refusal("./" + 5000 * "x")
    assert refusal("./x", data_dir="y") == "the data set ./x is a folder itself: leave out the data folder y"


@pytest.mark.parametrize("beside", [False, True])
def test_a_folder_with_the_file_in_it_is_opened(tiny: Tiny, beside: bool, tmp_path: Path):
    """Some archives unpack to such folders, with or without the files beside them."""
    folder = tiny.write(tmp_path / "mine")
    expected = load(str(folder))
    path = folder / TRAIN_LABELS
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    (folder / TRAIN_LABELS.replace("-idx", ".idx") if beside else path / TRAIN_LABELS).write_bytes(content)
    np.testing.assert_array_equal(load(str(folder)).train.labels, expected.train.labels)


def test_only_a_regular_file_of_bearable_size_is_read(tiny: Tiny, tmp_path: Path):
    folder = tiny.write(tmp_path / "mine")
    path = folder / TRAIN_LABELS
    path.unlink()
    path.mkdir()
    assert refusal(str(folder)) == f"{path} is not a regular file"
    path.rmdir()
    os.mkfifo(path)  # to open it would mean to wait for ever
    assert refusal(str(folder)) == f"{path} is not a regular file"
    path.unlink()
    path.symlink_to("nowhere")
    assert refusal(str(folder)) == f"{path} is not a regular file"
    path.unlink()
    with path.open("wb") as stream:
        stream.truncate((1 << 30) + 1)  # a hole: takes no space
    assert refusal(str(folder)) == f"{path} has 1,073,741,825 bytes, more than the 1,073,741,824 allowed"


def test_a_file_without_permission_is_named(tiny: Tiny, public_path: Path, unprivileged):
    folder = tiny.write(public_path / "mine")
    (folder / TEST_LABELS).chmod(0)
    with unprivileged():
        assert refusal(str(folder)) == f"{folder / TEST_LABELS} can't be read: Permission denied"
    folder.chmod(0)
    with unprivileged():
        message = refusal(str(folder))
    assert message == f"{folder / TRAIN_IMAGES} can't be examined: Permission denied"
    folder.chmod(0o755)


@pytest.mark.parametrize("inner", ["", "mnist"])
@pytest.mark.parametrize("packed", [False, True])
def test_data_dir_has_the_files_or_a_subfolder_with_them(
    tiny: Tiny, tmp_path: Path, inner: str, packed: bool
):
    tiny.write(tmp_path / "mine" / inner, packed=packed)
    dataset = load("mnist", data_dir=tmp_path / "mine")
    assert_is(dataset, tiny)
    assert dataset.name == "mnist"
    assert dataset.source == f"folder {tmp_path / 'mine'}"
    assert not (tmp_path / "cache").exists(), "a folder of the user's own is not copied"


def test_data_dir_goes_before_the_variable_and_the_cache(
    tiny: Tiny, tmp_path: Path, cached: Path, monkeypatch
):
    tiny.write(cached)
    assert load("mnist").source == "cache"
    monkeypatch.setenv("NEARZERO_DATA", str(tiny.write(tmp_path / "variable")))
    assert load("mnist").source == f"folder {tmp_path / 'variable'}"
    assert load("mnist", data_dir=tiny.write(tmp_path / "mine")).source == f"folder {tmp_path / 'mine'}"


def test_data_dir_without_the_files_is_an_error_even_with_a_cache(tiny: Tiny, tmp_path: Path, cached: Path):
    tiny.write(cached)
    folder = tiny.write(tmp_path / "mine")
    (folder / TEST_LABELS).unlink()
    message = (
        f"mnist: {folder} lacks {TEST_LABELS}: put the files there, gzipped or not, or in its subfolder mnist"
    )
    assert refusal("mnist", data_dir=folder) == message
    assert refusal("mnist", data_dir=folder, substitute=True) == message
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} lacks {', '.join(IDX_FILES)}" in refusal(
        "mnist", data_dir=tmp_path / "empty"
    )
    assert refusal("mnist", data_dir="nowhere") == "the data folder nowhere does not exist"
    assert (
        refusal("mnist", data_dir="")
        == "the data folder is an empty text; give the path of a folder with IDX files"
    )


def test_a_wrong_hash_in_data_dir_says_what_was_seen_and_what_to_do(tiny: Tiny, tmp_path: Path):
    folder = tiny.write(tmp_path / "mine")
    path = folder / TRAIN_LABELS
    wrong = bytes(path.read_bytes()[:-1]) + b"\1"
    path.write_bytes(wrong)
    expected, seen = tiny.entry.files[1].sha256, hashlib.sha256(wrong).hexdigest()
    assert refusal("mnist", data_dir=folder) == (
        f"mnist: {path} has SHA-256 {seen[:12]}..., expected {expected[:12]}...; replace it, "
        "or pass the folder itself as the data set to use it unchecked"
    )
    path.write_bytes(wrong[:-1])
    assert "has 37 bytes instead of 38: it is truncated" in refusal("mnist", data_dir=folder)
    path.write_bytes(wrong + b"1")
    assert "has 39 bytes instead of 38: it is another file" in refusal("mnist", data_dir=folder)
    path.write_bytes(gzip.compress(wrong)[:-1])
    assert f"{path} is a broken gzip file" in refusal("mnist", data_dir=folder)
    path.write_bytes(gzip.compress(bytes(1000)))
    assert f"{path} unpacks to more than 38 bytes" in refusal("mnist", data_dir=folder)


def test_the_files_of_another_data_set_are_recognised(tiny: Tiny, tmp_path: Path, monkeypatch):
    folder = tiny.write(tmp_path / "mine")
    first = tiny.entry.files[0]
    other = registry.KnownFile(first.name, first.shape, "0" * 64)
    monkeypatch.setitem(
        registry.ENTRIES, "other", registry.Entry("other", "", (other, *tiny.entry.files[1:]))
    )
    assert "expected 000000000000...: it belongs to mnist; replace it" in refusal("other", data_dir=folder)


def test_the_variable_may_have_nothing_of_a_data_set_but_not_half_of_it(
    tiny: Tiny, tmp_path: Path, cached: Path, monkeypatch, said: list[str]
):
    tiny.write(cached)
    folder = tmp_path / "variable"
    monkeypatch.setenv("NEARZERO_DATA", str(folder))
    assert refusal("mnist") == f"NEARZERO_DATA: the folder {folder} does not exist"
    folder.mkdir()
    assert load("mnist", report=said.append).source == "cache"
    assert said == [f"mnist: NEARZERO_DATA ({folder}) has none of its files; trying other sources"]
    (folder / TRAIN_IMAGES).write_bytes(tiny.files[TRAIN_IMAGES])
    assert f"mnist: {folder} lacks {TRAIN_LABELS}" in refusal("mnist")
    monkeypatch.setenv("NEARZERO_DATA", "")
    assert load("mnist").source == "cache"


def test_files_known_by_the_hash_of_their_gzip_form(tiny: Tiny, tmp_path: Path, monkeypatch, cached: Path):
    folder = tiny.write(tmp_path / "mine", packed=True)
    known = tuple(
        registry.KnownFile(
            file.name, file.shape, None, hashlib.sha256((folder / f"{file.name}.gz").read_bytes()).hexdigest()
        )
        for file in tiny.entry.files
    )
    tiny.change(monkeypatch, files=known)
    assert_is(load("mnist", data_dir=folder), tiny)
    tiny.write(cached, packed=True)
    for path in cached.iterdir():
        path.write_bytes((folder / path.name).read_bytes())
    assert load("mnist").source == "cache"
    (folder / f"{TRAIN_IMAGES}.gz").write_bytes(gzip.compress(tiny.files[TRAIN_IMAGES], mtime=12345))
    assert f"expected {known[0].gz_sha256[:12]}..." in refusal("mnist", data_dir=folder)
    plain = tiny.write(tmp_path / "plain")
    assert "can't be checked: only the SHA-256 of the gzip file is published; replace it" in refusal(
        "mnist", data_dir=plain
    )
