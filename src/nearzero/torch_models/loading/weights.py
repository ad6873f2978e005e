"""Weights as files hold them: one file of tensors, a checkpoint around it, or several files with an index.

Everything is read as plain tensors: safetensors, or `torch.load` with `weights_only=True`. Nothing is unpickled.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

import torch
from safetensors.torch import load_file
from torch import Tensor

from nearzero.errors import InputError
from nearzero.support.files import parsing
from nearzero.torch_models.loading.objects import check_exists, with_article

__all__ = ["SavedWeights", "read_weights", "weights_of_runs"]

SAFE = ".safetensors"
SUFFIXES = (SAFE, ".pt", ".pth", ".pth.tar", ".th", ".bin", ".ckpt", ".pkl")
PICKLE = b"\x80"  # the first byte of a file that PyTorch saved before version 1.6; later ones are zip files
INDEX = ".index.json"
# the keys under which training code saves a state dict inside of a checkpoint
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model")


@dataclass(frozen=True, eq=False)
class SavedWeights:
    """The weights in a file.

    Attributes:
        state: the state dict.
        inside: the keys of the checkpoint that lead to it, joined by dots; "" if the file is the state dict.
        beside: the other keys of the checkpoint.
    """

    state: dict[str, Any]
    inside: str
    beside: tuple[str, ...]


def read_weights(path: Path) -> SavedWeights:
    """Return the weights in a file, in the files that an index names, or in a folder with one of these.

    Raises:
        InputError: there are no weights, they can't be read, or the file holds more than tensors.
    """
    state: dict[str, Any] = _tensors(_in_folder(path) if path.is_dir() else path)
    inside: list[str] = []
    beside: list[str] = []
    while (key := _wrapper(path, state)) is not None:
        inside.append(key)
        beside += [str(other) for other in state if other != key]
        state = dict(state[key])
    return SavedWeights({str(name): value for name, value in state.items()}, ".".join(inside), tuple(beside))


def weights_of_runs(weights: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the weights of several runs of a model, a file or folder each, which `read_weights` takes.

    Args:
        weights: one of these for each run; or a folder that holds them, which are taken in the order of their
            names (run2 before run10).

    Raises:
        InputError: the folder holds no weights, the weights of one model in several files, or both files and
            folders of weights, or the same weights in two formats.
    """
    if not isinstance(weights, (str, Path)):
        return [Path(path) for path in weights]
    folder = Path(weights)
    if not folder.is_dir():
        check_exists(folder)
        return [folder]
    entries = sorted(folder.iterdir(), key=lambda path: _by_number(path.name))
    if any(path.name.endswith(INDEX) for path in entries):
        raise InputError(f"{folder} holds one model in several files; give a folder or a file for each run")
    files = [path for path in entries if path.name.endswith(SUFFIXES) and path.is_file()]
    folders = [
        path for path in entries if path.is_dir() and any(_is_weights(inner) for inner in path.iterdir())
    ]
    if not files and not folders:
        raise InputError(f"{folder} holds no weights; they are read from {', '.join(SUFFIXES)} files")
    twice = next(
        (path for path in files if path != next(each for each in files if each.stem == path.stem)), None
    )
    if (files and folders) or twice:
        reason = f"{twice.stem} in two formats" if twice else "files of weights, and folders with such files"
        raise InputError(f"{folder} holds {reason}; name the weights of each run instead")
    return files or folders


def _is_weights(path: Path) -> bool:
    return path.name.endswith((*SUFFIXES, INDEX))


def _by_number(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts names by the numbers in them."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _wrapper(path: Path, state: Mapping[str, Any]) -> str | None:
    """Return the key of the state dict in a checkpoint: a usual one, or the only one that holds just tensors.

    Raises:
        InputError: several hold just tensors, and none is a usual one.
    """
    usual = [key for key in WRAPPERS if isinstance(state.get(key), Mapping)]
    if usual or any(isinstance(value, Tensor) for value in state.values()):
        return usual[0] if usual else None
    held = [key for key, value in state.items() if isinstance(value, Mapping) and _only_tensors(value)]
    if len(held) > 1:
        raise InputError(
            f"{path} holds several state dicts, {', '.join(map(str, held))}; save the model's alone: "
            f"torch.save(torch.load(path)[{held[0]!r}], ...)"
        )
    return held[0] if held else None


def _only_tensors(state: Mapping[str, Any]) -> bool:
    return bool(state) and all(isinstance(value, Tensor) for value in state.values())


def _in_folder(folder: Path) -> Path:
    """Return the index or the file of weights in a folder; safetensors go before other files."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    indices = [name for name in names if name.endswith(INDEX)]
    for found in (
        [name for name in indices if name.endswith(f"{SAFE}{INDEX}")],
        [name for name in names if name.endswith(SAFE)],
        indices,
        [name for name in names if name.endswith(SUFFIXES)],
    ):
        plain = [name for name in found if name.startswith("model.safetensors")]
        if len(found) == 1 or len(plain) == 1:
            return folder / (found if len(found) == 1 else plain)[0]
        if found:
            raise InputError(
                f"{folder} holds several files of weights ({', '.join(found)}); name one of them"
            )
    raise InputError(f"{folder} holds no weights; they are read from {', '.join(SUFFIXES)} files")


def _tensors(path: Path) -> dict[str, Any]:
    """Return what one file holds, or all files that an index names."""
    check_exists(path)
    if path.name.endswith(INDEX):
        return {name: value for part in _parts(path) for name, value in _tensors(part).items()}
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"weights are read from {', '.join(SUFFIXES)} files; got {path.name}")
    try:
        if path.suffix == SAFE:
            return dict(load_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles, which are refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _is_saved(path):
            raise InputError(
                f"{path} can't be read as weights: it is damaged, or torch.save didn't write it"
            ) from error
        raise InputError(
            f"{path} holds more than tensors, and nothing is unpickled; save model.state_dict() alone, best as "
            "safetensors"
        ) from error
    except Exception as error:  # bytes in no known format may lead to any error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} can't be read as weights ({reason})") from error
    if not isinstance(state, Mapping):
        raise InputError(f"{path} holds {with_article(state)}, not a state dict")
    return dict(state)


def _is_saved(path: Path) -> bool:
    """Return whether a file begins as those do that PyTorch saves."""
    with path.open("rb") as file, suppress(BadZipFile):  # its directory is damaged
        return is_zipfile(path) or file.read(1) == PICKLE
    return False


def _parts(index: Path) -> list[Path]:
    """Return the files that an index names, each beside the index."""
    with parsing(index, "give an index of weights, with the file of each tensor under weight_map"):
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()), key=str)
    for file in files:
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(SUFFIXES):
            raise InputError(f"{index} names {file!r}, which isn't a file of weights beside it")
        if not (index.parent / file).is_file():
            raise InputError(f"there is no file {index.parent / file}, which {index.name} names")
    return [index.parent / file for file in files]
