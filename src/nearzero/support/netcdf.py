"""Results in netCDF files, which may come from strangers: sizes are checked before memory is taken."""

from __future__ import annotations

import io
from typing import Any

import xarray as xr

from nearzero.errors import InputError
from nearzero.support.files import parsing
from nearzero.support.memory import check_expansion

__all__ = ["load_netcdf"]

HEAP = b"GCOL\x01"  # the head of a collection of texts in HDF5: a signature and a version
HEAP_HEADER, OBJECT_HEADER = 16, 16  # bytes


def load_netcdf(content: bytes, source: object, remedy: str) -> xr.DataTree:
    """Return the groups of a netCDF 4 file, loaded.

    Args:
        content: the file's bytes.
        source: the file, for messages.
        remedy: what to do about a file that can't be read.

    Raises:
        InputError: the file can't be read, refers to other files, or takes far more memory than its size
            suggests.

    Example:
        >>> import xarray as xr
        >>> from nearzero.support.netcdf import load_netcdf
        >>> content = bytes(xr.Dataset({"x": ("run", [1.0, 2.0])}).to_netcdf(engine="h5netcdf"))
        >>> load_netcdf(content, "a.nc", "delete it")["x"].values.tolist()
        [1.0, 2.0]
        >>> load_netcdf(b"", "a.nc", "delete it")
        Traceback (most recent call last):
        nearzero.errors.InputError: a.nc can't be read (...); delete it
    """
    with parsing(source, remedy):
        _check_heaps(content, source, remedy)
        check_expansion(source, _declared(content, source), len(content))
        with xr.open_datatree(io.BytesIO(content), engine="h5netcdf") as tree:
            return tree.load()


def _check_heaps(content: bytes, source: object, remedy: str) -> None:
    """Refuse texts of an HDF5 file in which the HDF5 library would go round for ever, and can't be interrupted.

    Texts of any length are in global heaps: collections of objects, each of which says its size. The library adds the
    sizes up until it's past the end of the collection, and never gets there if one is 0 (modulo 2^64).

    Raises:
        InputError: there is such a size.
    """
    start = content.find(HEAP)
    while start >= 0:
        at, end = start + HEAP_HEADER, start + int.from_bytes(content[start + 8 : start + 16], "little")
        while at + OBJECT_HEADER <= min(end, len(content)):
            index = int.from_bytes(content[at : at + 2], "little")
            size = int.from_bytes(content[at + 8 : at + 16], "little")
            # object 0 is the free space, whose size includes its header; the others are padded to 8 bytes
            step = (size if index == 0 else OBJECT_HEADER + (size + 7) // 8 * 8) % 2**64
            if step == 0:
                raise InputError(f"{source} can't be read (the size of a text in it is damaged); {remedy}")
            at += step
        start = content.find(HEAP, start + 1)


def _declared(content: bytes, source: object) -> int:
    """Return the bytes of all arrays of an HDF5 file, which compressed or unwritten ones don't take in the file.

    Raises:
        InputError: an array or a group is in another file, which may be any file of this machine.
    """
    import h5py  # type: ignore[import-untyped]

    declared = 0

    def outside_array(name: str, item: Any) -> str | None:
        nonlocal declared
        if isinstance(item, h5py.Dataset):
            declared += item.nbytes
            return name if item.external or item.is_virtual else None
        return None

    with h5py.File(io.BytesIO(content), "r") as file:
        # a visit ends at the first name that is returned
        outside = file.visititems_links(
            lambda name, link: name if isinstance(link, h5py.ExternalLink) else None
        )
        outside = outside or file.visititems(outside_array)
    if outside:
        raise InputError(f"{source} has {outside} in another file, which isn't read")
    return declared
