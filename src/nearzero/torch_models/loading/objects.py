"""Objects by name: `package.module:function` or `file.py:function`. Importing a module runs it, as `python -m` does."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn
from unittest.mock import patch

import numpy as np
import safetensors.torch
import torch
from torch import nn

from nearzero.errors import InputError, did_you_mean
from nearzero.support.users import place, reason
from nearzero.torch_models.state import as_module

__all__ = ["build_model", "check_exists", "object_of", "result_of", "watch_loading", "with_article"]


def build_model(name: str) -> nn.Module:
    """Return the model that a function builds, by its name: `package.module:function` or `file.py:function`.

    The name of a module that is a model already returns that model.

    Raises:
        InputError: there is no such module or function, the function fails, or it returns no model.
    """
    named = object_of(name, "a model")
    if isinstance(named, nn.Module):
        return named
    if not callable(named):
        raise InputError(f"{name} is {with_article(named)}, not a function that builds a model")
    return as_module(result_of(named, name))


@contextmanager
def watch_loading() -> Iterator[list[str]]:
    """Yield a list that gets the name of each function that loads weights or arrays within the block.

    It tells weights that a builder loads from those that it draws. Arrays count, since they may be put into a
    model by hand.
    """
    seen: list[str] = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            seen.append(function.__name__)
            return function(*arguments, **keywords)

        return call

    loaders = [
        (nn.Module, "load_state_dict"),
        (torch, "load"),
        (np, "load"),
        (safetensors.torch, "load_file"),
        (safetensors.torch, "load"),
    ]
    originals = [(owner, name, getattr(owner, name)) for owner, name in loaders]
    try:
        for owner, name, original in originals:
            setattr(owner, name, watched(original))
        yield seen
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def check_exists(path: Path) -> None:
    """Raise an error unless there is such a file."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")


def object_of(name: str, role: str) -> Any:
    """Return the object that `package.module:attribute` or `file.py:attribute` names.

    Args:
        name: the name.
        role: the kind of object wanted, for error messages.
    """
    module_name, _, attribute = name.rpartition(":")
    if not module_name or not attribute:
        raise InputError(f"{role} is named package.module:function or file.py:function; got {name!r}")
    _add_to_path(Path.cwd())  # as `python -m` does
    try:
        with _as_program(module_name):
            named: Any = _imported(module_name)
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a user's module may raise anything on import, SystemExit included
        raise InputError(f"{module_name} can't be imported: {_explained(error)}") from error
    for part in attribute.split("."):
        if not hasattr(named, part):
            hint = did_you_mean(part, dir(named)).strip()
            raise InputError(f"{module_name} has no {attribute!r}{f': {hint}' if hint else ''}")
        named = getattr(named, part)
    return named


@contextmanager
def _as_program(name: str) -> Iterator[None]:
    """Run a user's code as a program without arguments: those of nearzero aren't for its parser.

    A parser that needs some raises an error, instead of printing how the program is used.
    """

    def refuse(_: ArgumentParser, message: str) -> NoReturn:
        raise SystemExit(message)

    with patch.object(sys, "argv", [name]), patch.object(ArgumentParser, "error", refuse):
        yield


def _imported(name: str) -> Any:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name)
    check_exists(path)
    known = [module for module in list(sys.modules.values()) if _is_from(module, path)]
    return known[0] if known else _run_file(path)


def _is_from(module: ModuleType, path: Path) -> bool:
    """Return whether a module was imported from a file; one that runs as a program isn't meant."""
    file = getattr(module, "__file__", None)
    same_name = isinstance(file, str) and os.path.basename(file) == path.name
    return same_name and module.__name__ != "__main__" and Path(str(file)).resolve() == path.resolve()


def _run_file(path: Path) -> ModuleType:
    """Import a file, as a module that a worker of a data loader finds by its name too."""
    _add_to_path(path.resolve().parent)  # as `python file.py` does
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_2"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _add_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def result_of(function: Any, name: str) -> Any:
    """Return the result of a user's function without arguments; `name` is how the user named it.

    Raises:
        InputError: the function fails.
    """
    try:
        with _as_program(name):
            return function()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's function may raise anything
        raise InputError(f"{name} fails: {_explained(error)}") from error


def _explained(error: BaseException) -> str:
    """Return an error in one line, with the user's own file and line."""
    where = place(error)
    line = reason(error)
    return line if where is None or where in line else f"{line} ({where})"


def with_article(value: object) -> str:
    """Return the type of a value with its article: "an int", "a dict"."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
