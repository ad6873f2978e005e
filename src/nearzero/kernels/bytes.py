"""Images as bytes: what the sparse products need beside the float vectors of `simd`.

Two things are done with the bytes of images, each by one intrinsic that LLVM maps to a few instructions: blocks are
turned so that the examples of one pixel lie together; and the non-zeros of two rows are listed, eight columns at a
time and without a branch, since where an image has ink can't be predicted. What else has to do with arrays of whole
numbers is here too. As in `simd`, indices are not checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from nearzero.kernels.compile import has_feature
from nearzero.kernels.simd import INDEX, LANES, VEC, Kind, emitted, flat, further, pointer

__all__ = [
    "FIRST",
    "copy_items",
    "count_bits",
    "first_bit",
    "groups_filled",
    "list_eight",
    "prefetch",
    "store_shorts",
    "transpose_block",
]

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES, _SHORTS, _WORDS = flat(types.uint8), flat(types.uint16), flat(types.uint32)
_WHOLE = Kind(lambda a: isinstance(getattr(a, "dtype", None), types.Integer) and flat(a.dtype).fits(a))

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
# row m: the places of the bits that are set in the byte m, ascending, then the others
FIRST = np.argsort(1 - _BITS, axis=1, kind="stable").astype(np.uint32).ravel()


@emitted(_WHOLE, INDEX, _WHOLE, INDEX, INDEX, gives=types.void)
def copy_items(builder: Any, source: Any, index: Any, out: Any, at: Any, count: Any) -> None:
    """``out[at : at + count] = source[index : index + count]``, of arrays of one type of whole numbers."""
    assert source.type == out.type
    item = source.type.pointee
    where, to = pointer(builder, source, index, item), pointer(builder, out, at, item)
    cgutils.raw_memcpy(builder, to, where, count, item.width // 8)


@emitted(_SHORTS, INDEX, VEC, gives=types.void)
def store_shorts(builder: Any, data: Any, index: Any, values: Any) -> None:
    """``a[i : i + 16] = values``, of a uint16 array: the lanes hold whole numbers below 2**16."""
    whole = builder.fptosi(values, ir.VectorType(_I32, LANES))
    short = builder.trunc(whole, ir.VectorType(ir.IntType(16), LANES))
    builder.store(short, pointer(builder, data, index, short.type), align=2)


@emitted(_BYTES, INDEX, gives=types.void)
def prefetch(builder: Any, source: Any, index: Any) -> None:
    """Ask for the cache line of ``source[index]``, which need not exist."""
    where = pointer(builder, source, index, _I8)
    kinds = [ir.Constant(_I32, kind) for kind in (0, 2, 1)]  # to read, into the second-level cache, data
    signature = ir.FunctionType(ir.VoidType(), [where.type, _I32, _I32, _I32])
    ask = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    builder.call(ask, [where, *kinds])


def _permuted(builder: Any, values: Any, places: Any) -> Any:
    """values[places[k]] for each of eight k: one instruction with AVX2."""
    if has_feature("avx2"):
        kind = ir.FunctionType(values.type, [values.type, values.type])
        permute = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx2.permd")
        return builder.call(permute, [values, places])
    result = ir.Constant(values.type, ir.Undefined)
    for k in range(8):
        place = ir.Constant(_I32, k)
        value = builder.extract_element(values, builder.extract_element(places, place))
        result = builder.insert_element(result, value, place)
    return result


@emitted(_BYTES, INDEX, INDEX, INDEX, _WORDS, _WORDS, INDEX, gives=types.int64)
def list_eight(
    builder: Any, rows: Any, index: Any, stride: Any, column: Any, first: Any, entries: Any, cursor: Any
) -> Any:
    """List those of eight columns that aren't zero in both of two rows, as ``column << 16 | second << 8 | first``.

    The bytes are ``rows[index + k]`` and ``rows[index + stride + k]``, of columns column + k. Eight entries are
    written at ``entries[cursor]``, of which the first ones count. Returns how many.
    first: the table `FIRST`.
    """
    eight, bytes_ = ir.VectorType(_I32, 8), ir.VectorType(_I8, 8)
    one, two = (
        builder.zext(builder.load(pointer(builder, rows, each, bytes_), align=1), eight)
        for each in (index, builder.add(index, stride))
    )
    pixels = builder.or_(one, builder.shl(two, ir.Constant(eight, [8] * 8)))
    zeros = ir.Constant(eight, None)
    mask = builder.bitcast(builder.icmp_unsigned("!=", pixels, zeros), _I8)
    line = builder.mul(builder.zext(mask, _I64), ir.Constant(_I64, 8))
    places = builder.load(pointer(builder, first, line, eight), align=4)
    start = builder.insert_element(zeros, builder.trunc(column, _I32), ir.Constant(_I32, 0))
    columns = builder.add(places, builder.shuffle_vector(start, zeros, zeros))
    shifted = builder.shl(columns, ir.Constant(eight, [16] * 8))
    values = builder.or_(_permuted(builder, pixels, places), shifted)
    builder.store(values, pointer(builder, entries, cursor, eight), align=4)
    return builder.zext(builder.ctpop(mask), _I64)


@emitted(_BYTES, INDEX, gives=types.int64)
def groups_filled(builder: Any, rows: Any, index: Any) -> Any:
    """Which of eight groups of eight bytes, from ``rows[index]`` on, aren't all zero, as the bits of a whole number."""
    groups = ir.VectorType(_I64, 8)
    loaded = builder.load(pointer(builder, rows, index, groups), align=1)
    filled = builder.icmp_unsigned("!=", loaded, ir.Constant(groups, None))
    return builder.zext(builder.bitcast(filled, _I8), _I64)


@emitted(Kind(lambda bits: True, types.int64), gives=types.int64)
def first_bit(builder: Any, bits: Any) -> Any:
    """The place of the lowest bit of `bits`, which isn't 0."""
    return builder.cttz(bits, ir.Constant(ir.IntType(1), 1))


@emitted(Kind(lambda bits: True, types.uint64), gives=types.int64)
def count_bits(builder: Any, bits: Any) -> Any:
    """How many of the bits of `bits` are set."""
    return builder.ctpop(bits)


@emitted(_BYTES, INDEX, INDEX, _BYTES, INDEX, INDEX, gives=types.void)
def transpose_block(
    builder: Any, rows: Any, index: Any, stride: Any, out: Any, at: Any, out_stride: Any
) -> None:
    """Turn a block of 16 rows by 64 bytes: ``out[at + c * out_stride + r] = rows[index + r * stride + c]``."""
    row, lane = ir.VectorType(_I8, 64), ir.VectorType(_I8, 16)

    def shuffle(a: Any, b: Any, order: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(_I32, len(order)), order)
        return builder.shuffle_vector(a, b, mask)

    # interleaving row i with row i + 8, four times over, transposes 16 by 16 bytes in each of four lanes
    halves = [
        [quarter * 16 + half + k // 2 + (k % 2) * 64 for quarter in range(4) for k in range(16)]
        for half in (0, 8)
    ]
    places = [further(builder, index, r, stride) for r in range(16)]
    block = [builder.load(pointer(builder, rows, place, row), align=1) for place in places]
    for _ in range(4):
        block = [shuffle(block[i], block[i + 8], order) for i in range(8) for order in halves]
    undefined = ir.Constant(row, ir.Undefined)
    for quarter in range(4):
        for i in range(16):
            part = shuffle(block[i], undefined, [quarter * 16 + k for k in range(16)])
            place = further(builder, at, quarter * 16 + i, out_stride)
            builder.store(part, pointer(builder, out, place, lane), align=1)
