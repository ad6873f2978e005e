"""Import the libraries of models and data when they are needed, and say in one line which extra is missing."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors.torch
import torch

from nearzero.errors import InputError

__all__ = ["first_line", "imported", "only_tensors"]

EXTRAS = {
    "transformers": "hf",
    "datasets": "hf",
    "huggingface_hub": "hf",
    "timm": "timm",
    "torchvision": "torchvision",
}
# Operators that torchvision registers fakes for when it is imported. A build for another PyTorch lacks them, and
# can't be imported then, though transforms and classifiers don't need them.
OPERATORS = ("nms", "qnms")


def imported(name: str) -> Any:
    """Return a module of one of the libraries that an extra of nearzero installs.

    Args:
        name: the module's full name, such as "timm.data".

    Raises:
        InputError: the library isn't installed, or can't be imported.
    """
    package = name.partition(".")[0]
    if package != "huggingface_hub":
        _prepare_torchvision()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRAS:
            raise InputError(f"{package} can't be imported: {first_line(error)}") from error
        missing = (error.name or "").partition(".")[0]
        raise InputError(
            f"{missing} isn't installed, which names of this kind need; pip install 'nearzero[{EXTRAS[package]}]'"
        ) from error
    except Exception as error:  # a broken installation may raise anything
        raise InputError(f"{package} can't be imported: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])


def _prepare_torchvision() -> None:
    """Import torchvision, which the others import if it is there, also if its compiled operators don't load.

    A call of such an operator then raises an error; nothing else of torchvision changes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about an image decoder in compiled code, which isn't needed
        try:
            importlib.import_module("torchvision")
        except ImportError:
            pass
        except RuntimeError:
            for name in OPERATORS:
                if not hasattr(torch.ops.torchvision, name):
                    torch.library.define(
                        f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou) -> Tensor"
                    )
            importlib.import_module("torchvision")


@contextmanager
def only_tensors() -> Iterator[list[Path]]:
    """Refuse to unpickle anything but tensors within the block, whatever a library asks `torch.load` for.

    Yields:
        The files of weights that were read within the block, each once.
    """
    read: list[Path] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(file: Any, *arguments: Any, **keywords: Any) -> Any:
            if isinstance(file, (str, Path)) and Path(file) not in read:
                read.append(Path(file))
            return function(file, *arguments, **keywords)

        return call

    with (
        patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}),
        patch.object(torch, "load", noting(torch.load)),
        patch.object(safetensors.torch, "load_file", noting(safetensors.torch.load_file)),
    ):
        os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
        yield read
