"""Names, the substitute, and Debian's folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nearzero.datasets import NotFoundError, entries, entry, load, names
from nearzero.datasets.registry import IDX_FILES
from nearzero.errors import InputError

if TYPE_CHECKING:
    from conftest import Tiny


def test_the_names():
    assert names() == ("mnist", "fashion-mnist", "kmnist", "mnist-5k", "digits")
    assert [each.name for each in entries()] == list(names())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("minst", "; did you mean 'mnist'?"),
        ("MNIST", "; did you mean 'mnist'?"),
        ("fashion_mnist", "; did you mean 'fashion-mnist'?"),
        ("mnist5k", "; did you mean 'mnist-5k'?"),
        ("cifar", "."),
        ("", "."),
    ],
)
def test_an_unknown_name_lists_the_known_ones(name: str, hint: str):
    with pytest.raises(InputError) as caught:
        load(name)
    assert str(caught.value) == (
        f"unknown data set {name!r}{hint} "
        "Known: mnist, fashion-mnist, kmnist, mnist-5k, digits, or a folder of IDX files"
    )


def test_moments_follow_the_convention_or_the_data(tiny: Tiny, cached: Path, monkeypatch):
    tiny.write(cached)
    pixels = tiny.arrays[IDX_FILES[0]] / 255
    dataset = load("mnist")
    assert (dataset.mean, dataset.std) == pytest.approx((pixels.mean(), pixels.std()))
    tiny.change(monkeypatch, moments=(0.1307, 0.3081))
    dataset = load("mnist")
    assert (dataset.mean, dataset.std) == (0.1307, 0.3081)


def test_every_registered_file_can_be_checked():
    for each in entries():
        assert len(each.files) == 4
        for file in each.files:
            (digest,) = {file.sha256, file.gz_sha256} - {None}
            assert len(bytes.fromhex(digest)) == 32
            assert file.cached_name == (file.name if file.sha256 else f"{file.name}.gz")
    assert [file.size for file in entry("kmnist").files] == [47_040_016, 60_008, 7_840_016, 10_008]


@pytest.mark.parametrize("name", ["mnist", "mnist-5k"])
def test_mnist_is_normalised_as_in_the_field(name: str):
    assert entry(name).moments == (0.1307, 0.3081)


def test_the_substitute_comes_with_a_notice_and_only_if_allowed(tiny: Tiny, said: list[str]):
    message = (
        r"no source has mnist \(the cache: has 0 of 4 files\): put train-images-idx3-ubyte, .* --data-dir"
    )
    with pytest.raises(NotFoundError, match=message):
        load("mnist")
    dataset = load("mnist", substitute=True, report=said.append)
    assert (dataset.name, len(dataset.train), len(dataset.test)) == ("mnist-5k", 4000, 1000)
    assert dataset.notice is not None
    assert dataset.notice.startswith("NOT mnist but mnist-5k was used (5,000 of MNIST's training digits")
    assert "\n" not in dataset.notice
    assert said == [dataset.notice]


def test_a_substitute_that_is_not_installed_leaves_the_reason_why_it_was_wanted(
    tiny: Tiny, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    message = (
        r"no source has mnist \(.* --data-dir FOLDER; mnist-5k can't replace it: .*pip install 'nearzero\["
    )
    with pytest.raises(NotFoundError, match=message):
        load("mnist", substitute=True, report=said.append)
    assert said == []


def test_nothing_stands_in_for_what_is_there_or_has_no_substitute(tiny: Tiny, cached: Path, monkeypatch):
    tiny.write(cached)
    assert load("mnist", substitute=True).notice is None
    (cached / IDX_FILES[0]).unlink()
    tiny.change(monkeypatch, substitute=None)
    with pytest.raises(NotFoundError):
        load("mnist", substitute=True)


def test_no_path_of_a_cache_gets_into_the_notice(tiny: Tiny, cached: Path, tmp_path: Path):
    tiny.write(cached)
    (cached / IDX_FILES[0]).write_bytes(b"")
    dataset = load("mnist", substitute=True, report=lambda _: None)
    assert str(tmp_path) not in str(dataset.notice)


def test_debians_package_goes_before_the_network(
    tiny: Tiny, tmp_path: Path, monkeypatch, said: list[str], mirror
):
    folder = tmp_path / "debian"
    tiny.change(monkeypatch, debian=("dataset-mnist", str(folder)), mirrors=(mirror.url,))
    mirror.offer(tiny.files)
    tiny.write(folder, packed=True)
    assert load("mnist", report=said.append).source == "Debian package dataset-mnist"
    assert said == ["mnist: taking the files of the Debian package dataset-mnist"]
    assert not mirror.asked
    assert load("mnist").source == "cache"


def test_a_debian_package_that_is_missing_or_wrong_is_passed_over(
    tiny: Tiny, tmp_path: Path, monkeypatch, said: list[str]
):
    folder = tmp_path / "debian"
    tiny.change(monkeypatch, debian=("dataset-mnist", str(folder)))
    with pytest.raises(NotFoundError, match="Debian's packages: dataset-mnist is not installed"):
        load("mnist")
    tiny.write(folder)
    (folder / IDX_FILES[2]).write_bytes(b"")
    with pytest.raises(NotFoundError, match=r"Debian's packages: .*/t10k-images-idx3-ubyte has 0 bytes"):
        load("mnist", report=said.append)
