"""The memory limit: one setting for all work that is cut into blocks.

The limit bounds the arrays that grow with examples, units, runs and levels. The memory of Python, of PyTorch
and of the data themselves comes on top. Results don't depend on the limit.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from nearzero.errors import InputError
from nearzero.support.users import chain

__all__ = [
    "DEFAULT_MEMORY",
    "EXPANSION",
    "LEAST",
    "check_address_space",
    "check_expansion",
    "is_out_of_memory",
    "limited_memory",
    "memory_limit",
    "memory_text",
]

# Python with PyTorch, MNIST and the compiled kernels take about 0.6 GB, so a process stays below 4 GB.
DEFAULT_MEMORY = 3 * 10**9
UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
LEAST = 16 * 10**6  # with less memory no useful work is possible
SUSPICIOUS = 100 * 10**6  # so much is taken for any file of data
LEAST_SPACE = 10**9  # of addresses: the libraries alone take some 0.9 GB
OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to map segment",  # of a library that is loaded
    "alloc_failed",
)
EXPANSION = 20  # files of real data that are compressed expand to less than so many times their size
_allowed: ContextVar[int | None] = ContextVar("memory", default=None)


def memory_limit(requested: int | str | None = None) -> int:
    """Return the number of bytes that work may take.

    It is the requested number, else that of `limited_memory`, else the value of the environment variable
    NEARZERO_MEMORY, else 3 GB.

    Args:
        requested: a number of bytes, or a text like "500 MB", "2 GB", "1.5 GiB".

    Raises:
        InputError: the value is neither a number of bytes nor such a text, or is less than 16 MB.

    Example:
        >>> from nearzero.support.memory import memory_limit
        >>> memory_limit("500 MB"), memory_limit("2 GiB") == 2 * 2**30
        (500000000, True)
        >>> memory_limit("1 MB")
        Traceback (most recent call last):
        nearzero.errors.InputError: memory must be at least 16 MB; got '1 MB'
    """
    if requested is None and (allowed := _allowed.get()) is not None:
        return allowed
    source = "memory" if requested is not None else "NEARZERO_MEMORY"
    size = requested if requested is not None else os.environ.get("NEARZERO_MEMORY", DEFAULT_MEMORY)
    limit = _bytes(size)
    if limit is None:
        raise InputError(f'{source} must be a number of bytes or a text like "2 GB"; got {size!r}')
    if limit < LEAST:
        raise InputError(f"{source} must be at least {memory_text(LEAST)}; got {size!r}")
    return limit


@contextmanager
def limited_memory(size: int | None) -> Iterator[None]:
    """Let `memory_limit` return this number of bytes, at least 16 MB, within the block; None changes nothing.

    Example:
        >>> from nearzero.support.memory import limited_memory, memory_limit
        >>> with limited_memory(500_000_000):
        ...     memory_limit()
        500000000
    """
    before = _allowed.set(_allowed.get() if size is None else max(size, LEAST))
    try:
        yield
    finally:
        _allowed.reset(before)


def check_expansion(source: object, expanded: int, stored: int, most: int = SUSPICIOUS) -> None:
    """Refuse a compressed file that takes far more memory than its size suggests.

    Args:
        source: the file, for the message.
        expanded, stored: the bytes that it takes in memory, by its own account, and those of the file.
        most: the bytes that any file may take.

    Raises:
        InputError: it expands to more than `EXPANSION` times its size, and to more than NEARZERO_MEMORY says, or
            `most` if that isn't set.

    Example:
        >>> from nearzero.support.memory import check_expansion
        >>> check_expansion("a.npz", 50_000_000, 1_000_000)
        >>> check_expansion("a.npz", 8_000_000_000, 10_000)
        Traceback (most recent call last):
        nearzero.errors.InputError: a.npz, a file of 0 MB, would take 8.0 GB of memory; ...
    """
    limit = memory_limit() if "NEARZERO_MEMORY" in os.environ else min(memory_limit(), most)
    if expanded > max(limit, EXPANSION * stored):
        raise InputError(
            f"{source}, a file of {memory_text(stored)}, would take {memory_text(expanded)} of memory; if that is "
            "right, set NEARZERO_MEMORY to more"
        )


def check_address_space() -> None:
    """Refuse a limit of the process's memory, as of `ulimit -v`, in which libraries can't even be loaded.

    Without enough of it, OpenBLAS may end the process or never return, and others raise errors of all kinds.

    Raises:
        InputError: the limit is less than 1 GB.
    """
    most = _address_space()
    if most is not None and most < LEAST_SPACE:
        raise InputError(
            f"the memory of this process is limited to {memory_text(most)}, and PyTorch, NumPy and Numba need "
            f"{memory_text(LEAST_SPACE)} at least; raise the limit, see `ulimit -v`"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or what caused it, says that the memory of a device or the machine ran out.

    Example:
        >>> from nearzero.support.memory import is_out_of_memory
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("memory"))
        (True, False)
        >>> is_out_of_memory(ImportError("libtorch_cpu.so: failed to map segment from shared object"))
        True
    """
    return any(
        isinstance(each, MemoryError)
        or "OutOfMemory" in type(each).__name__
        or any(phrase in str(each).lower() for phrase in OUT_OF_MEMORY)
        or (isinstance(each, SystemError) and _address_space() is not None)  # some compiled code says no more
        for each in chain(error)
    )


def memory_text(size: float) -> str:
    """Return a number of bytes as a readable text.

    Example:
        >>> from nearzero.support.memory import memory_text
        >>> memory_text(16_000_000), memory_text(3.5e9)
        ('16 MB', '3.5 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _address_space() -> int | None:
    """Return the bytes of addresses to which this process is limited; None without a limit."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if most == resource.RLIM_INFINITY else most


def _bytes(size: object) -> int | None:
    """Return a size in bytes, or None if it can't be read."""
    if isinstance(size, int) and not isinstance(size, bool):
        return size
    if not isinstance(size, str):
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", size.lower())
    if not match or (match[2] and match[2] not in UNITS):
        return None
    size = float(match[1]) * UNITS[match[2] or "b"]
    return int(size) if size < 2**62 else None
