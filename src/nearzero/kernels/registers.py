"""Blocks of registers beyond `simd`'s: the inner steps of the products that training lives from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from nearzero.kernels.simd import LANES, _float_array, _fma, _load, _pointer, _splat, _tuples, _vecs

__all__ = [
    "axpy_pair",
    "first_equal",
    "halves",
    "hmax",
    "inlined",
    "lanes_reaching",
    "last_lane",
    "load_like",
    "mul_n",
    "outer_rows_n",
    "store_rows_n",
]


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """For the short inner loops of kernels: compiled as part of each caller, and never by themselves."""
    return njit(inline="always", nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]


@intrinsic
def axpy_pair(_typing, first, second, array, index, sums):  # type: ignore[no-untyped-def]
    """`sums` + vector * row, lane by lane: the first half of `sums` belongs to `first`, the other to `second`."""
    if not (_vecs(first, second) and _float_array(array) and _tuples(sums)):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        factors = args[:2]
        half = sums.count // 2
        rows = [_load(context, builder, signature.args[2], args[2], args[3], k * LANES) for k in range(half)]
        values = [
            _fma(builder, factors[k // half], rows[k % half], builder.extract_value(args[4], k))
            for k in range(2 * half)
        ]
        return context.make_tuple(builder, signature.return_type, values)

    return sums(first, second, array, types.intp, sums), codegen


@intrinsic
def outer_rows_n(_typing, array, index, stride, value, sums):  # type: ignore[no-untyped-def]
    """``t[k] + a[i + k * stride] * v`` for every k: `outer_n` down a column."""
    if not (_float_array(array) and _vecs(value) and _tuples(sums)):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        result = []
        for k in range(sums.count):
            place = builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, k)))
            weight = _splat(builder, builder.load(builder.gep(data, [place])))
            result.append(_fma(builder, weight, args[3], builder.extract_value(args[4], k)))
        return context.make_tuple(builder, signature.return_type, result)

    return sums(array, types.intp, types.intp, value, sums), codegen


@intrinsic
def store_rows_n(_typing, array, index, stride, values):  # type: ignore[no-untyped-def]
    """``a[i + k * stride : i + k * stride + 16] = values[k]`` for every k."""
    if not (_float_array(array) and _tuples(values)):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        for k in range(values.count):
            place = builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, k)))
            pointer = _pointer(context, builder, signature.args[0], args[0], place)
            builder.store(builder.extract_value(args[3], k), pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, values), codegen


@intrinsic
def load_like(_typing, array, index, sums):  # type: ignore[no-untyped-def]
    """As many vectors from ``a[i]`` on as `sums` has."""
    if not (_float_array(array) and _tuples(sums)):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        values = [
            _load(context, builder, signature.args[0], args[0], args[1], k * LANES) for k in range(sums.count)
        ]
        return context.make_tuple(builder, sums, values)

    return sums(array, types.intp, sums), codegen


@intrinsic
def halves(_typing, values):  # type: ignore[no-untyped-def]
    """The first half of a tuple's vectors, and the other."""
    if not _tuples(values):
        return None
    half = types.UniTuple(values.dtype, values.count // 2)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        each = [builder.extract_value(args[0], k) for k in range(values.count)]
        parts = [context.make_tuple(builder, half, each[k : k + half.count]) for k in (0, half.count)]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(half, 2)(values), codegen


@intrinsic
def mul_n(_typing, a, b):  # type: ignore[no-untyped-def]
    """Tuples multiplied, lane by lane."""
    if not (_tuples(a, b) and a.count == b.count):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pairs = (
            (builder.extract_value(args[0], k), builder.extract_value(args[1], k)) for k in range(a.count)
        )
        return context.make_tuple(builder, a, [builder.fmul(x, y) for x, y in pairs])

    return a(a, b), codegen


@intrinsic
def hmax(_typing, a):  # type: ignore[no-untyped-def]
    """The greatest of the lanes; NaNs may or may not be passed over."""
    if not _vecs(a):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        value, width = args[0], LANES
        while width > 1:
            width //= 2
            low, high = (
                builder.shuffle_vector(
                    value,
                    ir.Constant(value.type, ir.Undefined),
                    ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(start, start + width))),
                )
                for start in (0, width)
            )
            value = builder.select(builder.fcmp_ordered(">", low, high), low, high)
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return types.float32(a), codegen


@intrinsic
def first_equal(_typing, a, b):  # type: ignore[no-untyped-def]
    """The first lane in which a equals b; 16 where there's none."""
    if not _vecs(a, b):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        lanes = builder.bitcast(builder.fcmp_ordered("==", args[0], args[1]), ir.IntType(LANES))
        number = builder.cttz(lanes, ir.Constant(ir.IntType(1), 0))
        return builder.zext(number, ir.IntType(64))

    return types.int64(a, a), codegen


@intrinsic
def lanes_reaching(_typing, a, b):  # type: ignore[no-untyped-def]
    """The lanes in which a is at least b, as the bits of a whole number."""
    if not _vecs(a, b):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        lanes = builder.bitcast(builder.fcmp_ordered(">=", *args), ir.IntType(LANES))
        return builder.zext(lanes, ir.IntType(64))

    return types.int64(a, a), codegen


@intrinsic
def last_lane(_typing, a):  # type: ignore[no-untyped-def]
    """The last of the lanes."""
    if not _vecs(a):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.extract_element(args[0], ir.Constant(ir.IntType(32), LANES - 1))

    return types.float32(a), codegen
