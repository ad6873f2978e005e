"""Read bytes of HDF5 files of strangers that the HDF5 library takes on trust.

The format: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nearzero.errors import InputError

__all__ = ["RawFile", "Texts"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
NO_ADDRESS = b"\xff" * 8
HEAP = b"GCOL\x01"  # the head of a collection of texts: a signature and a version
HEAP_HEADER, OBJECT_HEADER = 16, 16  # bytes
ATTRIBUTE_HEAP = b"FRHP\0"  # the head of a heap of attributes or links
REFERENCE = np.dtype(
    [("length", "<u4"), ("address", "<u8"), ("index", "<u4")]
)  # an element of an array of texts
VARIABLE_LENGTH = 9  # the class of a type
BLOCK = 1 << 20  # places that are looked at together
PER_TEXT = 128  # bytes of the objects that Python makes of a short text


@dataclass(frozen=True)
class Texts:
    """The number of texts in an array, and the length of the longest and of all, in bytes."""

    count: int
    longest: int
    total: int

    @property
    def memory(self) -> int:
        """Return the bytes that they take in memory: as objects, and as an array of texts of one length in UTF-32."""
        return self.count * PER_TEXT + 5 * self.total + 4 * self.count * self.longest


@dataclass(frozen=True)
class RawFile:
    """Hold the bytes of an HDF5 file.

    Args:
        content: the bytes.
        source: the file, for messages.
        remedy: what to do about a file that can't be read.
    """

    content: bytes
    source: object
    remedy: str

    def refusal(self, why: str) -> InputError:
        """Return the error of a file that can't be read."""
        return InputError(f"{self.source} can't be read ({why}); {self.remedy}")

    def check_layout(self) -> None:
        """Refuse what no file of nearzero begins with, and heaps of attributes that are compressed.

        Files begin with the HDF5 signature. Messages that several objects share would be in an extension of the
        first block, and compressed heaps would hide attributes from `texts_of_attribute`.

        Raises:
            InputError: the file is none, or has such a part.
        """
        content = self.content
        if not content.startswith(SIGNATURE):
            raise self.refusal("it isn't a netCDF 4 file")
        if content[8] > 1 and content[20:28] != NO_ADDRESS:
            raise self.refusal("its first block has an extension, which nearzero doesn't write")
        at = content.find(ATTRIBUTE_HEAP)
        while at >= 0:
            if content[at + 7 : at + 9] != b"\0\0":
                raise self.refusal("its attributes are compressed, which nearzero doesn't write")
            at = content.find(ATTRIBUTE_HEAP, at + 1)

    def check_heaps(self) -> None:
        """Refuse texts in which the HDF5 library would go round for ever, and can't be interrupted.

        Texts of any length are in global heaps: collections of objects, each of which says its size. The library adds
        the sizes up until it's past the end of the collection, and never gets there if one is 0 (modulo 2^64).

        Raises:
            InputError: there is such a size.
        """
        content = self.content
        start = content.find(HEAP)
        while start >= 0:
            at, end = start + HEAP_HEADER, start + int.from_bytes(content[start + 8 : start + 16], "little")
            while at + OBJECT_HEADER <= min(end, len(content)):
                index = int.from_bytes(content[at : at + 2], "little")
                size = int.from_bytes(content[at + 8 : at + 16], "little")
                # object 0 is the free space, whose size includes its header; the others are padded to 8 bytes
                step = (size if index == 0 else OBJECT_HEADER + _padded(size)) % 2**64
                if step == 0:
                    raise self.refusal("the size of a text in it is damaged")
                at += step
            start = content.find(HEAP, start + 1)

    def texts(self, start: int, count: int, unit: int = 1) -> Texts:
        """Return the lengths of the texts of an array, whose elements begin at a place of the file.

        Args:
            start: the place.
            count: how many there are.
            unit: the bytes of a character, or of an element of another type.

        Raises:
            InputError: one is longer than the file, for which HDF5 would take memory before it looks for the text, or
                the array ends outside the file.
        """
        if start + count * REFERENCE.itemsize > len(self.content):
            raise self.refusal("an array of texts ends outside the file")
        lengths = np.frombuffer(self.content, REFERENCE, count, start)["length"].astype(np.int64) * unit
        longest = int(lengths.max(initial=0))
        if longest > len(self.content):
            raise self.refusal("the length of a text in it is damaged")
        return Texts(count, longest, int(lengths.sum()))

    def texts_of_attribute(self, name: bytes, count: int, unit: int = 1) -> Texts:
        """Return the lengths of the texts of an attribute, the greatest if several attributes have its name.

        HDF5 gives no place of an attribute, but its message is in the file as a whole, and can be found.

        Raises:
            InputError: a text is longer than the file, or there is no such attribute.
        """
        found = [self.texts(at, count, unit) for at in self._attributes.get((name, count), ())]
        if not found:
            raise self.refusal(f"its attribute {name.decode(errors='replace')[:80]!r} is damaged")
        return max(found, key=lambda texts: texts.memory)

    @cached_property
    def _attributes(self) -> Mapping[tuple[bytes, int], list[int]]:
        """Return where the elements of attributes of texts may begin, by name and number of elements.

        All bytes that HDF5 would take for such an attribute are among them, and few others.
        """
        found = defaultdict(list)
        for start in range(0, len(self.content), BLOCK):
            for at in self._messages(start):
                for key, place in self._attribute(int(at)):
                    found[key].append(place)
        return found

    def _messages(self, start: int) -> NDArray[np.int64]:
        """Return the places in a block at which the message of an attribute of variable length may begin.

        A message is version, flags, three sizes of 2 bytes (of name, type and shape), from version 3 on the encoding of
        the name; then name, type, shape and elements, which version 1 pads to 8 bytes each.
        """
        content = np.frombuffer(self.content, np.uint8)
        block = content[start : start + BLOCK]
        places: NDArray[np.int64] = start + np.flatnonzero((block >= 1) & (block <= 3))
        places = places[places + 16 < len(content)]
        # flags mean something from version 2 on; an attribute whose type is elsewhere in the file is refused before
        places = places[(content[places] == 1) | (content[places + 1] == 0)]
        name = content[places + 2].astype(np.int64) + 256 * content[places + 3].astype(np.int64)
        name = np.where(content[places] == 1, (name + 7) // 8 * 8, name)
        types = places + 8 + (content[places] == 3) + name
        inside = np.flatnonzero((types < len(content)) & (name > 0))
        kept: NDArray[np.int64] = places[inside[content[types[inside]] & 0x0F == VARIABLE_LENGTH]]
        return kept

    def _attribute(self, at: int) -> Iterator[tuple[tuple[bytes, int], int]]:
        """Yield name and number of elements of the attribute whose message begins here, and where these begin."""
        content, version = self.content, self.content[at]
        sizes = [int.from_bytes(content[place : place + 2], "little") for place in (at + 2, at + 4, at + 6)]
        begin = at + (9 if version == 3 else 8)
        name = content[begin : begin + sizes[0]].split(b"\0")[0]
        after_name, after_type, after_shape = (_padded(size) if version == 1 else size for size in sizes)
        shape = begin + after_name + after_type
        if shape + 4 <= len(content) and content[shape] in (1, 2):
            dimensions = shape + (8 if content[shape] == 1 else 4)
            rank = content[shape + 1]
            lengths = np.frombuffer(content[dimensions : dimensions + 8 * rank].ljust(8 * rank, b"\0"), "<u8")
            yield (name, math.prod(map(int, lengths))), shape + after_shape


def _padded(size: int) -> int:
    """Return a size rounded up to 8 bytes."""
    return (size + 7) // 8 * 8
