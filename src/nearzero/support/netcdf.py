"""Results in netCDF files, which may come from strangers: sizes are checked before memory is taken."""

from __future__ import annotations

import io
import sys
from contextlib import nullcontext
from typing import Any

import xarray as xr

from nearzero.errors import InputError
from nearzero.support.files import parsing
from nearzero.support.memory import check_expansion

__all__ = ["load_netcdf", "netcdf_content"]


def netcdf_content(data: xr.Dataset | xr.DataTree, **options: Any) -> memoryview:
    """Return the content of a netCDF 4 file with arrays that are in memory.

    Args:
        data: the arrays.
        options: of xarray's `to_netcdf`.

    Example:
        >>> import xarray as xr
        >>> from nearzero.support.netcdf import netcdf_content
        >>> bytes(netcdf_content(xr.Dataset({"x": ("run", [1.0, 2.0])}))[1:4])
        b'HDF'
    """
    if "dask" in sys.modules:
        import dask

        # else xarray would lock the file by the scheduler of a Dask client, which fails for files in memory
        in_this_process: Any = dask.config.set(scheduler="synchronous")
    else:
        in_this_process = nullcontext()
    with in_this_process:
        content: Any = data.to_netcdf(engine="h5netcdf", **options)
        return memoryview(content)


HEAP = b"GCOL\x01"  # the head of a collection of texts in HDF5: a signature and a version
HEAP_HEADER, OBJECT_HEADER, ELEMENT = 16, 16, 16  # bytes; the last is an element of an array of texts


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
        >>> from nearzero.support.netcdf import load_netcdf, netcdf_content
        >>> content = netcdf_content(xr.Dataset({"x": ("run", [1.0, 2.0])}))
        >>> load_netcdf(bytes(content), "a.nc", "delete it")["x"].values.tolist()
        [1.0, 2.0]
        >>> load_netcdf(b"", "a.nc", "delete it")
        Traceback (most recent call last):
        nearzero.errors.InputError: a.nc can't be read (...); delete it
    """
    with parsing(source, remedy):
        _check_heaps(content, source, remedy)
        check_expansion(source, _declared(content, source, remedy), len(content))
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


def _check_texts(content: bytes, texts: Any, source: object, remedy: str) -> None:
    """Refuse an array of texts of which one is longer than the file: HDF5 takes its memory before it looks for it.

    Each element is the length in 4 bytes, and an address of 12.

    Raises:
        InputError: there is such a text.
    """
    start = texts.id.get_offset()
    if start is None:  # in pieces, or nothing was written
        return
    elements = content[start : start + ELEMENT * texts.size]
    for at in range(0, len(elements), ELEMENT):
        if int.from_bytes(elements[at : at + 4], "little") > len(content):
            raise InputError(f"{source} can't be read (the length of a text in it is damaged); {remedy}")


def _declared(content: bytes, source: object, remedy: str) -> int:
    """Return the bytes of all arrays of an HDF5 file, which compressed or unwritten ones don't take in the file.

    Raises:
        InputError: an array or a group is in another file, which may be any file of this machine, or a text is longer
            than the file.
    """
    import h5py  # type: ignore[import-untyped]

    declared = 0

    def outside_array(name: str, item: Any) -> str | None:
        nonlocal declared
        if isinstance(item, h5py.Dataset):
            declared += item.nbytes
            if h5py.check_vlen_dtype(item.dtype) is not None:
                _check_texts(content, item, source, remedy)
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
