"""Check what an HDF5 file claims before memory is taken for it.

A small file can claim huge arrays, and can be built so that what is in it once is read many times. So a file is read
only if it's built as nearzero's own files are: a tree of groups with arrays of numbers, and of texts, whose shapes are
fixed.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Iterator
from typing import Any

import h5py  # type: ignore[import-untyped]

from nearzero.support.memory import check_expansion
from nearzero.support.netcdf.raw import PER_TEXT, RawFile

__all__ = ["check_claims"]

NUMBERS = (h5py.h5t.INTEGER, h5py.h5t.FLOAT)
FILTERS = (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE)  # in the order in which they are applied
# bytes that any file may take in memory; the arrays of a result are copied several times
SUSPICIOUS = 20 * 10**6
LEAST_ITEM = 8  # bytes of a number: a file may ask that smaller ones are made float64
LEAST_ATTRIBUTE = 24  # bytes of an attribute in the file: 8 each for its head, its name and type, its shape
MOST_OBJECTS = 2000  # arrays and groups; the largest files that nearzero writes have some 100
# the group of a study's results whose arrays nearzero compresses; all others are whole
IN_PIECES = "/history/"
# the type of a character as HDF5 writes it: 8 bits of a byte
CHARACTER = bytes.fromhex("10000000 01000000 00000800")
NO_VALUES = (
    b"This is a netCDF dimension but not a netCDF variable"  # begins the name of a dimension without labels
)


def check_claims(file: RawFile) -> None:
    """Refuse a file that isn't built as nearzero's files are, or would take far more memory than its size suggests.

    Raises:
        InputError: says what was found.
    """
    file.check_layout()
    file.check_heaps()
    with h5py.File(io.BytesIO(file.content), "r") as opened:
        claimed, attributes = 0, 0
        arrays = []
        for name, item in _objects(file, opened):
            attributes += h5py.h5a.get_num_attrs(item.id)
            if LEAST_ATTRIBUTE * attributes > len(file.content):
                raise file.refusal("it claims more attributes than it can hold")
            claimed += sum(_attribute_memory(file, item, attribute) for attribute in _attributes(item))
            if isinstance(item, h5py.Dataset):
                claimed += _array_memory(file, name, item)
                arrays.append((name, item))
        check_expansion(file.source, claimed + len(file.content), len(file.content), SUSPICIOUS)
        for name, item in arrays:
            _check_whole(file, name, item)
            _check_pieces(file, name, item)


def _objects(file: RawFile, opened: h5py.File) -> Iterator[tuple[str, Any]]:
    """Yield the groups and arrays of a file by their paths, each once.

    Raises:
        InputError: they aren't a tree, or one is in another file.
    """
    places = {h5py.h5o.get_info(opened.id).addr}
    found = [("/", opened["/"])]
    while found:
        name, item = found.pop()
        yield name, item
        if isinstance(item, h5py.Dataset):
            continue
        for key in item:
            path = f"{name.rstrip('/')}/{key}"
            link = item.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise file.refusal(f"{path[1:81]} is in another file, which isn't read")
            if not isinstance(link, h5py.HardLink):
                raise file.refusal(f"{path[1:81]} is a link, which nearzero doesn't write")
            target = item[key]
            place = h5py.h5o.get_info(target.id).addr
            if place in places:
                raise file.refusal(f"{path[1:81]} has two names, which nearzero doesn't write")
            places.add(place)
            if len(places) > MOST_OBJECTS:
                raise file.refusal(f"it has more than {MOST_OBJECTS:,} arrays and groups")
            found.append((path, target))


def _array_memory(file: RawFile, path: str, array: h5py.Dataset) -> int:
    """Return the bytes that an array takes in memory.

    Raises:
        InputError: it's built as no array of nearzero's is.
    """
    name, kind, layout = path[1:81], array.id.get_type(), array.id.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        raise file.refusal(f"{name} is in another file, which isn't read")
    if array.shape is None or array.maxshape != array.shape:
        raise file.refusal(f"{name} has no fixed shape")
    if kind.get_class() in NUMBERS:
        whole = int(array.size) * max(int(array.dtype.itemsize), LEAST_ITEM)
        return max(whole, _piece_bytes(array) * _pieces(array))
    if not _is_text(kind):
        raise file.refusal(f"{name} has a type that nearzero doesn't write")
    if (
        layout.get_layout() != h5py.h5d.CONTIGUOUS
        or layout.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED
    ):
        raise file.refusal(f"{name} is an array of texts in pieces, which nearzero doesn't write")
    start = array.id.get_offset()
    return int(array.size) * PER_TEXT if start is None else file.texts(start, int(array.size)).memory


def _is_text(kind: Any) -> bool:
    """Return whether a type is a text of any length, of characters of one byte: HDF5 would go through larger ones."""
    is_variable = kind.get_class() == h5py.h5t.STRING and kind.is_variable_str()
    return bool(is_variable and kind.encode().endswith(CHARACTER))


def _is_plain(kind: Any) -> bool:
    """Return whether a type is a number, a text of fixed length, or a reference with its number (REFERENCE_LIST)."""
    if kind.get_class() == h5py.h5t.COMPOUND:
        members = [kind.get_member_type(index) for index in range(kind.get_nmembers())]
        return len(members) == 2 and _is_reference(members[0]) and members[1].get_class() == h5py.h5t.INTEGER
    is_fixed_text = kind.get_class() == h5py.h5t.STRING and not kind.is_variable_str()
    return kind.get_class() in NUMBERS or bool(is_fixed_text)


def _is_references(kind: Any) -> bool:
    """Return whether a type is a list of references of any length (DIMENSION_LIST)."""
    return kind.get_class() == h5py.h5t.VLEN and _is_reference(kind.get_super())


def _is_reference(kind: Any) -> bool:
    """Return whether a type is a reference to an array or a group."""
    return bool(kind.equal(h5py.h5t.STD_REF_OBJ))


def _piece_bytes(array: h5py.Dataset) -> int:
    """Return the bytes of a piece of an array that is stored in pieces, as numbers."""
    return math.prod(array.chunks) * int(array.dtype.itemsize) if array.chunks else 0


def _pieces(array: h5py.Dataset) -> int:
    """Return how many pieces an array has at most."""
    return math.prod(-(-size // piece) for size, piece in zip(array.shape, array.chunks or (), strict=False))


def _check_whole(file: RawFile, path: str, array: h5py.Dataset) -> None:
    """Refuse an array that isn't stored number by number, unless it's of a history, or of no values at all.

    So what is read of a file, and the work on it, grow with the size of the file.

    Raises:
        InputError: there is less of it in the file than it claims.
    """
    layout = array.id.get_create_plist().get_layout()
    whole = layout == h5py.h5d.COMPACT or (
        layout == h5py.h5d.CONTIGUOUS and array.id.get_offset() is not None
    )
    if whole or not array.size or path.startswith(IN_PIECES):
        return
    if not (h5py.h5a.exists(array.id, b"NAME") and bytes(array.attrs["NAME"]).startswith(NO_VALUES)):
        raise file.refusal(f"{path[1:81]} isn't stored whole, as nearzero stores it")


def _check_pieces(file: RawFile, path: str, array: h5py.Dataset) -> None:
    """Refuse pieces of an array that are compressed in another way than nearzero's, or to more than their size.

    HDF5 takes the memory that a compressed piece asks for, whatever the size of the piece.

    Raises:
        InputError: there are such pieces.
    """
    if not array.chunks:
        return
    name, layout = path[1:81], array.id.get_create_plist()
    filters = [layout.get_filter(index)[0] for index in range(layout.get_nfilters())]
    if filters not in ([], [FILTERS[0]], [FILTERS[1]], [*FILTERS]):
        raise file.refusal(f"{name} is compressed in a way that nearzero doesn't use")
    if array.id.get_num_chunks() > _pieces(array):
        raise file.refusal(f"{name} has more pieces than fit into its shape")
    whole = _piece_bytes(array)

    def check(piece: Any) -> None:
        stored = file.content[piece.byte_offset : piece.byte_offset + piece.size]
        if len(stored) < piece.size:
            raise file.refusal(f"{name} ends outside the file")
        # a bit of the mask says that a filter isn't applied
        deflated = FILTERS[1] in filters and not piece.filter_mask & 1 << filters.index(FILTERS[1])
        if deflated and len(zlib.decompressobj().decompress(stored, whole + 1)) > whole:
            raise file.refusal(f"a piece of {name} expands to more than its size")

    if array.id.get_num_chunks():
        array.id.chunk_iter(check)


def _attributes(item: Any) -> list[bytes]:
    """Return the names of the attributes of a group or an array."""
    names: list[bytes] = []
    h5py.h5a.iterate(item.id, names.append)
    return names


def _attribute_memory(file: RawFile, item: Any, name: bytes) -> int:
    """Return the bytes that an attribute takes in memory.

    Raises:
        InputError: it has a type that nearzero doesn't write, or claims more than the file holds.
    """
    attribute = h5py.h5a.open(item.id, name)
    kind, shape = attribute.get_type(), attribute.shape
    count = 0 if shape is None else math.prod(shape)
    size = count * int(kind.get_size())
    if size > len(file.content):
        raise file.refusal(f"its attribute {name.decode(errors='replace')[:80]!r} is longer than the file")
    if kind.committed() or not (_is_plain(kind) or _is_text(kind) or _is_references(kind)):
        raise file.refusal(
            f"its attribute {name.decode(errors='replace')[:80]!r} has a type that nearzero doesn't write"
        )
    if kind.get_class() == h5py.h5t.VLEN:
        return file.texts_of_attribute(name, count, kind.get_super().get_size()).memory if count else 0
    if _is_text(kind):
        return file.texts_of_attribute(name, count).memory if count else 0
    return count * PER_TEXT + 5 * size
