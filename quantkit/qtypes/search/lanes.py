"""Vectors of float32 as values inside numba functions: one lane is one group of weights.

ggml searches one group after another; its sums run in a fixed order, so one search cannot be vectorized without
changing bytes. Many searches side by side can: lane k of every vector belongs to group k, and each lane sees exactly
the operations of the reference, in its order. Numba's loop vectorizer does not find this by itself (accumulators
stay in memory), so the vectors are explicit here: `load`, `store`, arithmetic, comparison, `select`. They compile to
whatever the host has (AVX-512, AVX2, NEON), and never to a fused multiply-add: LLVM fuses only where a flag allows.

Everything in this module is for use inside `@njit` functions; `width` is always a literal, a power of two.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]  # the code generator that numba is built on
from numba import types
from numba.core import cgutils, errors
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable
from numba.np import arrayobj

# Adding 1.5 * 2**23 leaves the nearest integer (ties to even) in the low mantissa bits.
ROUND_MAGIC = 12582912.0
MANTISSA = 0x007FFFFF
TWO_TO_23_BITS = 0x4B000000  # 2.0**23: with a mantissa m or-ed in it is 2**23 + m
TWO_TO_23 = 8388608.0

I32 = ir.IntType(32)


class Lanes(types.Type):  # type: ignore[misc]  # a numba type is a subclass of numba's Type
    """A vector of `width` float32."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(f"Lanes({width})")


class Mask(types.Type):  # type: ignore[misc]
    """A vector of `width` booleans, the result of comparing lanes."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(f"Mask({width})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, _floats(lanes.width))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, mask: Mask) -> None:
        super().__init__(manager, mask, ir.VectorType(ir.IntType(1), mask.width))


def _floats(width: int) -> ir.VectorType:
    return ir.VectorType(ir.FloatType(), width)


def ints(width: int) -> ir.VectorType:
    return ir.VectorType(I32, width)


def constant(vector: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _register_operator(op: Callable[..., Any], operand: Any, result: Any, emit: Callable[..., Any]) -> None:
    """Give the Python operator `op` a meaning for two vectors of one width."""

    @type_callable(op)
    def _type(_context: Any) -> Callable[..., Any]:
        def typer(a: Any, b: Any) -> Any:
            return result(a.width) if isinstance(a, operand) and a == b else None

        return typer

    @lower_builtin(op, operand, operand)
    def _lower(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return emit(builder, *args)


_register_operator(operator.add, Lanes, Lanes, lambda builder, a, b: builder.fadd(a, b))
_register_operator(operator.sub, Lanes, Lanes, lambda builder, a, b: builder.fsub(a, b))
_register_operator(operator.mul, Lanes, Lanes, lambda builder, a, b: builder.fmul(a, b))
_register_operator(operator.truediv, Lanes, Lanes, lambda builder, a, b: builder.fdiv(a, b))
_register_operator(operator.lt, Lanes, Mask, lambda builder, a, b: builder.fcmp_ordered("<", a, b))
_register_operator(operator.gt, Lanes, Mask, lambda builder, a, b: builder.fcmp_ordered(">", a, b))
_register_operator(operator.eq, Lanes, Mask, lambda builder, a, b: builder.fcmp_ordered("==", a, b))
_register_operator(operator.ne, Lanes, Mask, lambda builder, a, b: builder.fcmp_unordered("!=", a, b))
_register_operator(operator.and_, Mask, Mask, lambda builder, a, b: builder.and_(a, b))
_register_operator(operator.or_, Mask, Mask, lambda builder, a, b: builder.or_(a, b))


@type_callable(operator.invert)
def _type_invert(_context: Any) -> Callable[..., Any]:
    return lambda mask: mask if isinstance(mask, Mask) else None


@lower_builtin(operator.invert, Mask)
def _lower_invert(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
    return builder.not_(args[0])


@intrinsic(prefer_literal=True)
def splat(_context: Any, value: Any, width: Any) -> Any:
    """The float32 `value` in all lanes."""
    lanes = Lanes(width.literal_value)

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return splatted(builder, args[0], _floats(lanes.width))

    return lanes(types.float32, width), emit


def splatted(builder: Any, value: Any, vector: Any) -> Any:
    empty = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, empty, constant(ints(vector.count), 0))


def pointer(context: Any, builder: Any, array: Any, value: Any, at: Any, vector: Any) -> Any:
    data = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())


@intrinsic
def flattened(_context: Any, array: Any) -> Any:
    """A C-contiguous array in one dimension: its numbers as they lie. numba's `reshape` calls a function of its own."""
    if array.layout != "C":
        raise errors.TypingError(f"{array} does not lie as C has it")
    along = array.copy(ndim=1)

    def emit(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        given, made = context.make_array(array)(context, builder, args[0]), context.make_array(along)(context, builder)
        parts = {name: getattr(given, name) for name in ("data", "itemsize", "meminfo", "parent")}
        arrayobj.populate_array(made, shape=[given.nitems], strides=[given.itemsize], **parts)
        return impl_ret_borrowed(context, builder, along, made._getvalue())

    return along(array), emit


@intrinsic(prefer_literal=True)
def load(_context: Any, array: Any, at: Any, width: Any) -> Any:
    """Elements [at, at + width) of the flat order of a C-contiguous float32 array; bounds are the caller's."""
    lanes = Lanes(width.literal_value)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = pointer(context, builder, signature.args[0], args[0], args[1], _floats(lanes.width))
        value = builder.load(address)
        value.align = 4
        return value

    return lanes(array, types.intp, width), emit


@intrinsic
def prefetch(_context: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line of element `at` of the flat order of an array, which may lie beyond its end."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line = pointer(context, builder, signature.args[0], args[0], args[1], ir.IntType(8))
        ask = ir.FunctionType(ir.VoidType(), [line.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, ask, "llvm.prefetch.p0")
        builder.call(function, [line, ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)])
        return context.get_dummy_value()

    return types.none(array, types.intp), emit


@intrinsic
def store(_context: Any, array: Any, at: Any, value: Any) -> Any:
    """Write the lanes to elements [at, at + width) of a C-contiguous float32 array."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = pointer(context, builder, signature.args[0], args[0], args[1], _floats(value.width))
        builder.store(args[2], address).align = 4
        return context.get_dummy_value()

    return types.none(array, types.intp, value), emit


@intrinsic
def store_int32(_context: Any, array: Any, at: Any, value: Any) -> Any:
    """Write lanes that hold integers to elements [at, at + width) of a C-contiguous int32 array."""
    vector = ints(value.width)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = pointer(context, builder, signature.args[0], args[0], args[1], vector)
        builder.store(builder.fptosi(args[2], vector), address).align = 4
        return context.get_dummy_value()

    return types.none(array, types.intp, value), emit


@intrinsic
def select(_context: Any, mask: Any, a: Any, b: Any) -> Any:
    """Lane by lane: a where the mask holds, else b."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return a(mask, a, b), emit


@intrinsic
def lane_bits(_context: Any, mask: Any) -> Any:
    """The mask as an integer: bit k is lane k."""
    bits = ir.IntType(mask.width)

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(args[0], bits), ir.IntType(64))

    return types.uint64(mask), emit


@intrinsic
def first_lane(_context: Any, bits: Any) -> Any:
    """The lowest lane that is set in `lane_bits`, int64; 64 where none is."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), emit


@intrinsic
def total(_context: Any, value: Any) -> Any:
    """The sum of all lanes: halves are added lane by lane until one is left, whatever the host's vectors."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        found, width = args[0], value.width
        while width > 1:
            width //= 2
            low, high = (ir.Constant(ints(width), [start + k for k in range(width)]) for start in (0, width))
            found = builder.fadd(builder.shuffle_vector(found, found, low), builder.shuffle_vector(found, found, high))
        return builder.extract_element(found, ir.Constant(I32, 0))

    return types.float32(value), emit


@intrinsic
def absolute(_context: Any, value: Any) -> Any:
    """Clear the sign bit."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], ints(value.width))
        return builder.bitcast(builder.and_(bits, constant(bits.type, 0x7FFFFFFF)), args[0].type)

    return value(value), emit


@intrinsic
def square_root(_context: Any, value: Any) -> Any:
    """Correctly rounded square root."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        vector = args[0].type
        root = ir.FunctionType(vector, [vector])
        name = f"llvm.sqrt.v{value.width}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, root, name), args)

    return value(value), emit


def _rounded_bits(builder: Any, value: Any, keep: int) -> Any:
    """Bits of 2**23 + (low bits `keep` of the rounded value's mantissa)."""
    bits = builder.bitcast(builder.fadd(value, constant(value.type, ROUND_MAGIC)), ints(value.type.count))
    kept = builder.and_(bits, constant(bits.type, keep))
    return builder.bitcast(builder.or_(kept, constant(bits.type, TWO_TO_23_BITS)), value.type)


@intrinsic
def nearest(_context: Any, value: Any) -> Any:
    """Nearest integer, ties to even, as float32.

    Like ggml's nearest_int, for *every* input: only mantissa bits survive, so that NaN gives 0 and an infinity or a
    magnitude of 2**22 and more gives the same odd integer as there. The result is always finite.
    """

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        rounded = _rounded_bits(builder, args[0], MANTISSA)
        return builder.fsub(rounded, constant(args[0].type, ROUND_MAGIC))

    return value(value), emit


@intrinsic
def nearest_small(_context: Any, value: Any) -> Any:
    """Nearest integer, ties to even, as float32, of values below 2**22 in magnitude."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        magic = constant(args[0].type, ROUND_MAGIC)
        return builder.fsub(builder.fadd(args[0], magic), magic)

    return value(value), emit


@intrinsic
def whole(_context: Any, value: Any) -> Any:
    """Nearest integer, ties to even, as float32: any value that is one already, infinities and NaN stay.

    One instruction where `nearest_small` takes two; a small negative value gives the negative zero.
    """

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        vector = args[0].type
        even = ir.FunctionType(vector, [vector])
        name = f"llvm.roundeven.v{value.width}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, even, name), args)

    return value(value), emit


@intrinsic
def low_byte(_context: Any, value: Any) -> Any:
    """An integer in float32 lanes as C reads it back from a uint8: modulo 256."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        rounded = _rounded_bits(builder, args[0], 0xFF)
        return builder.fsub(rounded, constant(args[0].type, TWO_TO_23))

    return value(value), emit


@intrinsic
def truncated(_context: Any, value: Any) -> Any:
    """Integer part, as float32; 0 where it does not fit an int32 or is NaN."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        vector = args[0].type
        magnitude = builder.bitcast(
            builder.and_(builder.bitcast(args[0], ints(value.width)), constant(ints(value.width), 0x7FFFFFFF)),
            vector,
        )
        fits = builder.fcmp_ordered("<", magnitude, constant(vector, 2147483648.0))
        safe = builder.select(fits, args[0], constant(vector, 0.0))
        return builder.sitofp(builder.fptosi(safe, ints(value.width)), vector)

    return value(value), emit


@intrinsic(prefer_literal=True)
def transpose(_context: Any, source: Any, starts: Any, column: Any, target: Any, at: Any, pitch: Any) -> Any:
    """Turn 16 rows of 16 float32 into 16 columns.

    Row r is source[starts[r] + column :][:16]; element i of every row goes to target[at + i * pitch :][:16].
    Four rounds of pairwise exchange: blocks of 8, 4, 2 and 1 lanes.
    """
    side = 16
    vector = _floats(side)

    def exchange(builder: Any, rows: list[Any], distance: int) -> list[Any]:
        low = [p if not p & distance else side + p - distance for p in range(side)]
        high = [p + distance if not p & distance else side + p for p in range(side)]
        out = list(rows)
        for r in range(side):
            if not r & distance:
                pair = rows[r], rows[r + distance]
                out[r] = builder.shuffle_vector(*pair, ir.Constant(ints(side), low))
                out[r + distance] = builder.shuffle_vector(*pair, ir.Constant(ints(side), high))
        return out

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first_row = context.make_array(signature.args[1])(context, builder, args[1]).data
        rows = []
        for r in range(side):
            start = builder.load(builder.gep(first_row, [ir.Constant(ir.IntType(64), r)]))
            offset = builder.add(start, args[2])
            row = builder.load(pointer(context, builder, signature.args[0], args[0], offset, vector))
            row.align = 4
            rows.append(row)
        for distance in (8, 4, 2, 1):
            rows = exchange(builder, rows, distance)
        for i, row in enumerate(rows):
            offset = builder.add(args[4], builder.mul(args[5], ir.Constant(ir.IntType(64), i)))
            builder.store(row, pointer(context, builder, signature.args[3], args[3], offset, vector)).align = 4
        return context.get_dummy_value()

    return types.none(source, starts, types.intp, target, types.intp, types.intp), emit
