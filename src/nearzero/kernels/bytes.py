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
from numba.extending import intrinsic

from nearzero.kernels.compile import has_feature
from nearzero.kernels.simd import LANES, _vecs

__all__ = [
    "FIRST",
    "copy_items",
    "first_bit",
    "groups_filled",
    "list_eight",
    "prefetch",
    "store_shorts",
    "transpose_block",
]

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
# row m: the places of the bits that are set in the byte m, ascending, then the others
FIRST = np.argsort(1 - _BITS, axis=1, kind="stable").astype(np.uint32).ravel()


def _is_flat(array: Any, dtype: Any) -> bool:
    return isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C" and array.dtype == dtype


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.PointerType(vector))


@intrinsic
def copy_items(_typing, source, index, out, at, count):  # type: ignore[no-untyped-def]
    """``out[at : at + count] = source[index : index + count]``, of arrays of one type of whole numbers."""
    dtype = getattr(source, "dtype", None)
    if not (isinstance(dtype, types.Integer) and _is_flat(source, dtype) and _is_flat(out, dtype)):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        source_value, index_value, out_value, at_value, count_value = args
        item = ir.IntType(dtype.bitwidth)
        where = _pointer(context, builder, signature.args[0], source_value, index_value, item)
        to = _pointer(context, builder, signature.args[2], out_value, at_value, item)
        cgutils.raw_memcpy(builder, to, where, count_value, dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(source, types.intp, out, types.intp, types.intp), codegen


@intrinsic
def store_shorts(_typing, array, index, values):  # type: ignore[no-untyped-def]
    """``a[i : i + 16] = values``, of a uint16 array: the lanes hold whole numbers below 2**16."""
    if not (_is_flat(array, types.uint16) and _vecs(values)):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        whole = builder.fptosi(args[2], ir.VectorType(_I32, LANES))
        short = builder.trunc(whole, ir.VectorType(ir.IntType(16), LANES))
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1], short.type)
        builder.store(short, pointer, align=2)
        return context.get_dummy_value()

    return types.void(array, types.intp, values), codegen


@intrinsic
def prefetch(_typing, source, index):  # type: ignore[no-untyped-def]
    """Ask for the cache line of ``source[index]``, which need not exist."""
    if not _is_flat(source, types.uint8):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        where = _pointer(context, builder, signature.args[0], args[0], args[1], _I8)
        kinds = [ir.Constant(_I32, kind) for kind in (0, 2, 1)]  # to read, into the second-level cache, data
        signature_ = ir.FunctionType(ir.VoidType(), [where.type, _I32, _I32, _I32])
        ask = cgutils.get_or_insert_function(builder.module, signature_, "llvm.prefetch.p0")
        builder.call(ask, [where, *kinds])
        return context.get_dummy_value()

    return types.void(source, types.intp), codegen


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


@intrinsic
def list_eight(_typing, rows, index, stride, column, first, entries, cursor):  # type: ignore[no-untyped-def]
    """List those of eight columns that aren't zero in both of two rows, as ``column << 16 | second << 8 | first``.

    The bytes are ``rows[index + k]`` and ``rows[index + stride + k]``, of columns column + k. Eight entries are
    written at ``entries[cursor]``, of which the first ones count. Returns how many.
    first: the table `FIRST`.
    """
    if not (
        _is_flat(rows, types.uint8) and _is_flat(first, types.uint32) and _is_flat(entries, types.uint32)
    ):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        rows_value, index_value, stride_value, column_value, first_value, entries_value, cursor_value = args
        eight, bytes_ = ir.VectorType(_I32, 8), ir.VectorType(_I8, 8)

        def row(index: Any) -> Any:
            where = _pointer(context, builder, signature.args[0], rows_value, index, bytes_)
            return builder.zext(builder.load(where, align=1), eight)

        one, two = row(index_value), row(builder.add(index_value, stride_value))
        pixels = builder.or_(one, builder.shl(two, ir.Constant(eight, [8] * 8)))
        zeros = ir.Constant(eight, None)
        mask = builder.bitcast(builder.icmp_unsigned("!=", pixels, zeros), _I8)
        line = builder.mul(builder.zext(mask, _I64), ir.Constant(_I64, 8))
        places = builder.load(
            _pointer(context, builder, signature.args[4], first_value, line, eight), align=4
        )
        start = builder.insert_element(zeros, builder.trunc(column_value, _I32), ir.Constant(_I32, 0))
        columns = builder.add(places, builder.shuffle_vector(start, zeros, zeros))
        values = builder.or_(
            _permuted(builder, pixels, places), builder.shl(columns, ir.Constant(eight, [16] * 8))
        )
        to = _pointer(context, builder, signature.args[5], entries_value, cursor_value, eight)
        builder.store(values, to, align=4)
        return builder.zext(builder.ctpop(mask), _I64)

    return types.int64(rows, types.intp, types.intp, types.intp, first, entries, types.intp), codegen


@intrinsic
def groups_filled(_typing, rows, index):  # type: ignore[no-untyped-def]
    """Which of eight groups of eight bytes, from ``rows[index]`` on, aren't all zero, as the bits of a whole number."""
    if not _is_flat(rows, types.uint8):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        groups = ir.VectorType(_I64, 8)
        where = _pointer(context, builder, signature.args[0], args[0], args[1], groups)
        loaded = builder.load(where, align=1)
        filled = builder.icmp_unsigned("!=", loaded, ir.Constant(groups, None))
        return builder.zext(builder.bitcast(filled, _I8), _I64)

    return types.int64(rows, types.intp), codegen


@intrinsic
def first_bit(_typing, bits):  # type: ignore[no-untyped-def]
    """The place of the lowest bit of `bits`, which isn't 0."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@intrinsic
def transpose_block(_typing, rows, index, stride, out, at, out_stride):  # type: ignore[no-untyped-def]
    """Turn a block of 16 rows by 64 bytes: ``out[at + c * out_stride + r] = rows[index + r * stride + c]``."""
    if not (_is_flat(rows, types.uint8) and _is_flat(out, types.uint8)):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        rows_value, index_value, stride_value, out_value, at_value, out_stride_value = args
        row, lane = ir.VectorType(_I8, 64), ir.VectorType(_I8, 16)

        def offset(start: Any, step: Any, k: int) -> Any:
            return builder.add(start, builder.mul(step, ir.Constant(step.type, k)))

        def shuffle(a: Any, b: Any, order: list[int]) -> Any:
            mask = ir.Constant(ir.VectorType(_I32, len(order)), order)
            return builder.shuffle_vector(a, b, mask)

        # interleaving row i with row i + 8, four times over, transposes 16 by 16 bytes in each of four lanes
        halves = [
            [quarter * 16 + half + k // 2 + (k % 2) * 64 for quarter in range(4) for k in range(16)]
            for half in (0, 8)
        ]
        places = [offset(index_value, stride_value, r) for r in range(16)]
        block = [
            builder.load(_pointer(context, builder, signature.args[0], rows_value, place, row), align=1)
            for place in places
        ]
        for _ in range(4):
            block = [shuffle(block[i], block[i + 8], order) for i in range(8) for order in halves]
        undefined = ir.Constant(row, ir.Undefined)
        for quarter in range(4):
            for i in range(16):
                part = shuffle(block[i], undefined, [quarter * 16 + k for k in range(16)])
                place = offset(at_value, out_stride_value, quarter * 16 + i)
                to = _pointer(context, builder, signature.args[3], out_value, place, lane)
                builder.store(part, to, align=1)
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp, out, types.intp, types.intp), codegen
