"""Mutated files: seeded changes of bytes, of texts and of values, as hostile or damaged files have them."""

from __future__ import annotations

import io
import math
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import numpy as np

__all__ = ["mutated", "with_other_values"]

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)
WORDS = (
    *(
        "0",
        "-1",
        "1e308",
        "-1e308",
        "nan",
        "inf",
        "1" * 400,
        "9" * 19,
        "true",
        "null",
        "[]",
        "{}",
        '""',
        "''",
    ),
    *(
        '"' + "a" * 5000 + '"',
        "[" * 2000,
        "\x1b[31m",
        "\x00",
        "\ufeff",
        "\u202e",
        "../../etc/passwd",
        "[/b]",
        "\n",
        "=",
    ),
)
VALUES = (0.0, -0.0, 1.0, -1.0, 1e308, -1e308, 5e-324, 1e-320, math.nan, math.inf, -math.inf)
OF_THE_FORMAT = (
    "CLASS",
    "NAME",
    "DIMENSION_LIST",
    "REFERENCE_LIST",
    "_Netcdf4",
)  # begin names of its attributes
Mutation = Callable[[bytearray, random.Random, Sequence[bytes]], None]


def mutated(content: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Return a content after one to six changes, each drawn at random.

    Args:
        content: the bytes of a file that can be read.
        rng: all draws are from it.
        others: contents of other files, from which pieces are taken.
    """
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(MUTATIONS)(changed, rng, others)
    return bytes(changed)


def with_other_values(content: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Return a whole netCDF file in which one to three attributes or arrays have other values, or are gone.

    Args:
        content: the bytes of a netCDF file.
        rng: all draws are from it.
        others: not used.
    """
    file = io.BytesIO(content)
    with h5py.File(file, "r+") as groups:
        names = ["/"]
        groups.visit(names.append)
        for _ in range(rng.choice((1, 1, 2, 3))):
            node: Any = groups[rng.choice(names)]
            own = [name for name in node.attrs if not name.startswith(OF_THE_FORMAT)]
            if own and (rng.random() < 0.5 or not isinstance(node, h5py.Dataset)):
                name = rng.choice(own)
                if rng.random() < 0.3:
                    del node.attrs[name]
                else:
                    other = _other(np.asarray(node.attrs[name]), rng)
                    kind = h5py.string_dtype() if other.dtype == object else None
                    node.attrs.create(name, other, dtype=kind)
            elif isinstance(node, h5py.Dataset):
                node[...] = _other(np.asarray(node[()]), rng)
    return file.getvalue()


def _other(values: np.ndarray[Any, Any], rng: random.Random) -> np.ndarray[Any, Any]:
    """Return an array in which one value, or each, is another: at the edge of its type, or of no sense."""
    if values.dtype.kind == "f":
        value: Any = rng.choice(VALUES)
    elif values.dtype.kind in "iu":
        value = rng.choice((np.iinfo(values.dtype).min, np.iinfo(values.dtype).max, 0, 1))
    else:
        values, value = values.astype(object), rng.choice(("", " ", *WORDS)).replace("\x00", "")
    changed = values.copy()
    with np.errstate(over="ignore"):  # 1e308 is infinite as float32
        changed.flat[... if not values.size or rng.random() < 0.3 else rng.randrange(values.size)] = value
    return changed


def _place(content: bytearray, rng: random.Random) -> int:
    """Return a place, more often near the beginning, where headers are."""
    end = len(content) if rng.random() < 0.5 else min(len(content), 512)
    return rng.randrange(max(end, 1))


def _flip(content: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    if content:
        content[_place(content, rng)] ^= 1 << rng.randrange(8)


def _byte(content: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    if content:
        content[_place(content, rng)] = rng.randrange(256)


def _cut(content: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    del content[_place(content, rng) :]


def _remove(content: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    place = _place(content, rng)
    del content[place : place + rng.choice((1, 2, 4, 8, 64, 1024))]


def _number(content: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    """Write a number at the edge of its type over a length, a size or a value."""
    width, order = rng.choice(((1, "B"), (2, "H"), (4, "I"), (8, "Q"))), rng.choice("<>")
    value = rng.choice(NUMBERS) & ((1 << (8 * width[0])) - 1)
    place = _place(content, rng)
    content[place : place + width[0]] = struct.pack(order + width[1], value)


def _double(content: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    place, width = _place(content, rng), rng.choice((1, 8, 64, 1024))
    content[place:place] = content[place : place + width] * rng.choice((1, 2, 20))


def _splice(content: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    other = rng.choice([bytes(content), *others]) or b"\0"
    begin, width = rng.randrange(len(other)), rng.choice((4, 16, 256, len(other)))
    place = _place(content, rng)
    content[place : place + (width if rng.random() < 0.5 else 0)] = other[begin : begin + width]


def _word(content: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    """Write a word over another: a key, a number or a text of TOML, JSON or a header."""
    place = _place(content, rng)
    end = place
    while end < len(content) and end < place + 40 and chr(content[end]) not in " ,\n=]}:\"'":
        end += 1
    content[place:end] = rng.choice(WORDS).encode()


def _line(content: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    """Leave out, repeat or move a line."""
    lines = bytes(content).split(b"\n")
    line = lines.pop(rng.randrange(len(lines)))
    for _ in range(rng.choice((0, 1, 2))):
        lines.insert(rng.randrange(len(lines) + 1), line)
    content[:] = b"\n".join(lines)


MUTATIONS: tuple[Mutation, ...] = (_flip, _byte, _cut, _remove, _number, _double, _splice, _word, _line)
