"""Data by name: a data set, a file of arrays, or what a function returns."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from nearzero.errors import InputError, did_you_mean
from nearzero.support.files import parsing
from nearzero.support.memory import check_expansion
from nearzero.torch_models.loading.objects import check_exists, object_of, result_of

__all__ = ["PixelScale", "load_data"]

PixelScale = Literal["raw", "unit", "normalized"]
SAFE = ".safetensors"
ARRAYS = (".npz", ".npy")


def load_data(
    name: str, *, pixels: PixelScale = "raw", split: str = "test", data_dir: str | None = None
) -> Any:
    """Return data by name, in a form that `nz.probe` takes.

    Args:
        name: a known data set or a folder of IDX files, returned as images (N, 1, H, W) and labels (N,); a
            file of arrays x and perhaps y (.npz, .safetensors; .npy for x alone); or
            `package.module:function`, whose result is returned.
        pixels: for images, "raw" for values from 0 to 255, "unit" for 0 to 1, or "normalized" for
            (x - m) / s, with the mean m and the standard deviation s of the training set.
        split: for a data set, "train" or "test".
        data_dir: the folder of a known data set's files.

    Raises:
        InputError: there is no such data, or it can't be read.
    """
    path = Path(name)
    if path.suffix in (SAFE, *ARRAYS):
        return _arrays(path)
    if ":" in name and not path.exists():
        named = object_of(name, "data")
        return result_of(named, name) if callable(named) and not hasattr(named, "__getitem__") else named
    return _images(name, pixels, split, data_dir)


def _images(name: str, pixels: PixelScale, split: str, data_dir: str | None) -> tuple[Tensor, Tensor]:
    from nearzero.datasets import load

    _check_choice("pixels", pixels, get_args(PixelScale))
    _check_choice("split", split, ("train", "test"))
    data = load(name, data_dir=data_dir)
    chosen = data.train if split == "train" else data.test
    x = torch.from_numpy(chosen.images)[:, None].float()
    if pixels != "raw":
        x /= data.white
    if pixels == "normalized":
        x = (x - data.mean) / data.std
    return x, torch.from_numpy(chosen.labels)


def _check_choice(setting: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        hint = did_you_mean(given, known)
        raise InputError(f"unknown {setting} {given!r}: {hint}known are {', '.join(known)}")


def _arrays(path: Path) -> Any:
    """Return x, or (x, y), from a file."""
    check_exists(path)
    with parsing(path, f"it must be a whole file of arrays, {SAFE}, {' or '.join(ARRAYS)}"):
        if path.suffix == SAFE:
            arrays: Mapping[str, Any] = load_file(path)
        else:
            with path.open("rb") as file:  # np.load doesn't close a file that it can't read to the end
                if zipfile.is_zipfile(file):
                    members = zipfile.ZipFile(file).infolist()
                    check_expansion(path, sum(member.file_size for member in members), path.stat().st_size)
                file.seek(0)
                loaded = np.load(file, allow_pickle=False)
                arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    if "x" not in arrays:
        raise InputError(f"{path} must hold arrays x and perhaps y; it holds {', '.join(arrays) or 'none'}")
    x = arrays["x"]
    return (x, arrays["y"]) if "y" in arrays else x
