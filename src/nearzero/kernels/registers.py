"""Blocks of registers beyond `simd`'s: the inner steps of the products that training lives from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types

from nearzero.kernels.simd import (
    FLOATS,
    INDEX,
    LANES,
    VEC,
    VECS,
    _fma,
    _load,
    _splat_at,
    _store,
    emitted,
    folded,
    further,
    vec,
)

__all__ = [
    "axpy_pair",
    "first_equal",
    "halves",
    "hmax",
    "inlined",
    "lanes_reaching",
    "last_lane",
    "outer_rows_n",
    "store_rows_n",
]

_I64 = ir.IntType(64)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """For the short inner loops of kernels: compiled as part of each caller, and never by themselves."""
    return njit(inline="always", nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]


@emitted(VEC, VEC, FLOATS, INDEX, VECS, gives=lambda first, second, array, index, sums: sums)
def axpy_pair(builder: Any, first: Any, second: Any, data: Any, index: Any, sums: Any) -> Any:
    """`sums` + vector * row, lane by lane: the first half of `sums` belongs to `first`, the other to `second`."""
    half = len(sums) // 2
    rows = [_load(builder, data, further(builder, index, k * LANES)) for k in range(half)]
    factors = [first] * half + [second] * half
    return [_fma(builder, *each) for each in zip(factors, rows + rows, sums, strict=True)]


@emitted(FLOATS, INDEX, INDEX, VEC, VECS, gives=lambda array, index, stride, value, sums: sums)
def outer_rows_n(builder: Any, data: Any, index: Any, stride: Any, value: Any, sums: Any) -> Any:
    """``t[k] + a[i + k * stride] * v`` for every k: `outer_n` down a column."""
    places = (further(builder, index, k, stride) for k in range(len(sums)))
    return [
        _fma(builder, _splat_at(builder, data, place), value, total)
        for place, total in zip(places, sums, strict=True)
    ]


@emitted(FLOATS, INDEX, INDEX, VECS, gives=types.void)
def store_rows_n(builder: Any, data: Any, index: Any, stride: Any, values: Any) -> None:
    """``a[i + k * stride : i + k * stride + 16] = values[k]`` for every k."""
    for k, value in enumerate(values):
        _store(builder, data, further(builder, index, k, stride), value)


@emitted(VECS, gives=lambda values: types.UniTuple(types.UniTuple(vec, values.count // 2), 2))
def halves(_builder: Any, values: Any) -> Any:
    """The first half of a tuple's vectors, and the other."""
    half = len(values) // 2
    return [values[:half], values[half:]]


@emitted(VEC, gives=types.float32)
def hmax(builder: Any, value: Any) -> Any:
    """The greatest of the lanes; NaNs may or may not be passed over."""
    return folded(builder, value, lambda x, y: builder.select(builder.fcmp_ordered(">", x, y), x, y))


@emitted(VEC, VEC, gives=types.int64)
def first_equal(builder: Any, a: Any, b: Any) -> Any:
    """The first lane in which a equals b; 16 where there's none."""
    lanes = builder.bitcast(builder.fcmp_ordered("==", a, b), ir.IntType(LANES))
    return builder.zext(builder.cttz(lanes, ir.Constant(ir.IntType(1), 0)), _I64)


@emitted(VEC, VEC, gives=types.int64)
def lanes_reaching(builder: Any, a: Any, b: Any) -> Any:
    """The lanes in which a is at least b, as the bits of a whole number."""
    return builder.zext(builder.bitcast(builder.fcmp_ordered(">=", a, b), ir.IntType(LANES)), _I64)


@emitted(VEC, gives=types.float32)
def last_lane(builder: Any, a: Any) -> Any:
    """The last of the lanes."""
    return builder.extract_element(a, ir.Constant(ir.IntType(32), LANES - 1))
