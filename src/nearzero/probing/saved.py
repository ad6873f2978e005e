"""The saved result of a probe: its files are read, and what they count is compared with what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nearzero.support.checksums import read_recorded
from nearzero.support.netcdf import load_netcdf

__all__ = ["REMEDY", "check_counts", "read_saved"]

REMEDY = "probe again"


def read_saved(path: Path) -> xr.Dataset:
    """Return the contents of one of the files of a result.

    Raises:
        InputError: the file can't be read.
    """
    return load_netcdf(read_recorded(path.parent, path, REMEDY), path, REMEDY).to_dataset()


def check_counts(response: xr.Dataset) -> None:
    """Refuse counts that don't agree with the arrays beside them, or can't be: arrays and texts are made by them.

    Args:
        response: of a probe, as its file has it.

    Raises:
        ValueError: says which count.
    """
    names = response.attrs["metrics"]
    if len(set(names)) < len(names):
        raise ValueError("a metric is named twice")
    examples, items = (_whole(response.attrs[name], name) for name in ("examples", "items"))
    units, dead = (_whole(response[name].values, name) for name in ("units", "dead_units"))
    if (dead > units).any():
        raise ValueError("there are more dead units than units")
    if "unit_minimum" in response and (units > response.sizes["unit"]).any():
        raise ValueError(f"a layer has {units.max():,} units, and ranges of {response.sizes['unit']:,}")
    if "rows" in response:
        _whole(response.rows.values, "rows")
    if "not_finite" in response and (response.not_finite > int(items)).any():
        raise ValueError(f"logits of more than {int(items):,} items aren't finite")
    if "sequence" not in response.coords:
        return
    if response.sizes["item"] != items:
        raise ValueError(f"it says {int(items):,} items, and has {response.sizes['item']:,}")
    if (_whole(response.sequence.values, "sequence") >= examples).any():
        raise ValueError(f"an item is of an example beyond the {int(examples):,} examples")
    _whole(response.token.values, "token")


def _whole(values: Any, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return numbers that count or number something.

    Raises:
        ValueError: they aren't whole numbers from 0 to 2^63 - 1.
    """
    numbers = np.asarray(values)
    if numbers.dtype.kind not in "iu" or (numbers < 0).any() or (numbers > np.iinfo(np.int64).max).any():
        raise ValueError(f"{name} must be whole numbers from 0")
    return numbers.astype(np.int64)
