"""The user's cache of data files: written atomically, trusted only as far as a hash, and never essential.

It lies in the platform's cache folder for nearzero, or where the environment variable NEARZERO_CACHE says,
under `datasets/<name>/`. No reader and no second process ever sees half of a file. A cache that can't be
written costs a warning and a download the next time; the data are then used from memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from nearzero.datasets.files import VerifiedFile, read_bytes, reason, remove_leftovers, verified
from nearzero.datasets.registry import Entry
from nearzero.errors import InputError
from nearzero.files import cache_root, make_folder, write_bytes

__all__ = ["Cache"]

_LEFTOVER_SECONDS = 600.0
"""A partial file untouched for so long belongs to a process that was killed."""


class Cache:
    """The cached files of one data set.

    Attributes:
        folder: where they lie.
        trouble: why a file could not be kept, after the first one that couldn't.
    """

    def __init__(self, entry: Entry, say: Callable[[str], None]) -> None:
        self.folder = cache_root() / "datasets" / entry.name
        self.trouble: str | None = None
        self._entry = entry
        self._say = say

    def read(self) -> dict[str, VerifiedFile]:
        """The files that are there and sound, by name; a damaged one is reported and left out."""
        present = self._listing()
        parts = [self.folder / name for name in present if name.startswith(".") and name.endswith(".part")]
        remove_leftovers(parts, _LEFTOVER_SECONDS)
        found = {}
        for known in self._entry.files:
            if known.cached_name in present:
                path = self.folder / known.cached_name
                try:
                    found[known.name] = verified(known, read_bytes(path), str(path), "cache")
                except InputError as error:
                    self._say(f"{self._entry.name}: not using a damaged file of the cache: {error}")
        return found

    def keep(self, file: VerifiedFile) -> None:
        """Put a file where `read` finds it, or report, once, that this can't be done."""
        if self.trouble is not None:
            return
        try:
            write_bytes(make_folder(self.folder) / file.known.cached_name, file.kept)
        except (OSError, ValueError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            self.trouble = f"the cache folder {self.folder} can't be written ({reason(cause)})"
            self._say(f"{self._entry.name}: {self.trouble}: the data are used from memory and not kept")

    def _listing(self) -> frozenset[str]:
        try:
            return frozenset(os.listdir(self.folder))
        except FileNotFoundError:
            return frozenset()
        except (OSError, ValueError) as error:
            self._say(f"{self._entry.name}: the cache folder {self.folder} can't be read ({reason(error)})")
            return frozenset()
