"""A vector of sixteen float32 as a Numba type, so that the hot kernels can be written in plain Python.

Why it exists: Numba keeps arrays in memory, and the kernels of this package live from sums that stay in
registers over hundreds of products. A `Vec` is one LLVM value; a tuple of them is a block of registers.
LLVM maps sixteen lanes to one AVX-512 register, two of AVX2 or four of NEON, so nothing here depends on
the machine, and no compiler is needed.

Inside ``@jit`` functions, `Vec` supports ``+ - * /`` and unary minus, and these functions:

=====================  ==========================================================================
``load(a, i)``          lanes ``a[i:i+16]`` of a flat float32 array
``store(a, i, v)``      the reverse
``splat(x)``            sixteen times the scalar ``x``
``splat_at(a, i)``      sixteen times ``a[i]``
``fma(a, b, c)``        ``a * b + c``, fused where the machine can
``vmax, vmin, vabs``    lane by lane; ``vmax(a, b)`` is b where a is NaN
``select_gt(a,b,x,y)``  ``x`` where ``a > b``, else ``y``
``load_n, store_n``     a tuple of N vectors from, or to, ``a[i:i+16*N]``
``splat_n(x, n)``       a tuple of n times ``splat(x)``
``add_n(t, u)``         tuples added, lane by lane
``outer_n(a, i, v, t)`` ``t[k*n+j] + a[i+k] * v[j]`` for every k and the n vectors of v: a unit's share of sums
``hsum(v)``             the sum of the lanes, in a fixed order
``exp2i(v)``            2**v for lanes that hold whole numbers in [-126, 127]
``split_exponent(v)``   ``(m, e)`` with v = m * 2**e, m in [0.5, 1), for positive normal v
=====================  ==========================================================================

Indices are not checked: a kernel is called through a function that has checked its arrays.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from nearzero.kernels.compile import jit

__all__ = [
    "LANES",
    "add_n",
    "exp2i",
    "fma",
    "hsum",
    "jit",
    "load",
    "load_n",
    "outer_n",
    "select_gt",
    "splat",
    "splat_at",
    "splat_n",
    "split_exponent",
    "store",
    "store_n",
    "vabs",
    "vmax",
    "vmin",
]

LANES = 16

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_VEC = ir.VectorType(_F32, LANES)
_IVEC = ir.VectorType(_I32, LANES)


class Vec(types.Type):  # type: ignore[misc]
    """Numba's view of sixteen float32 lanes."""

    def __init__(self) -> None:
        super().__init__(name="Vec(float32 x 16)")


vec = Vec()


@register_model(Vec)
class _VecModel(models.PrimitiveModel):  # type: ignore[misc]
    """A Vec is one LLVM vector value."""

    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _VEC)


# --- LLVM pieces ---------------------------------------------------------------------------------------


def _constant(value: float) -> Any:
    return ir.Constant(_VEC, [value] * LANES)


def _iconstant(value: int) -> Any:
    return ir.Constant(_IVEC, [value] * LANES)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, offset: int = 0) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    if offset:
        index = builder.add(index, ir.Constant(index.type, offset))
    return builder.bitcast(builder.gep(data, [index]), ir.PointerType(_VEC))


def _load(context: Any, builder: Any, array_type: Any, array: Any, index: Any, offset: int = 0) -> Any:
    return builder.load(_pointer(context, builder, array_type, array, index, offset), align=4)


def _splat(builder: Any, scalar: Any) -> Any:
    undefined = ir.Constant(_VEC, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, _iconstant(0))


def _splat_at(context: Any, builder: Any, array_type: Any, array: Any, index: Any, offset: int = 0) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    place = builder.add(index, ir.Constant(index.type, offset))
    return _splat(builder, builder.load(builder.gep(data, [place])))


def _call(builder: Any, name: str, *args: Any) -> Any:
    signature = ir.FunctionType(_VEC, [_VEC] * len(args))
    return builder.call(
        cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.v16f32"), args
    )


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call(builder, "fmuladd", a, b, c)


def _float_array(*args: Any) -> bool:
    """Whether every argument is a flat, contiguous float32 array, which is what the loads assume."""
    return all(
        isinstance(a, types.Array) and a.ndim == 1 and a.layout == "C" and a.dtype == types.float32
        for a in args
    )


def _vecs(*args: Any) -> bool:
    return all(isinstance(a, Vec) for a in args)


def _tuples(*args: Any) -> bool:
    return all(isinstance(a, types.UniTuple) and isinstance(a.dtype, Vec) for a in args)


# --- one vector ----------------------------------------------------------------------------------------


@intrinsic
def load(_typing, array, index):  # type: ignore[no-untyped-def]
    if not _float_array(array):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _load(context, builder, signature.args[0], *args)

    return vec(array, types.intp), codegen


@intrinsic
def store(_typing, array, index, value):  # type: ignore[no-untyped-def]
    if not (_float_array(array) and _vecs(value)):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(args[2], _pointer(context, builder, signature.args[0], args[0], args[1]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def splat(_typing, x):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _splat(builder, args[0])

    return vec(types.float32), codegen


@intrinsic
def splat_at(_typing, array, index):  # type: ignore[no-untyped-def]
    if not _float_array(array):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _splat_at(context, builder, signature.args[0], *args)

    return vec(array, types.intp), codegen


@intrinsic
def fma(_typing, a, b, c):  # type: ignore[no-untyped-def]
    if not _vecs(a, b, c):
        return None
    return vec(a, b, c), lambda context, builder, signature, args: _fma(builder, *args)


def _lanewise(emit: Callable[..., Any], arity: int) -> Any:
    """An intrinsic that maps `arity` vectors to one, by the LLVM instructions that `emit` writes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit(builder, *args)

    if arity == 1:

        @intrinsic
        def unary(_typing, a):  # type: ignore[no-untyped-def]
            return (vec(a), codegen) if _vecs(a) else None

        return unary

    @intrinsic
    def binary(_typing, a, b):  # type: ignore[no-untyped-def]
        return (vec(a, b), codegen) if _vecs(a, b) else None

    return binary


vmax = _lanewise(lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y), 2)
vmin = _lanewise(lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y), 2)
vabs = _lanewise(lambda b, x: _call(b, "fabs", x), 1)
exp2i = _lanewise(
    lambda b, x: b.bitcast(b.shl(b.add(b.fptosi(x, _IVEC), _iconstant(127)), _iconstant(23)), _VEC),
    1,
)


def _operator(symbol: Callable[..., Any], arity: int, emit: Callable[..., Any]) -> None:
    """Let a Python operator on vectors stand for one LLVM instruction; as overloads they'd take long to compile."""

    class Typing(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            return signature(vec, *args) if len(args) == arity and not kws and _vecs(*args) else None

    infer_global(symbol)(Typing)
    lower_builtin(symbol, *[Vec] * arity)(lambda context, builder, sig, args: emit(builder, *args))


_operator(operator.add, 2, lambda b, x, y: b.fadd(x, y))
_operator(operator.sub, 2, lambda b, x, y: b.fsub(x, y))
_operator(operator.mul, 2, lambda b, x, y: b.fmul(x, y))
_operator(operator.truediv, 2, lambda b, x, y: b.fdiv(x, y))
_operator(operator.neg, 1, lambda b, x: b.fsub(_constant(-0.0), x))


@intrinsic
def select_gt(_typing, a, b, x, y):  # type: ignore[no-untyped-def]
    if not _vecs(a, b, x, y):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return vec(a, b, x, y), codegen


@intrinsic
def hsum(_typing, a):  # type: ignore[no-untyped-def]
    if not _vecs(a):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        value, width = args[0], LANES
        while width > 1:  # halves are folded, so the order of the sum is fixed
            width //= 2
            undefined = ir.Constant(value.type, ir.Undefined)
            half = ir.VectorType(_I32, width)
            low = builder.shuffle_vector(value, undefined, ir.Constant(half, list(range(width))))
            high = builder.shuffle_vector(value, undefined, ir.Constant(half, list(range(width, 2 * width))))
            value = builder.fadd(low, high)
        return builder.extract_element(value, ir.Constant(_I32, 0))

    return types.float32(a), codegen


@intrinsic
def split_exponent(_typing, a):  # type: ignore[no-untyped-def]
    if not _vecs(a):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        bits = builder.bitcast(args[0], _IVEC)
        exponent = builder.sub(builder.lshr(bits, _iconstant(23)), _iconstant(126))
        mantissa = builder.or_(builder.and_(bits, _iconstant(0x007FFFFF)), _iconstant(0x3F000000))
        pair = [builder.bitcast(mantissa, _VEC), builder.sitofp(exponent, _VEC)]
        return context.make_tuple(builder, signature.return_type, pair)

    return types.UniTuple(vec, 2)(a), codegen


# --- tuples of vectors: blocks of registers -------------------------------------------------------------


@intrinsic(prefer_literal=True)
def load_n(_typing, array, index, n):  # type: ignore[no-untyped-def]
    if not (isinstance(n, types.IntegerLiteral) and _float_array(array)):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        values = [
            _load(context, builder, signature.args[0], args[0], args[1], k * LANES)
            for k in range(n.literal_value)
        ]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(vec, n.literal_value)(array, types.intp, n), codegen


@intrinsic
def store_n(_typing, array, index, values):  # type: ignore[no-untyped-def]
    if not (_float_array(array) and _tuples(values)):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        for k in range(values.count):
            pointer = _pointer(context, builder, signature.args[0], args[0], args[1], k * LANES)
            builder.store(builder.extract_value(args[2], k), pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, values), codegen


@intrinsic(prefer_literal=True)
def splat_n(_typing, x, n):  # type: ignore[no-untyped-def]
    if not isinstance(n, types.IntegerLiteral):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        value = _splat(builder, args[0])
        return context.make_tuple(builder, signature.return_type, [value] * n.literal_value)

    return types.UniTuple(vec, n.literal_value)(types.float32, n), codegen


@intrinsic
def add_n(_typing, a, b):  # type: ignore[no-untyped-def]
    if not (_tuples(a, b) and a.count == b.count):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pairs = (
            (builder.extract_value(args[0], k), builder.extract_value(args[1], k)) for k in range(a.count)
        )
        return context.make_tuple(builder, signature.return_type, [builder.fadd(x, y) for x, y in pairs])

    return a(a, b), codegen


@intrinsic
def outer_n(_typing, array, index, values, sums):  # type: ignore[no-untyped-def]
    if not (_float_array(array) and _tuples(values, sums) and sums.count % values.count == 0):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        result = []
        for k in range(sums.count // values.count):
            weight = _splat_at(context, builder, signature.args[0], args[0], args[1], k)
            for j in range(values.count):
                total = builder.extract_value(args[3], k * values.count + j)
                result.append(_fma(builder, weight, builder.extract_value(args[2], j), total))
        return context.make_tuple(builder, signature.return_type, result)

    return sums(array, types.intp, values, sums), codegen
