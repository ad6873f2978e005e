"""Arrays of texts in netCDF files: a length that is damaged takes no memory."""

from __future__ import annotations

import io
import resource

import h5py  # type: ignore[import-untyped]
import pytest
import xarray as xr

from nearzero.errors import InputError
from nearzero.support.netcdf import load_netcdf, netcdf_content


def test_a_text_longer_than_its_file_is_refused() -> None:
    content = bytearray(
        netcdf_content(xr.Dataset({"x": ("network", [1.0, 2.0])}, {"network": ["relu", "abs"]}))
    )
    whole = load_netcdf(bytes(content), "a.nc", "delete it").to_dataset()
    assert whole.network.values.tolist() == ["relu", "abs"]
    with h5py.File(io.BytesIO(content), "r") as file:
        start = file["network"].id.get_offset()
    assert content[start : start + 4] == b"\4\0\0\0"  # the length of "relu"
    content[start : start + 4] = (2**31).to_bytes(4, "little")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        InputError, match=r"a\.nc can't be read \(the length of a text in it is damaged\); delete it"
    ):
        load_netcdf(bytes(content), "a.nc", "delete it")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
