"""The IDX format of MNIST's files, parsed from bytes that aren't trusted.

The format: two zero bytes, a code for the element type, the number of dimensions, each dimension as a
big-endian 32-bit number, then the elements. All of the header is checked against the length of the data
before an array is made, so that a wrong header can't cause an allocation. `files` reads the files.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError

__all__ = ["LARGEST_FILE", "gunzip", "is_gzip", "parse_idx"]

LARGEST_FILE = 1 << 30
"""In bytes. The largest common IDX file (EMNIST by class) has about half as many."""

_UNSIGNED_BYTE = 0x08
_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_CHUNK = 1 << 20


def is_gzip(data: bytes) -> bool:
    """Return whether the bytes begin as gzip does; the name of the file doesn't matter."""
    return data[:2] == b"\x1f\x8b"


def gunzip(packed: bytes, label: str, limit: int = LARGEST_FILE) -> bytes:
    """Return the uncompressed bytes; `label` names the file in errors.

    Raises:
        InputError: more than `limit` bytes, or broken gzip.
    """
    chunks, length = [], 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
            while chunk := stream.read(_CHUNK):
                length += len(chunk)
                if length > limit:
                    raise InputError(f"{label} unpacks to more than {limit:,} bytes")
                chunks.append(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{label} is a broken gzip file ({error})") from error
    return b"".join(chunks)


def parse_idx(data: bytes, label: str, dimensions: int) -> npt.NDArray[np.uint8]:
    """Return the array of unsigned bytes in an uncompressed IDX file: a new, writable, C-contiguous copy.

    Args:
        data: the whole file.
        label: names the file in errors.
        dimensions: the expected number of dimensions; 3 for images, 1 for labels.

    Raises:
        InputError: the data aren't such a file.
    """
    shape = _shape(data, label, dimensions)
    start = 4 + 4 * dimensions
    declared, seen = math.prod(shape), len(data) - start
    sizes = " x ".join(f"{size:,}" for size in shape)
    if declared > LARGEST_FILE:
        raise InputError(
            f"{label} claims to hold {sizes} elements, more than the {LARGEST_FILE:,} bytes allowed"
        )
    if seen < declared:
        raise InputError(f"{label} is truncated: its header says {sizes} bytes, but it has {seen:,}")
    if seen > declared:
        raise InputError(
            f"{label} has {seen - declared:,} bytes after its {sizes} elements: it is not a plain IDX file"
        )
    if not declared:
        raise InputError(f"{label} holds nothing: its header says {sizes} elements")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape).copy()


def _shape(data: bytes, label: str, dimensions: int) -> tuple[int, ...]:
    """Return the dimensions in the header, after a check of everything before them."""
    if not data:
        raise InputError(f"{label} is empty")
    if data[:2] != b"\x00\x00"[: len(data)]:
        raise InputError(
            f"{label} is not an IDX file: it begins with {data[:4].hex(' ')}, "
            f"where 00 00 {_UNSIGNED_BYTE:02x} {dimensions:02x} was expected (or gzip's 1f 8b)"
        )
    if len(data) < 4:
        raise InputError(f"{label} is truncated: its header ends after {len(data)} bytes")
    code, count = data[2], data[3]
    if code != _UNSIGNED_BYTE:
        seen = _TYPES.get(code, "an unknown type")
        raise InputError(f"{label} holds {seen} (IDX type code {code:#04x}); only uint8 (0x08) is read")
    if count != dimensions:
        raise InputError(
            f"{label} has {count} dimensions instead of {dimensions}: images have 3 and labels 1; "
            "are the files swapped?"
        )
    if len(data) < 4 + 4 * dimensions:
        raise InputError(f"{label} is truncated: its header ends after {len(data)} bytes")
    return struct.unpack_from(f">{dimensions}I", data, 4)
