"""Data sets by name: a registry, one loader, and a check of every file's SHA-256 each time that it is read.

Environment variables: NEARZERO_DATA (a folder with data files, which is searched first) and NEARZERO_CACHE (a
folder that replaces the platform's cache folder).
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
