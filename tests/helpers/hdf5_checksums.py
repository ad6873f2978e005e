"""Checksums inside HDF5 files: a stranger who changes a file makes them fit, and damage that they show isn't looked at.

`checked_parts` finds the parts of a whole file that carry a checksum, and `fitted` makes those of a changed file fit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Part", "checked_parts", "fitted", "lookup3", "places"]

WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Part:
    """A part of a file, and where its checksum lies; in a part that holds its own checksum, as 0 while it's taken."""

    begin: int
    end: int
    checksum: int

    def sum(self, content: bytes | bytearray) -> bytes:
        """Return the checksum that fits a content."""
        part = bytearray(content[self.begin : self.end])
        at = self.checksum - self.begin
        if at < len(part):
            part[at : at + 4] = bytes(4)
        return lookup3(bytes(part)).to_bytes(4, "little")

    def fits(self, content: bytes | bytearray) -> bool:
        """Return whether the checksum in a content fits it."""
        return content[self.checksum : self.checksum + 4] == self.sum(content)


def fitted(content: bytes, original: bytes, parts: Sequence[Part]) -> bytes:
    """Return a changed content in which the checksums of changed parts fit, if nothing was moved."""
    if len(content) != len(original):
        return content
    changed = bytearray(content)
    for part in parts:
        if content[part.begin : part.end] != original[part.begin : part.end]:
            changed[part.checksum : part.checksum + 4] = part.sum(changed)
    return bytes(changed)


def checked_parts(content: bytes) -> list[Part]:
    """Return the parts of a whole HDF5 file that carry a checksum: headers, their blocks, trees and heaps."""
    return [part for part in _candidates(content) if part.end + 4 <= len(content) and part.fits(content)]


def places(content: bytes, signature: bytes) -> Iterator[int]:
    """Yield the places of some bytes in a content."""
    at = content.find(signature)
    while at >= 0:
        yield at
        at = content.find(signature, at + 1)


def _number(content: bytes, at: int, size: int) -> int:
    return int.from_bytes(content[at : at + size], "little")


def _after(begin: int, size: int) -> Part:
    return Part(begin, begin + size, begin + size)


def _candidates(content: bytes) -> Iterator[Part]:
    for at in places(content, b"OHDR"):  # the header of an object: flags say what stands before its size
        flags = content[at + 5]
        size_at = at + 6 + 16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1)
        width = 1 << (flags & 3)
        yield _after(at, size_at + width + _number(content, size_at, width) - at)
    for at in places(content, b"OCHK"):  # a block that continues a header, which says address and size
        for told in places(content, at.to_bytes(8, "little")):
            yield _after(at, max(_number(content, told + 8, 8) - 4, 0))
    for at in places(
        content, b"BTHD"
    ):  # a tree: the size of a record, the first leaf and its number of records
        yield _after(at, 34)
        size, leaf, count = (
            _number(content, at + place, width) for place, width in ((10, 2), (16, 8), (24, 2))
        )
        yield _after(leaf, 6 + size * count)
    for at in places(content, b"FRHP"):
        yield _after(at, 142)
    for at in places(
        content, b"FHDB"
    ):  # a block of a heap, which says the width of places and the least size
        heap = _number(content, at + 5, 8)
        width, least = (_number(content, heap + 128, 2) + 7) // 8, _number(content, heap + 112, 8)
        for power in range(6):
            yield Part(at, at + (least << power), at + 13 + width)


def lookup3(data: bytes) -> int:
    """Return Bob Jenkins' hash lookup3 of a content, as HDF5 takes it.

    Source: https://burtleburtle.net/bob/c/lookup3.c, hashlittle with 0.
    """
    a = b = c = (0xDEADBEEF + len(data)) & WORD
    if not data:
        return c
    rest = (len(data) - 1) // 12 * 12
    for x, y, z in struct.iter_unpack("<3I", data[:rest]):
        a, b, c = _mix((a + x) & WORD, (b + y) & WORD, (c + z) & WORD)
    x, y, z = struct.unpack("<3I", data[rest:].ljust(12, b"\0"))
    return _final((a + x) & WORD, (b + y) & WORD, (c + z) & WORD)


def _turn(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & WORD


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    a, c = ((a - c) & WORD) ^ _turn(c, 4), (c + b) & WORD
    b, a = ((b - a) & WORD) ^ _turn(a, 6), (a + c) & WORD
    c, b = ((c - b) & WORD) ^ _turn(b, 8), (b + a) & WORD
    a, c = ((a - c) & WORD) ^ _turn(c, 16), (c + b) & WORD
    b, a = ((b - a) & WORD) ^ _turn(a, 19), (a + c) & WORD
    c, b = ((c - b) & WORD) ^ _turn(b, 4), (b + a) & WORD
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    c = ((c ^ b) - _turn(b, 14)) & WORD
    a = ((a ^ c) - _turn(c, 11)) & WORD
    b = ((b ^ a) - _turn(a, 25)) & WORD
    c = ((c ^ b) - _turn(b, 16)) & WORD
    a = ((a ^ c) - _turn(c, 4)) & WORD
    b = ((b ^ a) - _turn(a, 14)) & WORD
    return ((c ^ b) - _turn(b, 24)) & WORD
