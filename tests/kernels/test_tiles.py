"""Lists of non-zeros contain all of the images, and similar images are paired."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from nearzero.errors import InputError
from nearzero.kernels import tiles as tiling
from nearzero.kernels.tiles import (
    LISTS,
    PARTS,
    TILE,
    build_tiles,
    empty_filtered,
    filter_lists,
    similar_order,
)


def _sparse(examples, inputs, density=0.2, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(1, 256, (examples, inputs)) * (rng.random((examples, inputs)) < density)).astype(
        np.uint8
    )


IMAGES = {
    "one": _sparse(1, 784),
    "one pixel": _sparse(5, 1, density=0.5),
    "all zero": np.zeros((70, 50), np.uint8),
    "all 255": np.full((67, 130), 255, np.uint8),
    "odd": _sparse(131, 77),
    "whole tiles": _sparse(2 * TILE, 64),
    "many tiles": _sparse(5 * TILE + 3, 31),
    "dense": _sparse(65, 100, density=0.9),
}


def _count(tiles):
    """Return the number of tiles."""
    return tiles.starts.size // LISTS


def _from_lists(arrays, inputs):
    dense = np.zeros((_count(arrays) * TILE, inputs), np.uint8)
    for pair, (first, last) in enumerate(pairwise(arrays.starts[::PARTS])):
        assert (np.diff(arrays.starts[pair * PARTS : (pair + 1) * PARTS + 1]) >= 0).all()
        entries = arrays.entries[first:last]
        columns = entries >> 16
        assert (np.diff(columns.astype(np.int64)) > 0).all()
        dense[2 * pair, columns] = entries & 255
        dense[2 * pair + 1, columns] = (entries >> 8) & 255
        assert (entries & 0xFFFF).all()  # at least one is nonzero
    return dense


def _from_lists_by_pixel(arrays, inputs):
    pairs = -(-inputs // 2)
    dense = np.zeros(((arrays.by_pixel_starts.size - 1) // pairs * TILE, 2 * pairs), np.uint8)
    for place, (first, last) in enumerate(pairwise(arrays.by_pixel_starts)):
        tile, pair = divmod(place, pairs)
        entries = arrays.by_pixel[first:last]
        examples = entries >> 16
        assert (np.diff(examples.astype(np.int64)) > 0).all()
        dense[tile * TILE + examples, 2 * pair] = entries & 255
        dense[tile * TILE + examples, 2 * pair + 1] = (entries >> 8) & 255
        assert (entries & 0xFFFF).all()
    assert not dense[:, inputs:].any()
    return dense[:, :inputs]


@pytest.mark.parametrize("name", IMAGES)
def test_images_can_be_restored_from_lists(name):
    values = IMAGES[name]
    examples, inputs = values.shape
    order = np.random.default_rng(1).permutation(examples).astype(np.int32)
    tiles = build_tiles(values, order, gradients=True)
    assert _count(tiles) == -(-examples // TILE)
    dense = _from_lists(tiles, inputs)
    np.testing.assert_array_equal(dense[:examples], values[order])
    assert not dense[examples:].any()
    np.testing.assert_array_equal(_from_lists_by_pixel(tiles, inputs), dense)
    assert build_tiles(values, order, gradients=False).by_pixel_starts.size == 1


@pytest.mark.parametrize("name", IMAGES)
def test_filtered_lists_are_those_of_the_wanted_examples(name):
    values = IMAGES[name]
    examples, inputs = values.shape
    tiles = build_tiles(values, np.arange(examples, dtype=np.int32), gradients=True)
    filtered, rng = empty_filtered(inputs), np.random.default_rng(2)
    for tile in range(_count(tiles)):
        count = min(TILE, examples - tile * TILE)
        wanted = np.flatnonzero(rng.random(count) < 0.5)
        filter_lists(tiles, tile, inputs, wanted, len(wanted), filtered)
        kept = np.zeros((TILE, inputs), np.uint8)
        kept[wanted] = values[tile * TILE + wanted]
        of_one = tiles._replace(by_pixel=filtered.entries, by_pixel_starts=filtered.starts)
        dense = _from_lists_by_pixel(of_one, inputs)
        np.testing.assert_array_equal(dense, kept)


LISTED = """
import sys
import numpy as np
from nearzero.kernels.compile import has_feature
from nearzero.kernels.tiles import build_tiles

assert not has_feature("avx2")
images = np.load(sys.argv[1])
order = np.arange(len(images), dtype=np.int32)
np.save(sys.argv[2], build_tiles(images, order, gradients=False).entries)
"""


def test_lists_are_the_same_on_any_processor(tmp_path):
    """Numba compiles for a generic processor here."""
    images, order = IMAGES["odd"], np.arange(131, dtype=np.int32)
    np.save(tmp_path / "images.npy", images)
    generic = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    plain = {**os.environ, **generic, "NEARZERO_CACHE": str(tmp_path)}
    paths = [str(tmp_path / name) for name in ("images.npy", "entries.npy")]
    subprocess.run([sys.executable, "-c", LISTED, *paths], env=plain, check=True)
    tiles = build_tiles(images, order, gradients=False)
    np.testing.assert_array_equal(np.load(paths[1]), tiles.entries)


def test_too_many_pixels_are_refused():
    with pytest.raises(InputError, match="images have 65537 pixels; the sparse kernels take at most 65536"):
        build_tiles(np.zeros((1, 65537), np.uint8), np.zeros(1, np.int32), gradients=False)


def _union(values, order):
    support = values[order] != 0
    return np.count_nonzero(support[0::2] | support[1::2])


@pytest.mark.parametrize(("window", "share"), [(4000, 0.75), (16, 0.85)])
def test_similar_order_is_a_permutation_that_pairs_similar_images(window, share, monkeypatch):
    monkeypatch.setattr(tiling, "WINDOW", window)
    base = _sparse(100, 300, seed=2)
    values = np.repeat(base, 2, axis=0)
    values[1::2, 7] ^= 1  # twins that differ in one pixel
    values = values[np.random.default_rng(3).permutation(200)]
    order = similar_order(values)
    np.testing.assert_array_equal(np.sort(order), np.arange(200))
    assert _union(values, order) < share * _union(values, np.arange(200))
    np.testing.assert_array_equal(order, similar_order(values.copy()))


@pytest.mark.parametrize("name", IMAGES)
def test_similar_order_of_unusual_images_is_a_permutation(name, monkeypatch):
    monkeypatch.setattr(tiling, "WINDOW", 6)
    order = similar_order(IMAGES[name])
    np.testing.assert_array_equal(np.sort(order), np.arange(len(IMAGES[name])))
