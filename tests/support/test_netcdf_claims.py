"""Files of results from strangers that claim more than they hold: refused in a line, before memory is taken."""

from __future__ import annotations

import io
import resource
import zlib
from collections.abc import Callable
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
import xarray as xr
from hdf5_checksums import checked_parts, fitted, places

from nearzero.errors import InputError
from nearzero.support.netcdf import load_netcdf, netcdf_content
from nearzero.support.netcdf.raw import RawFile

TEXT = h5py.string_dtype()
MOST_KIBIBYTES = 100 * 2**10


def built(write: Callable[[h5py.File], Any], **options: Any) -> bytearray:
    """Return an HDF5 file with an array x of three numbers, and what a function writes into it."""
    file = io.BytesIO()
    with h5py.File(file, "w", **options) as content:
        content["x"] = np.arange(3.0)
        write(content)
    return bytearray(file.getvalue())


def refused(content: bytes, why: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=why) as error:
        load_netcdf(bytes(content), "a.nc", "delete it")
    assert "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_KIBIBYTES


# --- numbers ---


def test_an_array_of_which_nothing_is_stored() -> None:
    def write(file: h5py.File) -> None:
        file.create_dataset("y", (10**9,), "i1", chunks=(1 << 16,), compression="gzip")

    # the file may ask that small numbers are made float64
    refused(built(write), r"a\.nc, a file of 0 MB, would take 8\.0 GB of memory")


def test_a_piece_that_is_larger_than_its_array() -> None:
    def write(file: h5py.File) -> None:
        file.create_dataset("y", (4,), maxshape=(10**9,), dtype="f8", chunks=(10**8,))

    refused(built(write), r"a\.nc can't be read \(y has no fixed shape\); delete it")


def test_arrays_that_a_dimension_without_limit_would_fill() -> None:
    """Two dimensions of 20,000 make a stored array of one number one of 3.2 GB."""

    def write(file: h5py.File) -> None:
        for name in "ab":
            file.create_dataset(name, (20_000,), "f8", maxshape=(None,), chunks=(10_000,)).make_scale(name)
        y = file.create_dataset("y", (1, 1), "f8", maxshape=(None, None), chunks=(1, 1))
        y.dims[0].attach_scale(file["a"])
        y.dims[1].attach_scale(file["b"])

    refused(built(write), "has no fixed shape")


@pytest.mark.parametrize("times", [1, 2])
def test_a_piece_that_expands_to_more_than_its_size(times: int) -> None:
    packed = bytes(2**24)
    for _ in range(times):
        packed = zlib.compress(packed, 9)

    def write(file: h5py.File) -> None:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_chunk((8,))
        for _ in range(times):
            layout.set_deflate(9)
        space = h5py.h5s.create_simple((8,))
        group = file.create_group("history")
        array = h5py.h5d.create(group.id, b"y", h5py.h5t.IEEE_F64LE, space, layout)
        array.write_direct_chunk((0,), packed)

    why = {
        1: r"a piece of history/y expands to more than its size",
        2: r"history/y is compressed in a way that nearzero doesn't use",
    }
    refused(built(write), why[times])


def test_pieces_as_nearzero_writes_them_are_read() -> None:
    history = xr.Dataset({"x": (("run", "step"), np.arange(30.0).reshape(5, 6))})
    tree = xr.DataTree.from_dict({"/": xr.Dataset(), "/history": history})
    packed = {"/history": {"x": {"zlib": True, "shuffle": True, "chunksizes": (2, 4)}}}
    read = load_netcdf(bytes(netcdf_content(tree, encoding=packed)), "a.nc", "delete it")
    xr.testing.assert_identical(read["history"].to_dataset(), history)


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"chunks": (10,)}, {}])
def test_numbers_that_are_not_stored_one_by_one(options: dict[str, Any]) -> None:
    """Arrays of few bytes would be work without limit: rows of tables, curves, resamples."""

    def write(file: h5py.File) -> None:
        file.create_dataset("y", (1000,), "f8", data=np.zeros(1000) if options else None, **options)

    refused(built(write), r"a\.nc can't be read \(y isn't stored whole, as nearzero stores it\); delete it")


def test_dimensions_without_labels_have_no_values() -> None:
    data = xr.Dataset(
        {"x": ("item", np.zeros(3))}
    )  # the file says that there are three, and stores no labels
    read = load_netcdf(bytes(netcdf_content(data)), "a.nc", "delete it").to_dataset()
    xr.testing.assert_identical(read, data)


def test_a_history_that_expands_to_more_than_results_do() -> None:
    def write(file: h5py.File) -> None:
        file.create_group("history").create_dataset("y", (3 * 10**6,), "f8", compression="gzip")

    refused(built(write), r"a\.nc, a file of 0 MB, would take 24 MB of memory")


def test_pieces_beyond_the_shape_of_an_array() -> None:
    """HDF5 keeps a piece for each place that an array had when it was larger."""

    def write(file: h5py.File) -> None:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_chunk((8,))
        space = h5py.h5s.create_simple((64,))
        group = file.create_group("history")
        h5py.h5d.create(group.id, b"y", h5py.h5t.IEEE_F64LE, space, layout)
        group["y"][:] = 1.0

    content = built(write)
    refused(with_shape(content, 64, 8), "history/y has more pieces than fit into its shape")


def with_shape(content: bytearray, old: int, new: int) -> bytearray:
    """Return a file in which the only array with a dimension of an old length has a new one, as its limit too."""
    lengths = (
        old.to_bytes(8, "little") * 2
        if content.count(old.to_bytes(8, "little") * 2)
        else old.to_bytes(8, "little")
    )
    assert content.count(lengths) == 1
    return content.replace(lengths, new.to_bytes(8, "little") * (len(lengths) // 8))


def test_pieces_that_end_outside_the_file() -> None:
    def write(file: h5py.File) -> None:
        file.create_group("history").create_dataset("y", data=np.arange(64.0), chunks=(64,))

    content = built(write)
    with h5py.File(io.BytesIO(content), "r") as file:
        place = file["history/y"].id.get_chunk_info(0).byte_offset
    at = content.index(place.to_bytes(8, "little"))
    content[at : at + 8] = (len(content) - 16).to_bytes(8, "little")
    refused(content, "history/y ends outside the file")


@pytest.mark.parametrize(("dimension", "most"), [("family", 64), ("side", 2), ("fraction", 100)])
def test_more_labels_than_a_result_has(dimension: str, most: int) -> None:
    """Each of them is a panel or a test, so that few bytes would be a long time."""
    for size in (most, most + 1):
        data = xr.Dataset({"x": (dimension, np.zeros(size))}, {dimension: np.arange(size)})
        content = bytes(netcdf_content(data))
        if size == most:
            xr.testing.assert_identical(load_netcdf(content, "a.nc", "delete it").to_dataset(), data)
    refused(content, rf"it has {most + 1} labels on the dimension {dimension}; a result has at most {most}\)")


# --- texts ---


@pytest.mark.parametrize(
    "options", [{"chunks": (1000,)}, {"chunks": (1000,), "compression": "gzip"}, {"fillvalue": "a" * 100}]
)
@pytest.mark.parametrize("filled", [False, True])
def test_texts_in_pieces(options: dict[str, Any], filled: bool) -> None:
    def write(file: h5py.File) -> None:
        file.create_dataset("y", (10**6,), TEXT, **options)
        if filled:
            file["y"][:2000] = "a"

    refused(built(write), "y is an array of texts in pieces, which nearzero doesn't write")


def test_texts_of_which_nothing_is_stored() -> None:
    refused(built(lambda file: file.create_dataset("y", (10**8,), TEXT)), r"would take 12\.8 GB of memory")


def with_texts(texts: list[str]) -> tuple[bytearray, int]:
    """Return a file with a dimension of texts, and the place of its elements: a length, an address, a number."""

    def write(file: h5py.File) -> None:
        file.create_dataset("network", data=np.array(texts, object), dtype=TEXT).make_scale()

    content = built(write)
    with h5py.File(io.BytesIO(content), "r") as file:
        start = file["network"].id.get_offset()
    assert int.from_bytes(content[start : start + 4], "little") == len(texts[0])
    return content, start


def test_a_text_longer_than_its_file() -> None:
    content, start = with_texts(["relu", "abs"])
    read = load_netcdf(bytes(content), "a.nc", "delete it").to_dataset()
    assert read.network.values.tolist() == ["relu", "abs"]
    content[start : start + 4] = (2**31).to_bytes(4, "little")
    refused(content, r"a\.nc can't be read \(the length of a text in it is damaged\); delete it")


def test_one_text_that_is_in_an_array_many_times() -> None:
    content, start = with_texts(["a" * 50_000] + ["b"] * 20_000)
    first = content[start : start + 16]
    content[start : start + 16 * 20_001] = first * 20_001
    refused(content, r"would take 9\.0 GB of memory")


def test_short_texts_beside_a_long_one() -> None:
    """An array of texts gives each the room of the longest."""
    content, _ = with_texts(["a" * 50_000] + ["b"] * 20_000)
    refused(content, r"would take 4\.0 GB of memory")


def test_texts_that_end_outside_the_file() -> None:
    content, start = with_texts(["relu", "abs"])
    refused(content[: start + 8], r"a\.nc can't be read")
    with pytest.raises(InputError, match=r"an array of texts ends outside the file"):
        RawFile(bytes(content), "a.nc", "delete it").texts(len(content) - 20, 2)


# --- attributes ---


def with_attribute(value: object, more: int = 0, **options: Any) -> bytearray:
    def write(file: h5py.File) -> None:
        file["x"].attrs["text"] = value
        for number in range(more):
            file["x"].attrs[f"other {number}"] = number

    return built(write, **options)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("value", ["relu", ["relu", "leaky"], ["é" * 2000]])
@pytest.mark.parametrize("more", [0, 20])
def test_texts_of_attributes_are_found(libver: str, value: Any, more: int) -> None:
    """In the headers of objects as well as in heaps, to which HDF5 moves attributes if there are many."""
    value = value if isinstance(value, str) else np.array(value, object)
    content = with_attribute(value, more, libver=libver)
    texts = RawFile(bytes(content), "a.nc", "delete it").texts_of_attribute(b"text", np.size(value))
    lengths = [len(each.encode()) for each in np.atleast_1d(value).tolist()]
    assert (texts.count, texts.longest, texts.total) == (len(lengths), max(lengths), sum(lengths))
    load_netcdf(bytes(content), "a.nc", "delete it")


def test_a_text_of_an_attribute_longer_than_its_file() -> None:
    content = with_attribute("relu")
    heap = content.index(b"GCOL\x01").to_bytes(8, "little")
    at = content.index(heap + (1).to_bytes(4, "little"))
    assert content[at - 4 : at] == b"\4\0\0\0"
    content[at - 4 : at] = (2**31).to_bytes(4, "little")
    refused(content, r"a\.nc can't be read \(the length of a text in it is damaged\); delete it")


@pytest.mark.parametrize("place", ["attribute", "array"])
def test_texts_of_characters_that_are_larger_than_a_byte(place: str) -> None:
    """HDF5 would go through gigabytes for a few characters, and can't be interrupted."""

    def write(file: h5py.File) -> None:
        if place == "attribute":
            file["x"].attrs["words"] = "one"
        else:
            file.create_dataset("words", data=["one"], dtype=TEXT)

    whole = built(write, libver="latest")  # HDF5 trusts the types of these files, which have checksums
    content, character = bytearray(whole), bytes.fromhex("10000000 01000000 00000800")
    assert content.count(character) == 1
    content[content.find(character) + 7] = 0x40  # its size: 1 GiB and a byte
    changed = fitted(bytes(content), bytes(whole), checked_parts(bytes(whole)))
    refused(changed, "words'? has a type that nearzero doesn't write")


def test_one_text_that_is_in_an_attribute_many_times() -> None:
    content = with_attribute(np.array(["a" * 60_000] + ["b"] * 3000, object))
    at = content.index((60_000).to_bytes(4, "little"), content.index(b"text\0"))
    content[at : at + 16 * 3001] = content[at : at + 16] * 3001
    refused(content, r"would take 1\.6 GB of memory")


@pytest.mark.parametrize("value", [1.0, "relu", b"relu"])
def test_an_attribute_that_claims_more_elements_than_it_has(value: Any) -> None:
    content = built(
        lambda file: file["x"].attrs.create(
            "name", np.array([value] * 3, np.array(value).dtype if value != "relu" else object)
        )
    )
    name = content.index(b"name\0\0\0\0")
    at = content.index((3).to_bytes(8, "little"), name)
    content[at : at + 8] = (10**9).to_bytes(8, "little")
    refused(content, r"a\.nc can't be read \(")  # by HDF5, or by the count of the elements


@pytest.mark.parametrize(
    "kind", [np.dtype("i4,f8"), h5py.vlen_dtype("f8"), h5py.regionref_dtype, h5py.enum_dtype({"a": 1})]
)
def test_attributes_of_other_types(kind: np.dtype[Any]) -> None:
    content = built(lambda file: file["x"].attrs.create("a", h5py.Empty(kind)))
    refused(content, "its attribute 'a' has a type that nearzero doesn't write")


def test_attributes_that_many_arrays_share() -> None:
    """All arrays are told to have their attributes where the first has its own: few bytes become many attributes."""

    def write(file: h5py.File) -> None:
        for number in range(40):
            array = file.create_dataset(f"y{number}", data=1.0)
            for other in range(400 if number == 0 else 9):
                array.attrs[f"a{other}"] = float(other)

    content = built(write, libver="latest")
    parts = checked_parts(content)
    begins = [bytes(content[part.begin : part.begin + 4]) for part in parts]
    heaps = [part.begin for part, begin in zip(parts, begins, strict=True) if begin == b"FRHP"]
    trees = {part.begin for part, begin in zip(parts, begins, strict=True) if begin == b"BTHD"}
    with h5py.File(io.BytesIO(content), "r") as file:
        header = h5py.h5o.get_info(file["y0"].id).addr  # after that of the root, which has a heap of names
    told = [
        place for heap in heaps for place in places(content, heap.to_bytes(8, "little")) if place > header
    ]
    told = [place for place in told if int.from_bytes(content[place + 8 : place + 16], "little") in trees]
    first, *others = sorted(told)
    changed = bytearray(content)
    for place in others:
        changed[place : place + 16] = content[first : first + 16]
    changed = bytearray(fitted(bytes(changed), bytes(content), parts))
    with h5py.File(io.BytesIO(changed), "r") as file:
        assert sum(len(y.attrs) for y in file.values()) == 40 * 400
    refused(changed, "it claims more attributes than it can hold")


# --- objects ---


def test_types_of_arrays() -> None:
    for kind in (
        np.dtype("i4,f8"),
        h5py.vlen_dtype("f8"),
        np.dtype("S4"),
        h5py.enum_dtype({"a": 1}),
        h5py.ref_dtype,
    ):
        content = built(lambda file, kind=kind: file.create_dataset("y", (3,), kind))
        refused(content, "y has a type that nearzero doesn't write")


def test_groups_that_double_at_each_level() -> None:
    """Forty groups, each under two names in the one before it, are 2^40 to who follows the names."""

    def write(file: h5py.File) -> None:
        group = file.create_group("g")
        for _ in range(40):
            below = group.create_group("a")
            group["b"] = below
            group = below

    refused(built(write), "has two names, which nearzero doesn't write")


def test_a_group_within_itself() -> None:
    def write(file: h5py.File) -> None:
        file.create_group("g")["g"] = file["/"]

    refused(built(write), "g/g has two names, which nearzero doesn't write")


def test_a_link_within_the_file() -> None:
    def write(file: h5py.File) -> None:
        file["y"] = h5py.SoftLink("/x")

    refused(built(write), "y is a link, which nearzero doesn't write")


def test_more_objects_than_nearzero_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearzero.support.netcdf.claims.MOST_OBJECTS", 20)
    refused(
        built(lambda file: [file.create_group(f"g{number}") for number in range(20)]),
        "it has more than 20 arrays and groups",
    )


def test_dates_are_not_made_of_numbers() -> None:
    data = xr.Dataset({"x": ("run", [1.0, 2.0], {"units": "days since 0001-01-01"})})
    read = load_netcdf(bytes(netcdf_content(data)), "a.nc", "delete it").to_dataset()
    xr.testing.assert_identical(read, data)


def test_a_file_that_begins_with_something_else() -> None:
    """HDF5 looks for its signature at 512 and beyond, where places in the file are other ones."""
    refused(built(lambda file: None, userblock_size=512), "it isn't a netCDF 4 file")


def test_parts_that_would_hide_attributes() -> None:
    content = built(
        lambda file: [file["x"].attrs.create(f"a{number}", number) for number in range(20)], libver="latest"
    )
    at = content.index(b"FRHP\0")
    content[at + 7] = 8
    refused(content, "its attributes are compressed, which nearzero doesn't write")
    content = built(lambda file: None, libver="latest")
    content[20:28] = bytes(8)
    refused(content, "its first block has an extension, which nearzero doesn't write")
