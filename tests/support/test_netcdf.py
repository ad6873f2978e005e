"""Files of results from strangers: what they claim is checked before memory is taken."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from nearzero import InputError
from nearzero.support.netcdf import load_netcdf, netcdf_content


def test_a_small_file_that_claims_a_huge_array() -> None:
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content.create_dataset("x", shape=(10**10,), dtype="f8", chunks=(1 << 16,), compression="gzip")
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"would take 80\.0 GB of memory"):
            load_netcdf(file.getvalue(), "a.nc", "delete it")
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 2**64 - 16)])
def test_texts_in_which_the_library_never_ends(index: int, size: int) -> None:
    """In a process of its own, which is ended if it's caught: no Python code runs while HDF5 does."""
    content = bytearray(xr.Dataset({"x": ("run", ["a", "bc"])}).to_netcdf(engine="h5netcdf") or b"")
    at = content.index(b"GCOL\x01") + 16  # the first text
    content[at : at + 2] = index.to_bytes(2, "little")
    content[at + 8 : at + 16] = size.to_bytes(8, "little")
    code = "import sys; from nearzero.support.netcdf import load_netcdf as load; load(sys.stdin.buffer.read(), 'a', '')"
    done = subprocess.run([sys.executable, "-c", code], input=bytes(content), capture_output=True, timeout=60)
    assert b"InputError: a can't be read (the size of a text in it is damaged)" in done.stderr


@pytest.mark.parametrize("how", ["external storage", "virtual", "external link"])
def test_other_files_are_not_read(how: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as other:
        other["x"] = np.arange(4.0)
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        if how == "external storage":
            content.create_dataset("x", shape=(4,), dtype="f8", external=[(str(secret), 0, 32)])
        elif how == "virtual":
            layout = h5py.VirtualLayout(shape=(4,), dtype="f8")
            layout[:] = h5py.VirtualSource(str(secret), "x", shape=(4,))
            content.create_virtual_dataset("x", layout)
        else:
            content["x"] = h5py.ExternalLink(str(secret), "/x")
    with pytest.raises(InputError, match="x is in another file, which isn't read"):
        load_netcdf(file.getvalue(), "a.nc", "delete it")


def test_a_label_that_is_there_twice() -> None:
    content = bytes(netcdf_content(xr.Dataset({"x": ("level", [1.0, 2.0])}, {"level": [0.5, 0.5]})))
    with pytest.raises(
        InputError, match=r"a\.nc can't be read \(its dimension level has a label twice\); delete it"
    ):
        load_netcdf(content, "a.nc", "delete it")


def test_damaged_files_are_refused_or_read() -> None:
    data = xr.Dataset({"x": (("run", "level"), np.arange(12.0).reshape(3, 4))}, {"level": list("abcd")})
    content, rng = bytes(data.to_netcdf(engine="h5netcdf") or b""), random.Random(19)
    read = 0
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(8):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with suppress(InputError):  # any other error fails the test
            load_netcdf(bytes(damaged), "a.nc", "delete it")
            read += 1
    assert 0 < read < 200
