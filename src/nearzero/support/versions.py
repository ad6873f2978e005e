"""Versions of installed packages, which results keep."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from functools import cache

__all__ = ["versions_of"]


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package, by its name.

    Example:
        >>> from nearzero.support.versions import versions_of
        >>> versions_of(["no-such-package"])
        {'no-such-package': 'not installed'}
    """
    return {name: _version(name) for name in packages}


@cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
