"""Extensions of Numba for kernels: vectors of sixteen float32, and instructions on the bytes of images.

Numba keeps arrays in memory, but the kernels of this package are fast because their sums stay in registers
over hundreds of products. A `Vec` is one LLVM value; a tuple of `Vec` is a block of registers. LLVM maps
sixteen lanes to one AVX-512 register, two of AVX2 or four of NEON. So nothing here depends on the machine,
and no C compiler is needed.

Inside ``@jit`` functions, `Vec` supports ``+ - * /`` and unary minus, and these functions:

=====================  ==========================================================================
``load(a, i)``          lanes ``a[i:i+16]`` of a flat float32 array
``store(a, i, v)``      the reverse
``splat(x)``            sixteen times the scalar ``x``
``splat_at(a, i)``      sixteen times ``a[i]``
``fma(a, b, c)``        ``a * b + c``, fused where the machine can
``vmax, vmin, vabs``    lane by lane; ``vmax(a, b)`` is b where a is NaN
``select_gt(a,b,x,y)``  ``x`` where ``a > b``, else ``y``
``load_like(a, i, t)``  as many vectors from ``a[i]`` on as the tuple t has
``store_n(a, i, t)``    the reverse
``splat_n(x, n)``       a tuple of n times ``splat(x)``
``add_n, mul_n``        tuples added, or multiplied, lane by lane
``outer_n``             ``(a, i, s, v, t)``: ``t[k*n+j] + a[i+k*s] * v[j]`` for every k and the n vectors of v
``hsum(v)``             the sum of the lanes, in a fixed order
``exp2i(v)``            2**v for lanes that hold whole numbers in [-126, 127]
``split_exponent(v)``   ``(m, e)`` with v = m * 2**e, m in [0.5, 1), for positive normal v
``hmax(v)``             the greatest of the lanes; NaNs may be ignored or not
``last_lane(v)``        the last of the lanes
``first_equal(a, b)``   the first lane in which a equals b; 16 if there is none
``lanes_reaching``      the lanes in which a is at least b, as the bits of a whole number
``polynomial(x, c)``    by Horner's rule, the coefficients c from the highest power down
``first_bit(i)``        the place of the lowest bit that is set in i, which isn't 0
``count_bits(i)``       how many bits are set in i
=====================  ==========================================================================

The other functions have docstrings. Two intrinsics work on the bytes of images, and LLVM maps each to a few
instructions. `transpose_block` transposes blocks, so that the examples of one pixel are contiguous.
`list_eight` lists the non-zeros of two rows, eight columns at a time and without a branch, since the
processor can't predict which pixels are zero. Indices aren't checked: the functions that call kernels check
the arrays.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial, reduce, wraps
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from nearzero.kernels.compile import has_feature, inlined, jit

__all__ = [
    "FIRST",
    "LANES",
    "add_n",
    "axpy_pair",
    "copy_items",
    "count_bits",
    "exp2i",
    "first_bit",
    "first_equal",
    "fma",
    "groups_filled",
    "halves",
    "hmax",
    "hsum",
    "inlined",
    "jit",
    "lanes_reaching",
    "last_lane",
    "list_eight",
    "load",
    "load_like",
    "mul_n",
    "outer_n",
    "polynomial",
    "prefetch",
    "select_gt",
    "splat",
    "splat_at",
    "splat_n",
    "split_exponent",
    "store",
    "store_n",
    "store_rows_n",
    "store_shorts",
    "transpose_block",
    "vabs",
    "vmax",
    "vmin",
]

LANES = 16

_F32 = ir.FloatType()
_I1, _I8, _I32, _I64 = map(ir.IntType, (1, 8, 32, 64))
_VEC, _IVEC = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)


class Vec(types.Type):  # type: ignore[misc]
    """The Numba type of a vector of sixteen float32 lanes."""

    def __init__(self) -> None:
        super().__init__(name="Vec(float32 x 16)")


vec = Vec()


@register_model(Vec)
class _VecModel(models.PrimitiveModel):  # type: ignore[misc]
    """The data model of `Vec`: one LLVM vector value."""

    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _VEC)


# --- intrinsics ------------------------------------------------------------------------------------------


class Argument(NamedTuple):
    """An argument of an intrinsic.

    Attributes:
        fits: a function that returns whether a type is accepted.
        converted_to: the type to which values are converted; None if they keep their type.
    """

    fits: Callable[[Any], bool]
    converted_to: Any = None


def flat_array(dtype: Any) -> Argument:
    """Return the argument for flat, contiguous arrays of a type, as loads and stores assume them."""
    return Argument(lambda a: isinstance(a, types.Array) and (a.ndim, a.layout, a.dtype) == (1, "C", dtype))


FLOATS = flat_array(types.float32)
VEC = Argument(lambda a: isinstance(a, Vec))
VECS = Argument(lambda a: isinstance(a, types.UniTuple) and isinstance(a.dtype, Vec))
NUMBERS = Argument(lambda a: isinstance(a, types.UniTuple) and a.dtype == types.float32)
INDEX, SCALAR = Argument(lambda a: True, types.intp), Argument(lambda a: True, types.float32)
COUNT = Argument(lambda a: isinstance(a, types.IntegerLiteral))  # a constant at compile time


def _unpacked(context: Any, builder: Any, numba_type: Any, value: Any) -> Any:
    if isinstance(numba_type, types.Array):
        return context.make_array(numba_type)(context, builder, value).data
    if isinstance(numba_type, types.UniTuple):
        return [builder.extract_value(value, k) for k in range(numba_type.count)]
    return numba_type.literal_value if isinstance(numba_type, types.IntegerLiteral) else value


def _packed(context: Any, builder: Any, numba_type: Any, result: Any) -> Any:
    if isinstance(result, list):
        items = [_packed(context, builder, numba_type.dtype, item) for item in result]
        return context.make_tuple(builder, numba_type, items)
    return context.get_dummy_value() if result is None else result


def intrinsic_of(*arguments: Argument, returns: Any = vec) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that makes an intrinsic of a function that writes LLVM instructions.

    The function takes the builder and the arguments: an array as its pointer, a tuple as the list of its
    vectors, a count as a number. It returns a value, the list of a tuple's values, or None.

    Args:
        arguments: the arguments of the intrinsic.
        returns: the type of the result, or a function that returns it, given the types of the arguments.
    """

    def decorate(emit: Callable[..., Any]) -> Any:
        @wraps(emit)  # keeps the names of parameters; Numba passes its typing context as the first
        def typed(_typing: Any, *args: Any) -> Any:
            if not all(argument.fits(arg) for argument, arg in zip(arguments, args, strict=True)):
                return None

            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                pairs = zip(signature.args, values, strict=True)
                written = emit(builder, *(_unpacked(context, builder, *pair) for pair in pairs))
                return _packed(context, builder, signature.return_type, written)

            result_type = returns if isinstance(returns, types.Type) else returns(*args)
            types_ = (argument.converted_to or arg for argument, arg in zip(arguments, args, strict=True))
            return result_type(*types_), codegen

        return intrinsic(prefer_literal=COUNT in arguments)(typed)

    return decorate


# --- LLVM pieces ---------------------------------------------------------------------------------------


def _iconstant(value: int) -> Any:
    return ir.Constant(_IVEC, [value] * LANES)


def offset_index(builder: Any, index: Any, count: int, step: Any = None) -> Any:
    """Write the instruction for index + count, or for index + count * step."""
    number = ir.Constant(index.type, count)
    return builder.add(index, number if step is None else builder.mul(step, number))


def pointer(builder: Any, data: Any, index: Any, item_type: Any = _VEC) -> Any:
    """Write the address of an array's item, as a pointer to an LLVM type."""
    return builder.bitcast(builder.gep(data, [index]), ir.PointerType(item_type))


def _load(builder: Any, data: Any, index: Any) -> Any:
    return builder.load(pointer(builder, data, index), align=4)


def _store(builder: Any, data: Any, index: Any, value: Any) -> None:
    builder.store(value, pointer(builder, data, index), align=4)


def _splat(builder: Any, scalar: Any) -> Any:
    undefined = ir.Constant(_VEC, ir.Undefined)
    first = builder.insert_element(undefined, scalar, _I32(0))
    return builder.shuffle_vector(first, undefined, _iconstant(0))


def _splat_at(builder: Any, data: Any, index: Any) -> Any:
    return _splat(builder, builder.load(builder.gep(data, [index])))


def _call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    signature = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}"), args)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call(builder, "fmuladd.v16f32", _VEC, a, b, c)


def _greater(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _lanes(builder: Any, relation: str, a: Any, b: Any) -> Any:
    """Write the comparison of lanes; the result is a number with a bit for each lane."""
    return builder.bitcast(builder.fcmp_ordered(relation, a, b), ir.IntType(LANES))


def _folded(builder: Any, value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """Write the reduction of the lanes to one number, half by half, so that the order is fixed."""
    width = LANES
    while width > 1:
        width //= 2
        places = (list(range(first, first + width)) for first in (0, width))
        masks = [ir.Constant(ir.VectorType(_I32, width), lanes) for lanes in places]
        undefined = ir.Constant(value.type, ir.Undefined)
        value = join(*(builder.shuffle_vector(value, undefined, mask) for mask in masks))
    return builder.extract_element(value, _I32(0))


# --- one vector ----------------------------------------------------------------------------------------


load = intrinsic_of(FLOATS, INDEX)(_load)
store = intrinsic_of(FLOATS, INDEX, VEC, returns=types.void)(_store)
splat = intrinsic_of(SCALAR)(_splat)
splat_at = intrinsic_of(FLOATS, INDEX)(_splat_at)
fma = intrinsic_of(VEC, VEC, VEC)(_fma)
vmax = intrinsic_of(VEC, VEC)(_greater)
vmin = intrinsic_of(VEC, VEC)(lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y))
vabs = intrinsic_of(VEC)(lambda b, x: _call(b, "fabs.v16f32", _VEC, x))
exp2i = intrinsic_of(VEC)(
    lambda b, x: b.bitcast(b.shl(b.add(b.fptosi(x, _IVEC), _iconstant(127)), _iconstant(23)), _VEC)
)
select_gt = intrinsic_of(VEC, VEC, VEC, VEC)(lambda b, p, q, x, y: b.select(b.fcmp_ordered(">", p, q), x, y))
hsum = intrinsic_of(VEC, returns=types.float32)(lambda b, x: _folded(b, x, b.fadd))
hmax = intrinsic_of(VEC, returns=types.float32)(lambda b, x: _folded(b, x, partial(_greater, b)))
last_lane = intrinsic_of(VEC, returns=types.float32)(lambda b, x: b.extract_element(x, _I32(LANES - 1)))
first_equal = intrinsic_of(VEC, VEC, returns=types.int64)(
    lambda b, x, y: b.zext(b.cttz(_lanes(b, "==", x, y), _I1(0)), _I64)
)
lanes_reaching = intrinsic_of(VEC, VEC, returns=types.int64)(
    lambda b, x, y: b.zext(_lanes(b, ">=", x, y), _I64)
)


def _operator(symbol: Callable[..., Any], arity: int, emit: Callable[..., Any]) -> None:
    """Define a Python operator on vectors as one LLVM instruction. Overloads would take longer to compile."""

    class Typing(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            fits = len(args) == arity and not kws and all(map(VEC.fits, args))
            return signature(vec, *args) if fits else None

    infer_global(symbol)(Typing)
    lower_builtin(symbol, *[Vec] * arity)(lambda context, builder, sig, args: emit(builder, *args))


_operator(operator.add, 2, lambda b, x, y: b.fadd(x, y))
_operator(operator.sub, 2, lambda b, x, y: b.fsub(x, y))
_operator(operator.mul, 2, lambda b, x, y: b.fmul(x, y))
_operator(operator.truediv, 2, lambda b, x, y: b.fdiv(x, y))
_operator(operator.neg, 1, lambda b, x: b.fneg(x))


@intrinsic_of(VEC, returns=types.UniTuple(vec, 2))
def split_exponent(builder: Any, value: Any) -> Any:
    bits = builder.bitcast(value, _IVEC)
    exponent = builder.sub(builder.lshr(bits, _iconstant(23)), _iconstant(126))
    mantissa = builder.or_(builder.and_(bits, _iconstant(0x007FFFFF)), _iconstant(0x3F000000))
    return [builder.bitcast(mantissa, _VEC), builder.sitofp(exponent, _VEC)]


@intrinsic_of(VEC, NUMBERS)
def polynomial(builder: Any, x: Any, coefficients: Any) -> Any:
    terms = (_splat(builder, coefficient) for coefficient in coefficients)
    return reduce(lambda total, term: _fma(builder, total, x, term), terms)


# --- tuples of vectors: blocks of registers -------------------------------------------------------------


@intrinsic_of(FLOATS, INDEX, VECS, returns=lambda array, index, values: values)
def load_like(builder: Any, data: Any, index: Any, values: Any) -> Any:
    return [_load(builder, data, offset_index(builder, index, k * LANES)) for k in range(len(values))]


@intrinsic_of(FLOATS, INDEX, VECS, returns=types.void)
def store_n(builder: Any, data: Any, index: Any, values: Any) -> None:
    for k, value in enumerate(values):
        _store(builder, data, offset_index(builder, index, k * LANES), value)


splat_n = intrinsic_of(SCALAR, COUNT, returns=lambda x, n: types.UniTuple(vec, n.literal_value))(
    lambda b, x, n: [_splat(b, x)] * n
)
add_n = intrinsic_of(VECS, VECS, returns=lambda a, b: a)(lambda b, x, y: list(map(b.fadd, x, y)))
mul_n = intrinsic_of(VECS, VECS, returns=lambda a, b: a)(lambda b, x, y: list(map(b.fmul, x, y)))


@intrinsic_of(FLOATS, INDEX, INDEX, VECS, VECS, returns=lambda array, index, stride, values, sums: sums)
def outer_n(builder: Any, data: Any, index: Any, stride: Any, values: Any, sums: Any) -> Any:
    count, result = len(values), []
    for k in range(0, len(sums), count):
        weight = _splat_at(builder, data, offset_index(builder, index, k // count, stride))
        result += [_fma(builder, weight, *pair) for pair in zip(values, sums[k : k + count], strict=True)]
    return result


@intrinsic_of(VEC, VEC, FLOATS, INDEX, VECS, returns=lambda first, second, array, index, sums: sums)
def axpy_pair(builder: Any, first: Any, second: Any, data: Any, index: Any, sums: Any) -> Any:
    """Return `sums` + factor * row, lane by lane.

    The factor is `first` for the first half of `sums`, and `second` for the other half.
    """
    half = len(sums) // 2
    rows = [_load(builder, data, offset_index(builder, index, k * LANES)) for k in range(half)]
    factors = [first] * half + [second] * half
    return [_fma(builder, *triple) for triple in zip(factors, rows + rows, sums, strict=True)]


@intrinsic_of(FLOATS, INDEX, INDEX, VECS, returns=types.void)
def store_rows_n(builder: Any, data: Any, index: Any, stride: Any, values: Any) -> None:
    """Store ``a[i + k * stride : i + k * stride + 16] = values[k]`` for every k."""
    for k, value in enumerate(values):
        _store(builder, data, offset_index(builder, index, k, stride), value)


@intrinsic_of(VECS, returns=lambda values: types.UniTuple(types.UniTuple(vec, values.count // 2), 2))
def halves(_builder: Any, values: Any) -> Any:
    """Return the first and the second half of a tuple of vectors."""
    half = len(values) // 2
    return [values[:half], values[half:]]


# --- images as bytes ------------------------------------------------------------------------------------

_BYTES, _SHORTS, _WORDS = flat_array(types.uint8), flat_array(types.uint16), flat_array(types.uint32)
_WHOLE = Argument(
    lambda a: isinstance(getattr(a, "dtype", None), types.Integer) and flat_array(a.dtype).fits(a)
)
_WORD = Argument(lambda a: True, types.uint64)

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
# row m: the places of the bits that are set in the byte m, ascending, then the other places
FIRST = np.argsort(1 - _BITS, axis=1, kind="stable").astype(np.uint32).ravel()


@intrinsic_of(_WHOLE, INDEX, _WHOLE, INDEX, INDEX, returns=types.void)
def copy_items(builder: Any, source: Any, index: Any, out: Any, at: Any, count: Any) -> None:
    """Copy ``out[at : at + count] = source[index : index + count]``, for arrays of the same integer type."""
    assert source.type == out.type
    item = source.type.pointee
    origin, target = pointer(builder, source, index, item), pointer(builder, out, at, item)
    cgutils.raw_memcpy(builder, target, origin, count, item.width // 8)


@intrinsic_of(_SHORTS, INDEX, VEC, returns=types.void)
def store_shorts(builder: Any, data: Any, index: Any, values: Any) -> None:
    """Store ``a[i : i + 16] = values`` in a uint16 array; the lanes must be whole numbers below 2**16."""
    whole = builder.fptosi(values, ir.VectorType(_I32, LANES))
    short = builder.trunc(whole, ir.VectorType(ir.IntType(16), LANES))
    builder.store(short, pointer(builder, data, index, short.type), align=2)


@intrinsic_of(_BYTES, INDEX, returns=types.void)
def prefetch(builder: Any, source: Any, index: Any) -> None:
    """Prefetch the cache line of ``source[index]``; the index may be out of bounds."""
    address = pointer(builder, source, index, _I8)
    options = map(_I32, (0, 2, 1))  # to read, into the second-level cache, data
    _call(builder, "prefetch.p0", ir.VoidType(), address, *options)


def _permuted(builder: Any, values: Any, places: Any) -> Any:
    """Write values[places[k]] for eight k: one instruction with AVX2."""
    if has_feature("avx2"):
        return _call(builder, "x86.avx2.permd", values.type, values, places)
    result = ir.Constant(values.type, ir.Undefined)
    for k in range(8):
        place = ir.Constant(_I32, k)
        value = builder.extract_element(values, builder.extract_element(places, place))
        result = builder.insert_element(result, value, place)
    return result


@intrinsic_of(_BYTES, INDEX, INDEX, INDEX, _WORDS, _WORDS, INDEX, returns=types.int64)
def list_eight(
    builder: Any, rows: Any, index: Any, stride: Any, column: Any, first: Any, entries: Any, cursor: Any
) -> Any:
    """List those of eight columns in which at least one of two rows is nonzero, and return their number.

    An entry is ``column << 16 | byte of the second row << 8 | byte of the first``. The bytes of column + k
    are ``rows[index + k]`` and ``rows[index + stride + k]``. Eight entries are written at
    ``entries[cursor]``, and only as many as returned are valid. first: the table `FIRST`.
    """
    eight, bytes_ = ir.VectorType(_I32, 8), ir.VectorType(_I8, 8)
    upper, lower = (
        builder.zext(builder.load(pointer(builder, rows, row, bytes_), align=1), eight)
        for row in (index, builder.add(index, stride))
    )
    pixels = builder.or_(upper, builder.shl(lower, ir.Constant(eight, [8] * 8)))
    zeros = ir.Constant(eight, None)
    mask = builder.bitcast(builder.icmp_unsigned("!=", pixels, zeros), _I8)
    line = builder.mul(builder.zext(mask, _I64), ir.Constant(_I64, 8))
    places = builder.load(pointer(builder, first, line, eight), align=4)
    start = builder.insert_element(zeros, builder.trunc(column, _I32), _I32(0))
    columns = builder.add(places, builder.shuffle_vector(start, zeros, zeros))
    shifted = builder.shl(columns, ir.Constant(eight, [16] * 8))
    values = builder.or_(_permuted(builder, pixels, places), shifted)
    builder.store(values, pointer(builder, entries, cursor, eight), align=4)
    return builder.zext(builder.ctpop(mask), _I64)


@intrinsic_of(_BYTES, INDEX, returns=types.int64)
def groups_filled(builder: Any, rows: Any, index: Any) -> Any:
    """Return a number with a bit for each of eight groups of eight bytes, from ``rows[index]`` on.

    A bit is 1 if the bytes of its group aren't all zero.
    """
    groups = ir.VectorType(_I64, 8)
    loaded = builder.load(pointer(builder, rows, index, groups), align=1)
    filled = builder.icmp_unsigned("!=", loaded, ir.Constant(groups, None))
    return builder.zext(builder.bitcast(filled, _I8), _I64)


first_bit = intrinsic_of(_WORD, returns=types.int64)(lambda b, bits: b.cttz(bits, _I1(1)))
count_bits = intrinsic_of(_WORD, returns=types.int64)(lambda b, bits: b.ctpop(bits))


@intrinsic_of(_BYTES, INDEX, INDEX, _BYTES, INDEX, INDEX, returns=types.void)
def transpose_block(
    builder: Any, rows: Any, index: Any, stride: Any, out: Any, at: Any, out_stride: Any
) -> None:
    """Transpose 16 rows of 64 bytes: ``out[at + c * out_stride + r] = rows[index + r * stride + c]``."""
    row, lane = ir.VectorType(_I8, 64), ir.VectorType(_I8, 16)

    def shuffle(a: Any, b: Any, order: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(_I32, len(order)), order)
        return builder.shuffle_vector(a, b, mask)

    # interleaving row i with row i + 8, four times over, transposes 16 by 16 bytes in each of four lanes
    halves = [
        [quarter * 16 + half + k // 2 + (k % 2) * 64 for quarter in range(4) for k in range(16)]
        for half in (0, 8)
    ]
    places = [offset_index(builder, index, r, stride) for r in range(16)]
    block = [builder.load(pointer(builder, rows, place, row), align=1) for place in places]
    for _ in range(4):
        block = [shuffle(block[i], block[i + 8], order) for i in range(8) for order in halves]
    undefined = ir.Constant(row, ir.Undefined)
    for quarter in range(4):
        for i in range(16):
            part = shuffle(block[i], undefined, [quarter * 16 + k for k in range(16)])
            place = offset_index(builder, at, quarter * 16 + i, out_stride)
            builder.store(part, pointer(builder, out, place, lane), align=1)
