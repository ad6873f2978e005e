"""The file of critical levels: a compressed .npz, as small as it goes without loss.

Counts take the smallest whole-number type that holds them, classes as many bits as the greatest needs; the levels of
the changes stay float64, and are nearly all of the file. What the arrays mean is in `nearzero.critical.levels`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.files import atomic

__all__ = ["read", "write"]

FORMAT = "nearzero critical levels 1"
Classes = npt.NDArray[np.unsignedinteger[Any]]


def write(
    path: Path,
    about: Mapping[str, Any],
    counts: npt.NDArray[np.int64],
    changes: npt.NDArray[np.float64],
    classes: Mapping[str, Classes],
) -> Path:
    """Write plain data, the counts, the changes, and arrays of classes by name; gives the path.

    Raises:
        InputError: the file can't be written.
    """
    bits = {name: max(1, int(each.max()).bit_length()) for name, each in classes.items()}
    header = {"format": FORMAT, "about": dict(about), "bits": bits}
    arrays = {f"{name}_packed": _packed(each, bits[name]) for name, each in classes.items()}
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            header=np.frombuffer(json.dumps(header).encode(), np.uint8),
            counts=counts.astype(np.min_scalar_type(int(counts.max()))),
            changes=changes,
            **arrays,
        )
    return path


def read(
    path: Path,
) -> tuple[dict[str, Any], npt.NDArray[np.int64], npt.NDArray[np.float64], dict[str, Classes]]:
    """The four that `write` was given.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    try:
        # opened here, because NumPy doesn't close what it can't read
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            header = json.loads(bytes(file["header"]))
            if header["format"] != FORMAT:
                raise InputError(
                    f"{path} has the format {header['format']!r}; this nearzero reads {FORMAT!r}"
                )
            counts = file["counts"].astype(np.int64)
            lengths = {"classes": int(counts.sum()), "unperturbed": len(counts)}
            classes = {
                name: _unpacked(file[f"{name}_packed"], bits, lengths[name])
                for name, bits in header["bits"].items()
            }
            return header["about"], counts, file["changes"], classes
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise InputError(f"{path} isn't a file of critical levels, or is damaged") from error


def _packed(classes: Classes, bits: int) -> npt.NDArray[np.uint8]:
    return np.packbits((classes[:, None] >> np.arange(bits, dtype=np.uint16)) & 1)


def _unpacked(packed: npt.NDArray[np.uint8], bits: int, count: int) -> Classes:
    kind: Any = np.uint16 if bits <= 16 else np.uint32
    values = np.unpackbits(packed, count=bits * count).reshape(count, bits).astype(kind)
    return np.asarray((values << np.arange(bits, dtype=kind)).sum(axis=1), dtype=kind)
