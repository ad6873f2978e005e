"""Models, weights and data by name, for the command line: `package.module:function`, files, data sets.

Importing a module runs it, as `python -m` does. Weights and data are read as plain tensors, never unpickled.
"""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nearzero.errors import InputError, did_you_mean
from nearzero.torch_models.state import as_module

__all__ = ["PixelScale", "build_model", "load_data", "load_weights"]

PixelScale = Literal["raw", "unit", "normalized"]
SAFE = (".safetensors",)
TENSORS = (".pt", ".pth", ".bin")
ARRAYS = (".npz", ".npy")


def build_model(name: str) -> nn.Module:
    """Return the model that a function builds, by its name: `package.module:function` or `file.py:function`.

    The name of a module that is a model already returns that model.

    Raises:
        InputError: there is no such module or function, the function fails, or it returns no model.
    """
    named = _object_of(name, "a model")
    if isinstance(named, nn.Module):
        return named
    if not callable(named):
        raise InputError(f"{name} is {_with_article(named)}, not a function that builds a model")
    return as_module(_result_of(named, name))


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict into a model, from a safetensors file, or one of tensors alone that PyTorch saved.

    Raises:
        InputError: the file can't be read, holds more than tensors, or doesn't fit the model.
    """
    state = _tensors(path)
    for key in ("state_dict", "model"):  # the keys under which training libraries save it
        if isinstance(state.get(key), Mapping):
            state = state[key]
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # other shapes
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise InputError(f"the weights in {path} don't fit the model: {lines[0]}") from error
    if missing or unexpected:
        reasons = [
            f"{problem} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for problem, names in (("the file lacks", missing), ("the model has no", unexpected))
            if names
        ]
        raise InputError(f"the weights in {path} don't fit the model: {'; '.join(reasons)}")


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
    if path.suffix in (*SAFE, *ARRAYS):
        return _arrays(path)
    if ":" in name and not path.exists():
        named = _object_of(name, "data")
        return _result_of(named, name) if callable(named) and not hasattr(named, "__getitem__") else named
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
    _check_exists(path)
    try:
        if path.suffix in SAFE:
            arrays: Mapping[str, Any] = load_file(path)
        else:
            with path.open("rb") as file:  # np.load doesn't close a file that it can't read to the end
                loaded = np.load(file, allow_pickle=False)
                arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, SafetensorError, EOFError) as error:
        raise InputError(f"{path} can't be read as arrays ({str(error).splitlines()[0]})") from error
    if "x" not in arrays:
        raise InputError(f"{path} must hold arrays x and perhaps y; it holds {', '.join(arrays) or 'none'}")
    x = arrays["x"]
    return (x, arrays["y"]) if "y" in arrays else x


def _tensors(path: Path) -> dict[str, Any]:
    _check_exists(path)
    if path.suffix not in (*SAFE, *TENSORS):
        raise InputError(f"weights are read from {', '.join((*SAFE, *TENSORS))} files; got {path.name}")
    try:
        if path.suffix in SAFE:
            return dict(load_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles, which are refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors, and nothing is unpickled; save model.state_dict() alone, best as "
            "safetensors"
        ) from error
    except Exception as error:  # bytes in no known format may lead to any error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} can't be read as weights ({reason})") from error
    if not isinstance(state, Mapping):
        raise InputError(f"{path} holds {_with_article(state)}, not a state dict")
    return dict(state)


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"there is no file {path}")


def _object_of(name: str, role: str) -> Any:
    """Return the object that `package.module:attribute` or `file.py:attribute` names.

    Args:
        name: the name.
        role: the kind of object wanted, for error messages.
    """
    module_name, _, attribute = name.rpartition(":")
    if not module_name or not attribute:
        raise InputError(f"{role} is named package.module:function or file.py:function; got {name!r}")
    folder = str(Path.cwd())
    if folder not in sys.path:  # as `python -m` does
        sys.path.insert(0, folder)
    try:
        named: Any = _imported(module_name)
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a user's module may raise anything on import, SystemExit included
        raise InputError(f"{module_name} can't be imported: {_reason(error)}") from error
    for part in attribute.split("."):
        if not hasattr(named, part):
            hint = did_you_mean(part, dir(named)).strip()
            raise InputError(f"{module_name} has no {attribute!r}{f': {hint}' if hint else ''}")
        named = getattr(named, part)
    return named


def _imported(name: str) -> Any:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name)
    _check_exists(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _result_of(function: Any, name: str) -> Any:
    try:
        return function()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's function may raise anything
        raise InputError(f"{name} fails: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _with_article(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
