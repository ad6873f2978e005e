"""The IDX format of MNIST's files, read from bytes that nobody vouches for.

Two zero bytes, a code for the element type, the number of dimensions, each dimension as a big-endian 32-bit
number, then the elements. Everything is checked against the bytes at hand before an array is made, so that a
header alone can't cause an allocation. Reading files is the business of `files`.
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
"""Bytes; the largest IDX file in the field (EMNIST by class) has about half as many."""

_UNSIGNED_BYTE = 0x08
_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_CHUNK = 1 << 20


def is_gzip(data: bytes) -> bool:
    """Whether the bytes begin as gzip does; the name of a file is not asked."""
    return data[:2] == b"\x1f\x8b"


def gunzip(packed: bytes, what: str, limit: int = LARGEST_FILE) -> bytes:
    """The uncompressed bytes, at most `limit` of them. `what` names the file in errors."""
    chunks, length = [], 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
            while chunk := stream.read(_CHUNK):
                length += len(chunk)
                if length > limit:
                    raise InputError(f"{what} unpacks to more than {limit:,} bytes")
                chunks.append(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{what} is a broken gzip file ({error})") from error
    return b"".join(chunks)


def parse_idx(data: bytes, what: str, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array of unsigned bytes in an uncompressed IDX file: a fresh, writable, C-contiguous copy.

    Args:
        data: the whole file.
        what: names the file in errors.
        dimensions: how many are expected; 3 for images, 1 for labels.
    """
    shape = _shape(data, what, dimensions)
    start = 4 + 4 * dimensions
    declared, seen = math.prod(shape), len(data) - start
    words = " x ".join(f"{size:,}" for size in shape)
    if declared > LARGEST_FILE:
        raise InputError(
            f"{what} claims to hold {words} elements, more than the {LARGEST_FILE:,} bytes allowed"
        )
    if seen < declared:
        raise InputError(f"{what} is truncated: its header says {words} bytes, {seen:,} are there")
    if seen > declared:
        raise InputError(
            f"{what} has {seen - declared:,} bytes after its {words} elements: it is not a plain IDX file"
        )
    if not declared:
        raise InputError(f"{what} holds nothing: its header says {words} elements")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape).copy()


def _shape(data: bytes, what: str, dimensions: int) -> tuple[int, ...]:
    """The dimensions in the header, once everything before them is as it must be."""
    if not data:
        raise InputError(f"{what} is empty")
    if data[:2] != b"\x00\x00"[: len(data)]:
        raise InputError(
            f"{what} is not an IDX file: it begins with {data[:4].hex(' ')}, "
            f"where 00 00 {_UNSIGNED_BYTE:02x} {dimensions:02x} was expected (or gzip's 1f 8b)"
        )
    if len(data) < 4:
        raise InputError(f"{what} is truncated: its header ends after {len(data)} bytes")
    code, found = data[2], data[3]
    if code != _UNSIGNED_BYTE:
        seen = _TYPES.get(code, "an unknown type")
        raise InputError(f"{what} holds {seen} (IDX type code {code:#04x}); only uint8 (0x08) is read")
    if found != dimensions:
        raise InputError(
            f"{what} has {found} dimensions where {dimensions} were expected: images have 3 and labels 1; "
            "are the files swapped?"
        )
    if len(data) < 4 + 4 * dimensions:
        raise InputError(f"{what} is truncated: its header ends after {len(data)} bytes")
    return struct.unpack_from(f">{dimensions}I", data, 4)
