"""Data sets by name: a registry, one loader, and files that are checked by SHA-256 every time they are read.

Environment variables: NEARZERO_DATA (a folder of data files, looked into first) and NEARZERO_CACHE (in place
of the platform's cache folder).
"""

from nearzero.datasets.dataset import Dataset, Split
from nearzero.datasets.loading import FetchedFile, FileStatus, fetch, load, verify
from nearzero.datasets.registry import Entry, KnownFile, entries, entry, names
from nearzero.datasets.sources import NotFoundError

__all__ = [
    "Dataset",
    "Entry",
    "FetchedFile",
    "FileStatus",
    "KnownFile",
    "NotFoundError",
    "Split",
    "entries",
    "entry",
    "fetch",
    "load",
    "names",
    "verify",
]
