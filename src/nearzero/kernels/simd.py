"""What kernels need beyond Numba: a vector of sixteen float32 as a type, and instructions on the bytes of images.

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
``load_like(a, i, t)``  as many vectors from ``a[i]`` on as the tuple t has
``store_n(a, i, t)``    the reverse
``splat_n(x, n)``       a tuple of n times ``splat(x)``
``add_n, mul_n``        tuples added, or multiplied, lane by lane
``outer_n``             ``(a, i, s, v, t)``: ``t[k*n+j] + a[i+k*s] * v[j]`` for every k and the n vectors of v
``hsum(v)``             the sum of the lanes, in a fixed order
``exp2i(v)``            2**v for lanes that hold whole numbers in [-126, 127]
``split_exponent(v)``   ``(m, e)`` with v = m * 2**e, m in [0.5, 1), for positive normal v
``hmax(v)``             the greatest of the lanes; NaNs may or may not be passed over
``last_lane(v)``        the last of the lanes
``first_equal(a, b)``   the first lane in which a equals b; 16 where there's none
``lanes_reaching``      the lanes in which a is at least b, as the bits of a whole number
``polynomial(x, c)``    by Horner's rule, the coefficients c from the highest power down
``first_bit(i)``        the place of the lowest bit that is set in i, which isn't 0
``count_bits(i)``       how many bits are set in i
=====================  ==========================================================================

The others say themselves what they do. Two things are done with the bytes of images, each by one intrinsic that LLVM
maps to a few instructions: blocks are turned so that the examples of one pixel lie together; and the non-zeros of two
rows are listed, eight columns at a time and without a branch, since where an image has ink can't be predicted.
Indices are not checked: a kernel is called through a function that has checked its arrays.
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
    """Numba's view of sixteen float32 lanes."""

    def __init__(self) -> None:
        super().__init__(name="Vec(float32 x 16)")


vec = Vec()


@register_model(Vec)
class _VecModel(models.PrimitiveModel):  # type: ignore[misc]
    """A Vec is one LLVM vector value."""

    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _VEC)


# --- how an intrinsic is made ---------------------------------------------------------------------------


class Kind(NamedTuple):
    """What an intrinsic takes as an argument.

    Attributes:
        fits: whether it takes a type.
        taken_as: the type that arguments are converted to; None if they stay as they are.
    """

    fits: Callable[[Any], bool]
    taken_as: Any = None


def flat(dtype: Any) -> Kind:
    """Return the kind of flat, contiguous arrays of a type, which is what loads and stores assume."""
    return Kind(lambda a: isinstance(a, types.Array) and (a.ndim, a.layout, a.dtype) == (1, "C", dtype))


FLOATS = flat(types.float32)
VEC = Kind(lambda a: isinstance(a, Vec))
VECS = Kind(lambda a: isinstance(a, types.UniTuple) and isinstance(a.dtype, Vec))
NUMBERS = Kind(lambda a: isinstance(a, types.UniTuple) and a.dtype == types.float32)
INDEX, SCALAR = Kind(lambda a: True, types.intp), Kind(lambda a: True, types.float32)
COUNT = Kind(lambda a: isinstance(a, types.IntegerLiteral))  # known when a kernel is compiled


def _unpacked(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.Array):
        return context.make_array(kind)(context, builder, value).data
    if isinstance(kind, types.UniTuple):
        return [builder.extract_value(value, k) for k in range(kind.count)]
    return kind.literal_value if isinstance(kind, types.IntegerLiteral) else value


def _packed(context: Any, builder: Any, kind: Any, found: Any) -> Any:
    if isinstance(found, list):
        items = [_packed(context, builder, kind.dtype, each) for each in found]
        return context.make_tuple(builder, kind, items)
    return context.get_dummy_value() if found is None else found


def emitted(*kinds: Kind, gives: Any = vec) -> Callable[[Callable[..., Any]], Any]:
    """Make an intrinsic of a function that writes LLVM instructions.

    The function is given the builder, and of each argument what it needs: the pointer of an array, the list of a
    tuple's vectors, a count as a number. It returns a value, the list of a tuple's values, or None.

    Args:
        kinds: of the arguments.
        gives: the type of the result, or a function that returns it, given the types of the arguments.
    """

    def made(emit: Callable[..., Any]) -> Any:
        @wraps(emit)  # with its parameters; where the builder stands Numba gives its typing context
        def typed(_typing: Any, *args: Any) -> Any:
            if not all(kind.fits(arg) for kind, arg in zip(kinds, args, strict=True)):
                return None

            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                pairs = zip(signature.args, values, strict=True)
                found = emit(builder, *(_unpacked(context, builder, *pair) for pair in pairs))
                return _packed(context, builder, signature.return_type, found)

            result = gives if isinstance(gives, types.Type) else gives(*args)
            return result(*(kind.taken_as or arg for kind, arg in zip(kinds, args, strict=True))), codegen

        return intrinsic(prefer_literal=COUNT in kinds)(typed)

    return made


# --- LLVM pieces ---------------------------------------------------------------------------------------


def _iconstant(value: int) -> Any:
    return ir.Constant(_IVEC, [value] * LANES)


def further(builder: Any, index: Any, count: int, step: Any = None) -> Any:
    """Write index + count, or index + count * step."""
    number = ir.Constant(index.type, count)
    return builder.add(index, number if step is None else builder.mul(step, number))


def pointer(builder: Any, data: Any, index: Any, kind: Any = _VEC) -> Any:
    """Write the address of an array's items from an index on, as that of an LLVM type."""
    return builder.bitcast(builder.gep(data, [index]), ir.PointerType(kind))


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
    signature = ir.FunctionType(result, [each.type for each in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}"), args)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call(builder, "fmuladd.v16f32", _VEC, a, b, c)


def _greater(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _lanes(builder: Any, relation: str, a: Any, b: Any) -> Any:
    """Write the lanes in which a relation holds, as the bits of a number."""
    return builder.bitcast(builder.fcmp_ordered(relation, a, b), ir.IntType(LANES))


def _folded(builder: Any, value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """Join the lanes to one number, half with half, so that the order is fixed."""
    width = LANES
    while width > 1:
        width //= 2
        places = (list(range(first, first + width)) for first in (0, width))
        masks = [ir.Constant(ir.VectorType(_I32, width), each) for each in places]
        undefined = ir.Constant(value.type, ir.Undefined)
        value = join(*(builder.shuffle_vector(value, undefined, mask) for mask in masks))
    return builder.extract_element(value, _I32(0))


# --- one vector ----------------------------------------------------------------------------------------


load = emitted(FLOATS, INDEX)(_load)
store = emitted(FLOATS, INDEX, VEC, gives=types.void)(_store)
splat = emitted(SCALAR)(_splat)
splat_at = emitted(FLOATS, INDEX)(_splat_at)
fma = emitted(VEC, VEC, VEC)(_fma)
vmax = emitted(VEC, VEC)(_greater)
vmin = emitted(VEC, VEC)(lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y))
vabs = emitted(VEC)(lambda b, x: _call(b, "fabs.v16f32", _VEC, x))
exp2i = emitted(VEC)(
    lambda b, x: b.bitcast(b.shl(b.add(b.fptosi(x, _IVEC), _iconstant(127)), _iconstant(23)), _VEC)
)
select_gt = emitted(VEC, VEC, VEC, VEC)(lambda b, p, q, x, y: b.select(b.fcmp_ordered(">", p, q), x, y))
hsum = emitted(VEC, gives=types.float32)(lambda b, x: _folded(b, x, b.fadd))
hmax = emitted(VEC, gives=types.float32)(lambda b, x: _folded(b, x, partial(_greater, b)))
last_lane = emitted(VEC, gives=types.float32)(lambda b, x: b.extract_element(x, _I32(LANES - 1)))
first_equal = emitted(VEC, VEC, gives=types.int64)(
    lambda b, x, y: b.zext(b.cttz(_lanes(b, "==", x, y), _I1(0)), _I64)
)
lanes_reaching = emitted(VEC, VEC, gives=types.int64)(lambda b, x, y: b.zext(_lanes(b, ">=", x, y), _I64))


def _operator(symbol: Callable[..., Any], arity: int, emit: Callable[..., Any]) -> None:
    """Let a Python operator on vectors stand for one LLVM instruction; as overloads they'd take long to compile."""

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


@emitted(VEC, gives=types.UniTuple(vec, 2))
def split_exponent(builder: Any, value: Any) -> Any:
    bits = builder.bitcast(value, _IVEC)
    exponent = builder.sub(builder.lshr(bits, _iconstant(23)), _iconstant(126))
    mantissa = builder.or_(builder.and_(bits, _iconstant(0x007FFFFF)), _iconstant(0x3F000000))
    return [builder.bitcast(mantissa, _VEC), builder.sitofp(exponent, _VEC)]


@emitted(VEC, NUMBERS)
def polynomial(builder: Any, x: Any, coefficients: Any) -> Any:
    terms = (_splat(builder, coefficient) for coefficient in coefficients)
    return reduce(lambda total, term: _fma(builder, total, x, term), terms)


# --- tuples of vectors: blocks of registers -------------------------------------------------------------


@emitted(FLOATS, INDEX, VECS, gives=lambda array, index, values: values)
def load_like(builder: Any, data: Any, index: Any, values: Any) -> Any:
    return [_load(builder, data, further(builder, index, k * LANES)) for k in range(len(values))]


@emitted(FLOATS, INDEX, VECS, gives=types.void)
def store_n(builder: Any, data: Any, index: Any, values: Any) -> None:
    for k, value in enumerate(values):
        _store(builder, data, further(builder, index, k * LANES), value)


splat_n = emitted(SCALAR, COUNT, gives=lambda x, n: types.UniTuple(vec, n.literal_value))(
    lambda b, x, n: [_splat(b, x)] * n
)
add_n = emitted(VECS, VECS, gives=lambda a, b: a)(lambda b, x, y: list(map(b.fadd, x, y)))
mul_n = emitted(VECS, VECS, gives=lambda a, b: a)(lambda b, x, y: list(map(b.fmul, x, y)))


@emitted(FLOATS, INDEX, INDEX, VECS, VECS, gives=lambda array, index, stride, values, sums: sums)
def outer_n(builder: Any, data: Any, index: Any, stride: Any, values: Any, sums: Any) -> Any:
    count, result = len(values), []
    for k in range(0, len(sums), count):
        weight = _splat_at(builder, data, further(builder, index, k // count, stride))
        result += [_fma(builder, weight, *pair) for pair in zip(values, sums[k : k + count], strict=True)]
    return result


@emitted(VEC, VEC, FLOATS, INDEX, VECS, gives=lambda first, second, array, index, sums: sums)
def axpy_pair(builder: Any, first: Any, second: Any, data: Any, index: Any, sums: Any) -> Any:
    """`sums` + vector * row, lane by lane: the first half of `sums` belongs to `first`, the other to `second`."""
    half = len(sums) // 2
    rows = [_load(builder, data, further(builder, index, k * LANES)) for k in range(half)]
    factors = [first] * half + [second] * half
    return [_fma(builder, *each) for each in zip(factors, rows + rows, sums, strict=True)]


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


# --- images as bytes ------------------------------------------------------------------------------------

_BYTES, _SHORTS, _WORDS = flat(types.uint8), flat(types.uint16), flat(types.uint32)
_WHOLE = Kind(lambda a: isinstance(getattr(a, "dtype", None), types.Integer) and flat(a.dtype).fits(a))
_WORD = Kind(lambda a: True, types.uint64)

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
    kinds = map(_I32, (0, 2, 1))  # to read, into the second-level cache, data
    _call(builder, "prefetch.p0", ir.VoidType(), where, *kinds)


def _permuted(builder: Any, values: Any, places: Any) -> Any:
    """values[places[k]] for each of eight k: one instruction with AVX2."""
    if has_feature("avx2"):
        return _call(builder, "x86.avx2.permd", values.type, values, places)
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
    start = builder.insert_element(zeros, builder.trunc(column, _I32), _I32(0))
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


first_bit = emitted(_WORD, gives=types.int64)(lambda b, bits: b.cttz(bits, _I1(1)))
count_bits = emitted(_WORD, gives=types.int64)(lambda b, bits: b.ctpop(bits))


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
