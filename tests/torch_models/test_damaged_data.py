"""Files of arrays that are damaged or hostile are refused in one line."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import nearzero as nz
from nearzero.torch_models.loading.data import load_data


def saved(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 60) + text.ljust(60)


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("npz", saved(x=np.ones((40, 8)))[:1000]),
        ("npz", b"PK\x03\x04"),
        ("npy", header(b"{'descr': '<f4', 'shape': (5,3")),
        ("npy", header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-5, 3)}")),
        ("npy", header(b"{'descr': '<f4', 'fortran_order': 1, 'shape': (10**30,)}")),
        ("safetensors", b"\xff" * 20),
    ],
)
def test_damaged_files(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(content)
    with pytest.raises(nz.InputError, match="can't be read") as caught:
        load_data(str(path))
    assert "\n" not in str(caught.value)


def test_any_changed_bytes(tmp_path: Path) -> None:
    content, rng = saved(x=np.arange(24.0).reshape(3, 8), y=np.arange(3)), random.Random(19)
    path = tmp_path / "data.npz"
    for _ in range(500):
        changed = bytearray(content)
        for _ in range(4):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.write_bytes(changed)
        with suppress(nz.InputError):  # any other error fails the test
            load_data(str(path))


def test_an_archive_that_explodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARZERO_MEMORY", "50 MB")
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        file = io.BytesIO()
        np.save(file, np.zeros(10**7))
        archive.writestr("x.npy", file.getvalue())
    with pytest.raises(nz.InputError, match="would take 80 MB of memory"):
        load_data(str(path))
    monkeypatch.setenv("NEARZERO_MEMORY", "100 MB")
    assert load_data(str(path)).shape == (10**7,)
