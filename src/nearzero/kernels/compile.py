"""Compilation of kernels, and the folder in which machine code is kept between processes.

Numba's own cache notices when the file of a function changes, but not when a file that it imports does, and
stumbles over what it can't read. Here the folder's name holds a digest of all kernel sources, so that code of
another version is never found, and whatever can't be read is compiled again. NEARZERO_CACHE moves it; where
no folder can be written, each process compiles for itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
from numba.core.caching import FunctionCache

from nearzero.support.files import cache_root

__all__ = ["any_compiled", "has_feature", "inlined", "jit"]


def has_feature(name: str) -> bool:
    """Whether kernels are compiled for processors that have a feature, as LLVM calls it: "avx2", say."""
    # by the user: NUMBA_CPU_FEATURES, or NUMBA_CPU_NAME=generic, which has none
    told = numba.config.CPU_FEATURES
    known = llvmlite.binding.get_host_cpu_features().flatten() if told is None else told
    return f"+{name}" in known.split(",")


@cache
def _folder() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode())
        digest.update(source.read_bytes())
    return str(cache_root() / "kernels" / digest.hexdigest()[:16])


def any_compiled() -> bool:
    """Whether machine code of these kernels is kept from an earlier process, or was made and kept by this one."""
    return any(Path(_folder()).glob("**/*.nbc"))


class _ForgivingCache(FunctionCache):  # type: ignore[misc]
    """A cache whose damage costs time and nothing else."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        # a file cut short, a class that moved, a disk that fails: all mean "not there"
        with suppress(Exception):
            return super().load_overload(sig, target_context)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        # no space, no permission, a damaged index: the code in memory is good
        with suppress(Exception):
            super().save_overload(sig, data)


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile without bounds checks or the interpreter lock; keep the machine code where a folder can be written."""
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    given = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = _folder()
    try:
        dispatcher._cache = _ForgivingCache(dispatcher.py_func)
    except (RuntimeError, OSError):  # no folder can be written
        pass
    finally:
        numba.config.CACHE_DIR = given
    return dispatcher  # type: ignore[no-any-return]


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """For the short inner loops of kernels: compiled as part of each caller, and never by themselves."""
    return numba.njit(inline="always", nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]
