"""Models, weights and data by name, for the command line: `package.module:function`, files, data sets.

Importing a module runs it, as `python -m` would; weights and data are read as plain tensors, and nothing is ever
unpickled.
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

from nearzero.errors import InputError
from nearzero.torch_models.state import as_module

__all__ = ["PixelScale", "build_model", "load_data", "load_weights"]

PixelScale = Literal["raw", "unit", "normalized"]
SAFE = (".safetensors",)
TENSORS = (".pt", ".pth", ".bin")
ARRAYS = (".npz", ".npy")


def build_model(name: str) -> nn.Module:
    """The model that `package.module:function` or `file.py:function` names: what the function returns.

    Raises:
        InputError: there is no such module or function, it fails, or it gives no model.
    """
    found = _named(name, "a model")
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise InputError(f"{name} is {_article(found)}, not a function that builds a model")
    return as_module(_called(found, name))


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict into a model: from safetensors, or a file of tensors alone that PyTorch saved.

    Raises:
        InputError: the file can't be read, holds more than tensors, or doesn't fit the model.
    """
    state = _tensors(path)
    for key in ("state_dict", "model"):  # as trainers wrap it
        if isinstance(state.get(key), Mapping):
            state = state[key]
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise InputError(f"the weights in {path} don't fit the model: {lines[0]}") from error
    if missing or unexpected:
        parts = [
            f"{what} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for what, names in (("it lacks", missing), ("the model has no", unexpected))
            if names
        ]
        raise InputError(f"the weights in {path} don't fit the model: {'; '.join(parts)}")


def load_data(
    name: str, *, pixels: PixelScale = "raw", split: str = "test", data_dir: str | None = None
) -> Any:
    """Data by name.

    Args:
        name: a known data set or a folder of IDX files, as images (N, 1, H, W) and labels; a file of arrays x and
            perhaps y (.npz, .safetensors; .npy for x alone); or `package.module:function`, whose value is
            anything that `nz.probe` takes.
        pixels: for images: 0 to 255 as they are; 0 to 1; or less the mean of the training set, over its standard
            deviation.
        split: of a data set, "train" or "test".
        data_dir: where a known data set's files are.

    Raises:
        InputError: no such data, or data that can't be read.
    """
    path = Path(name)
    if path.suffix in (*SAFE, *ARRAYS):
        return _arrays(path)
    if ":" in name and not path.exists():
        found = _named(name, "data")
        return _called(found, name) if callable(found) and not hasattr(found, "__getitem__") else found
    return _images(name, pixels, split, data_dir)


def _images(name: str, pixels: PixelScale, split: str, data_dir: str | None) -> tuple[Tensor, Tensor]:
    from nearzero.datasets import load

    if pixels not in get_args(PixelScale):
        raise InputError(f"pixels must be one of {', '.join(get_args(PixelScale))}; got {pixels!r}")
    if split not in ("train", "test"):
        raise InputError(f"split must be train or test; got {split!r}")
    data = load(name, data_dir=data_dir)
    chosen = data.train if split == "train" else data.test
    x = torch.from_numpy(chosen.images)[:, None].float()
    if pixels != "raw":
        x /= data.white
    if pixels == "normalized":
        x = (x - data.mean) / data.std
    return x, torch.from_numpy(chosen.labels)


def _arrays(path: Path) -> Any:
    """x, or (x, y), from a file."""
    _check_there(path)
    try:
        if path.suffix in SAFE:
            arrays: Mapping[str, Any] = load_file(path)
        else:
            with path.open("rb") as file:  # np.load doesn't close what it can't read to the end
                loaded = np.load(file, allow_pickle=False)
                arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, SafetensorError, EOFError) as error:
        raise InputError(f"{path} can't be read as arrays ({str(error).splitlines()[0]})") from error
    if "x" not in arrays:
        raise InputError(f"{path} must hold arrays x and perhaps y; it holds {', '.join(arrays) or 'none'}")
    x = arrays["x"]
    return (x, arrays["y"]) if "y" in arrays else x


def _tensors(path: Path) -> dict[str, Any]:
    _check_there(path)
    if path.suffix not in (*SAFE, *TENSORS):
        raise InputError(f"weights are read from {', '.join((*SAFE, *TENSORS))} files; got {path.name}")
    try:
        if path.suffix in SAFE:
            return dict(load_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that are refused in the next moment
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors, and nothing is unpickled; save model.state_dict() alone, with "
            "safetensors at best"
        ) from error
    except Exception as error:  # whatever bytes that mean nothing may lead to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} can't be read as weights ({reason})") from error
    if not isinstance(state, Mapping):
        raise InputError(f"{path} holds {_article(state)}, not a state dict")
    return dict(state)


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"there is no file {path}")


def _named(name: str, what: str) -> Any:
    """The object that `package.module:attribute` or `file.py:attribute` names."""
    module_name, _, attribute = name.rpartition(":")
    if not module_name or not attribute:
        raise InputError(f"{what} is named package.module:function or file.py:function; got {name!r}")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` does
        sys.path.insert(0, here)
    try:
        found: Any = _imported(module_name)
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever a stranger's module does on import, exit() included
        raise InputError(f"{module_name} can't be imported: {_reason(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InputError(f"{module_name} has no {attribute!r}")
        found = getattr(found, part)
    return found


def _imported(name: str) -> Any:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name)
    _check_there(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _called(function: Any, name: str) -> Any:
    try:
        return function()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a stranger's function
        raise InputError(f"{name} fails: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _article(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
