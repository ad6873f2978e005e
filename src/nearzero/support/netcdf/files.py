"""Write and read netCDF 4 files."""

from __future__ import annotations

import io
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import xarray as xr

from nearzero.support.files import parsing
from nearzero.support.names import too_many_labels
from nearzero.support.netcdf.claims import check_claims
from nearzero.support.netcdf.raw import RawFile

__all__ = ["listed_texts", "load_netcdf", "netcdf_content", "parsing_loaded"]


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


def load_netcdf(content: bytes, source: object, remedy: str) -> xr.DataTree:
    """Return the groups of a netCDF 4 file, loaded.

    Args:
        content: the file's bytes.
        source: the file, for messages.
        remedy: what to do about a file that can't be read.

    Raises:
        InputError: the file can't be read, refers to other files, takes far more memory than its size suggests,
            holds what `netcdf_content` doesn't write, or has more labels than a result may have.

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
        file = RawFile(content, source, remedy)
        check_claims(file)
        # no array holds times: a stranger's would be made calendar dates, one Python object each;
        # dimensions without a name get one
        plain: Any = {"decode_times": False, "decode_timedelta": False, "phony_dims": "sort"}
        with xr.open_datatree(io.BytesIO(content), engine="h5netcdf", **plain) as tree:
            loaded = tree.load()
        _check_labels(file, loaded)
        return loaded


def parsing_loaded(data: xr.Dataset | None, remedy: str) -> AbstractContextManager[None]:
    """Turn any error in the block into an InputError of one line, if the data say from which file they are.

    Args:
        data: whose `encoding` has the file as "source" if they were read from one; None for others.
        remedy: what to do about the file.

    Example:
        >>> import xarray as xr
        >>> from nearzero.support.netcdf import parsing_loaded
        >>> data = xr.Dataset()
        >>> data.encoding["source"] = "a.nc"
        >>> with parsing_loaded(data, "delete it"):
        ...     data.attrs["title"]
        Traceback (most recent call last):
        nearzero.errors.InputError: a.nc can't be read (KeyError: 'title'); delete it
    """
    source = None if data is None else data.encoding.get("source")
    return nullcontext() if source is None else parsing(source, remedy)


def listed_texts(attribute: Any) -> list[str]:
    """Return the texts of an attribute that was a list of texts: a file holds a list of one text as a text.

    Example:
        >>> from nearzero.support.netcdf import listed_texts
        >>> listed_texts("accuracy")
        ['accuracy']
    """
    return [str(text) for text in np.atleast_1d(attribute)]


def _check_labels(file: RawFile, tree: xr.DataTree) -> None:
    """Refuse dimensions that have a label twice, since rows can't be selected by it, or very many labels.

    Raises:
        InputError: names such a dimension.
    """
    for node in tree.subtree:
        if words := too_many_labels(node.sizes):
            raise file.refusal(f"it has {words}")
        for name, index in node.indexes.items():
            if not index.is_unique:
                raise file.refusal(f"its dimension {str(name)[:80]} has a label twice")
