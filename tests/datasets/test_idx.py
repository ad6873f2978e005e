"""The parser: right arrays from right files, and one clear line for all other files."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearzero.datasets.idx import LARGEST_FILE, gunzip, is_gzip, parse_idx
from nearzero.errors import InputError


def header(*sizes: int, code: int = 8, dimensions: int | None = None) -> bytes:
    count = len(sizes) if dimensions is None else dimensions
    return bytes([0, 0, code, count]) + struct.pack(f">{len(sizes)}I", *sizes)


def test_an_array_comes_back_as_it_went_in():
    data = header(2, 3, 4) + bytes(range(24))
    array = parse_idx(data, "f", dimensions=3)
    assert array.dtype == np.uint8
    assert array.flags.c_contiguous
    assert array.flags.writeable
    np.testing.assert_array_equal(array, np.arange(24).reshape(2, 3, 4))
    np.testing.assert_array_equal(parse_idx(header(3) + b"\7\1\2", "f", dimensions=1), [7, 1, 2])


@pytest.mark.parametrize(
    ("data", "dimensions", "message"),
    [
        (b"", 3, "f is empty"),
        (b"<htm", 3, "f is not an IDX file: it begins with 3c 68 74 6d, where 00 00 08 03 was expected"),
        (b"\1", 3, "f is not an IDX file: it begins with 01"),
        (b"\0", 3, "f is truncated: its header ends after 1 bytes"),
        (b"\0\0\x08", 1, "f is truncated: its header ends after 3 bytes"),
        (header(1, 1, 1, code=0x0D) + b"1234", 3, r"f holds float32 \(IDX type code 0x0d\); only uint8"),
        (header(1, code=0x77) + b"1", 1, "f holds an unknown type"),
        (header(3) + b"123", 3, "f has 1 dimensions instead of 3: .* are the files swapped"),
        (header(5, 5, dimensions=3), 3, "f is truncated: its header ends after 12 bytes"),
        (header(2, 3, 4) + bytes(23), 3, "f is truncated: its header says 2 x 3 x 4 bytes, but it has 23"),
        (header(60000, 28, 28), 3, "says 60,000 x 28 x 28 bytes, but it has 0"),
        (header(2, 3, 4) + bytes(25), 3, "f has 1 bytes after its 2 x 3 x 4 elements"),
        (header(0), 1, "f holds nothing: its header says 0 elements"),
        (header(7, 0, 28), 3, "f holds nothing: its header says 7 x 0 x 28 elements"),
        (
            header(1 << 20, 1 << 10, 1 << 10),
            3,
            "f claims to hold 1,048,576 x 1,024 x 1,024 elements, more than",
        ),
        (header(*(3 * [0xFFFFFFFF])), 3, "f claims to hold 4,294,967,295 x"),
    ],
)
def test_a_bad_file_gets_one_clear_line(data: bytes, dimensions: int, message: str):
    with pytest.raises(InputError, match=message) as caught:
        parse_idx(data, "f", dimensions)
    assert "\n" not in str(caught.value)


prefixes = st.sampled_from([b"", b"\0\0", b"\0\0\x08", b"\0\0\x08\1", b"\0\0\x08\3", b"\0\0\x08\3\0\0\0\2"])


@given(prefixes, st.binary(max_size=64), st.sampled_from([1, 3]))
def test_no_bytes_raise_anything_else(prefix: bytes, rest: bytes, dimensions: int):
    data = prefix + rest
    try:
        array = parse_idx(data, "f", dimensions)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert array.ndim == dimensions
        assert header(*array.shape) + array.tobytes() == data


@given(st.binary(max_size=64), st.integers(0, 40), st.integers(0, 255))
def test_no_damage_to_a_gzip_file_raises_anything_else(content: bytes, place: int, value: int):
    packed = bytearray(gzip.compress(content, mtime=0))
    packed[place % len(packed)] = value
    for damaged in (bytes(packed), bytes(packed[:place])):
        try:
            seen = gunzip(damaged, "f")
        except InputError as error:
            assert "f is a broken gzip file" in str(error)  # noqa: PT017
        else:
            assert seen == content or not damaged


def test_gzip_is_known_by_its_content():
    packed = gzip.compress(b"abc")
    assert is_gzip(packed)
    assert not is_gzip(b"\0\0\x08\3")
    assert gunzip(packed, "f") == b"abc"


def test_a_gzip_file_may_not_unpack_to_more_than_the_limit():
    packed = gzip.compress(bytes(5_000_000))
    assert len(gunzip(packed, "f", limit=5_000_000)) == 5_000_000
    with pytest.raises(InputError, match="f unpacks to more than 4,999,999 bytes"):
        gunzip(packed, "f", limit=4_999_999)


def test_gzip_with_something_after_it_is_refused():
    with pytest.raises(InputError, match="f is a broken gzip file"):
        gunzip(gzip.compress(b"abc") + b"more", "f")


def test_a_hostile_header_allocates_nothing():
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="truncated"):
            parse_idx(header(LARGEST_FILE // 1024, 32, 32), "f", 3)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
