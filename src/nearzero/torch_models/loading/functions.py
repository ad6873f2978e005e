"""A user's functions by name: the arguments that they take, the code that they are made of, and calls that repeat.

A call in `as_in_a_new_process` gives the same result whatever ran in this process before: modules of the user's own
are imported anew, and the random generators and PyTorch's switches are put back afterwards.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import random
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from modulefinder import ModuleFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from nearzero.errors import InputError
from nearzero.support.files import read_bytes
from nearzero.support.threads import one_torch_thread
from nearzero.support.users import is_users, reason
from nearzero.torch_models.loading.objects import check_exists, object_of, result_of, with_article
from nearzero.torch_models.state import Surroundings

__all__ = ["Arguments", "as_in_a_new_process", "call", "code_files", "function_of", "seed_generators"]

LARGEST_SEED = 2**32  # of NumPy's global generator, exclusive


@dataclass(frozen=True)
class Arguments:
    """The arguments that a function takes by name, after those that it is given by position.

    Attributes:
        names: the names.
        required: those without a default.
        takes_any: whether it takes arguments of any name, as `**kwargs`.
    """

    names: tuple[str, ...]
    required: tuple[str, ...]
    takes_any: bool

    @classmethod
    def of(cls, function: Callable[..., Any], name: str, positional: int = 0) -> Arguments:
        """Return the arguments of a function.

        Args:
            function: the function, or a class.
            name: how the user named it, for messages.
            positional: the number of arguments that it is given by position.

        Raises:
            InputError: its arguments can't be read, or it takes fewer by position.
        """
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the arguments of {name} can't be read ({reason(error)}); give a plain function"
            ) from error
        by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        places = [each for each in parameters if each.kind in by_position]
        rest = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters)
        if len(places) < positional and not rest:
            raise InputError(
                f"{name} must take {positional} arguments by position; it takes {len(places)}: "
                f"({', '.join(each.name for each in places)})"
            )
        given = {each.name for each in places[:positional]}
        named = [
            each
            for each in parameters
            if each.name not in given
            and each.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        ]
        return cls(
            tuple(each.name for each in named),
            tuple(each.name for each in named if each.default is inspect.Parameter.empty),
            any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters),
        )

    def chosen(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the known arguments that the function takes."""
        return {key: value for key, value in known.items() if self.takes_any or key in self.names}


def function_of(name: str, role: str) -> Callable[..., Any]:
    """Return the function that `file.py:function` or `package.module:function` names; this runs the user's code.

    Raises:
        InputError: there is no such function, or its file can't be imported.
    """
    named = object_of(name, role)
    if not callable(named) or isinstance(named, torch.nn.Module):
        raise InputError(f"{role} must be a function; {name} is {with_article(named)}")
    return named  # type: ignore[no-any-return]


def call(name: str, function: Callable[..., Any], *values: Any, **named: Any) -> Any:
    """Return the result of a user's function.

    Raises:
        InputError: the function fails; the message has the user's own file and line.
    """
    return result_of(partial(function, *values, **named), name)


def seed_generators(seed: int) -> None:
    """Seed the global random generators of PyTorch (on all devices), NumPy and Python."""
    random.seed(seed)
    np.random.seed(seed % LARGEST_SEED)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def as_in_a_new_process(files: Collection[str]) -> Iterator[None]:
    """Run a block of a user's code as if this process had just begun; PyTorch runs on one thread.

    What the user's modules keep (a generator, a cache, a counter) is made anew within the block, and afterwards
    the modules, the random generators and PyTorch's switches are those of before.

    Args:
        files: the paths of the files that the functions are made of, as `code_files` finds them.
    """
    own = [Path(file).resolve() for file in files if is_users(file)]
    path_before, before = list(sys.path), _modules_of(own)
    surroundings = Surroundings()
    for name in before:
        del sys.modules[name]
    torch.set_grad_enabled(True)
    try:
        with one_torch_thread():
            yield
    finally:
        for name in _modules_of(own):
            del sys.modules[name]
        sys.modules.update(before)
        sys.path[:] = path_before
        surroundings.restore()


def _modules_of(files: Sequence[Path]) -> dict[str, ModuleType]:
    """Return the imported modules that come from some files, by name, but not the program itself."""
    names = {file.name for file in files}
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or os.path.basename(file) not in names or name == "__main__":
            continue
        if Path(file).resolve() in files:
            found[name] = module
    return found


def code_files(names: Iterable[str]) -> dict[Path, str]:
    """Return the SHA-256 of each file of the user's own that some functions are made of, by path.

    These are the files that the names lead to, and the files that they import from beside them, the working folder or
    the user's own part of Python's path, found without running them: also imports within functions, but not those
    whose names are computed. Installed packages aren't among them.

    Args:
        names: `file.py:function` or `package.module:function`.

    Raises:
        InputError: there is no such file or module, or Python can't read one of them.
    """
    found: dict[Path, str] = {}
    for name in names:
        module_name = name.rpartition(":")[0]
        path = _source_of(module_name)
        if path is None or path.resolve() in found:
            continue
        files = [path, *(_imported_by(path, module_name) if is_users(str(path)) else ())]
        found |= {file.resolve(): hashlib.sha256(read_bytes(file)).hexdigest() for file in files}
    return dict(sorted(found.items()))


def _imported_by(path: Path, module_name: str) -> list[Path]:
    """Return the files of the user's own that a module imports, and those that they import."""
    of_file = module_name.endswith(".py")
    depth = 0 if of_file else module_name.count(".") + (path.name == "__init__.py")
    root = path.resolve().parents[depth]
    places = [place for place in sys.path if os.path.isdir(place) and is_users(place)]
    finder = ModuleFinder(path=[str(root), str(Path.cwd()), *places], excludes=["nearzero"])
    try:
        if of_file:
            finder.run_script(str(path))
        else:
            finder.import_hook(module_name)
    except Exception as error:  # of files that aren't Python
        where = f" ({error.filename}, line {error.lineno})" if isinstance(error, SyntaxError) else ""
        raise InputError(f"{path} can't be imported: {reason(error)}{where}") from error
    named = (getattr(module, "__file__", None) for module in finder.modules.values())
    files = [Path(file) for file in named if isinstance(file, str)]
    return [file for file in files if file.suffix == ".py" and is_users(str(file))]


def _source_of(module_name: str) -> Path | None:
    """Return the file of a module, by name or path; None if it has none, as in a compiled package."""
    if module_name.endswith(".py"):
        check_exists(Path(module_name))
        return Path(module_name)
    try:
        with _in_working_folder():
            spec = importlib.util.find_spec(module_name)
    except (ImportError, ValueError, AttributeError) as error:
        raise InputError(f"{module_name} can't be imported: {reason(error)}") from error
    if spec is None:
        raise InputError(
            f"there is no module {module_name!r}; a function is named file.py:function or module:function"
        )
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


@contextmanager
def _in_working_folder() -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before
