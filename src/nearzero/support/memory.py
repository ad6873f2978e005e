"""How much memory work may take: one setting, for everything that cuts its work into blocks.

What is bounded are the arrays that grow with examples, units, runs and levels, above what Python, PyTorch
and the data themselves hold. Results don't depend on it.
"""

from __future__ import annotations

import os
import re

from nearzero.errors import InputError

__all__ = ["DEFAULT_MEMORY", "LEAST", "memory_limit", "memory_text"]

# Python with PyTorch, MNIST and the compiled kernels hold about 0.6 GB, so that a process stays below 4 GB.
DEFAULT_MEMORY = 3 * 10**9
UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
LEAST = 16 * 10**6  # below this nothing useful can be done


def memory_limit(requested: int | str | None = None) -> int:
    """Bytes that work may take: as requested, else `NEARZERO_MEMORY`, else 3 GB.

    Args:
        requested: bytes, or a text like "500 MB", "2 GB", "1.5 GiB".

    Raises:
        InputError: neither a number of bytes nor such a text, or less than 16 MB.
    """
    source = "memory" if requested is not None else "NEARZERO_MEMORY"
    given = requested if requested is not None else os.environ.get("NEARZERO_MEMORY", DEFAULT_MEMORY)
    limit = _bytes(given)
    if limit is None:
        raise InputError(f'{source} must be a number of bytes or a text like "2 GB"; got {given!r}')
    if limit < LEAST:
        raise InputError(f"{source} must be at least {memory_text(LEAST)}; got {given!r}")
    return limit


def memory_text(size: float) -> str:
    """A number of bytes for people: 16 MB, 1.2 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _bytes(given: object) -> int | None:
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if not isinstance(given, str):
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", given.lower())
    if not match or (match[2] and match[2] not in UNITS):
        return None
    return int(float(match[1]) * UNITS[match[2] or "b"])
