"""Compilation of kernels, and the folder in which machine code is kept between processes.

Numba's own cache notices changes of the file of a function, but not of the files that it imports, and fails
on files that it can't read. Here the folder's name contains a digest of all kernel sources, so that code of
another version is never used, and code that can't be read is compiled again. NEARZERO_CACHE sets the place of
the folder. If the folder can't be written, each process compiles for itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
from numba.core import event
from numba.core.caching import FunctionCache

from nearzero.support.files import cache_root

__all__ = ["any_compiled", "compiling", "has_feature", "inlined", "jit"]


def has_feature(name: str) -> bool:
    """Return whether kernels are compiled for processors with a feature; LLVM's name, such as "avx2"."""
    # set by NUMBA_CPU_FEATURES, or to no features by NUMBA_CPU_NAME=generic
    override = numba.config.CPU_FEATURES
    features = llvmlite.binding.get_host_cpu_features().flatten() if override is None else override
    return f"+{name}" in features.split(",")


@cache
def _folder() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode())
        digest.update(source.read_bytes())
    return str(cache_root() / "kernels" / digest.hexdigest()[:16])


def any_compiled() -> bool:
    """Return whether the cache contains machine code of these kernels, of this process or earlier ones."""
    return any(Path(_folder()).glob("**/*.nbc"))


class _Listener(event.Listener):  # type: ignore[misc]
    """Calls a function with the name of each kernel whose compilation begins."""

    def __init__(self, begun: Callable[[str], None]) -> None:
        self._begun = begun

    def on_start(self, event: Any) -> None:
        self._begun(event.data["dispatcher"].py_func.__name__)

    def on_end(self, event: Any) -> None:
        pass


@contextmanager
def compiling(begun: Callable[[str], None]) -> Iterator[None]:
    """Call a function with the name of each kernel that is compiled while the block runs, when its turn comes."""
    with event.install_listener("numba:compile", _Listener(begun)):
        yield


class _ForgivingCache(FunctionCache):  # type: ignore[misc]
    """A cache that treats damaged or unreadable files as missing."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        # a truncated file, a renamed class, a failing disk: the function is compiled again
        with suppress(Exception):
            return super().load_overload(sig, target_context)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        # no space, no permission, a damaged index: the code in memory can be used anyway
        with suppress(Exception):
            super().save_overload(sig, data)


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function without bounds checks and interpreter lock; cache the machine code if possible."""
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    previous = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = _folder()
    try:
        dispatcher._cache = _ForgivingCache(dispatcher.py_func)
    except (RuntimeError, OSError):  # the folder can't be written
        pass
    finally:
        numba.config.CACHE_DIR = previous
    return dispatcher  # type: ignore[no-any-return]


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a short inner loop as part of each kernel that calls it, and never on its own."""
    return numba.njit(inline="always", nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]
