"""Codes as bytes, from lanes and into bit planes, for use inside numba functions: see lanes.py and plane_loops.py."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]  # the code generator that numba is built on
from numba import types
from numba.extending import intrinsic

from quantkit.qtypes.search.lanes import MANTISSA, ROUND_MAGIC, constant, ints, pointer, splatted

ZERO_BITS = 0x400000  # of the mantissa, where ROUND_MAGIC is added to nothing
I8, I16, I32 = ir.IntType(8), ir.IntType(16), ir.IntType(32)


@intrinsic
def store_bytes(_context: Any, octets: Any, at: Any, value: Any) -> Any:
    """Write the low bytes of lanes that hold integers to bytes [at, at + width) of a C-contiguous array of bytes."""
    vector = ir.VectorType(I8, value.width)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = pointer(context, builder, signature.args[0], args[0], args[1], vector)
        low = builder.trunc(builder.fptosi(args[2], ints(value.width)), vector)
        builder.store(low, place).align = 1
        return context.get_dummy_value()

    return types.none(octets, types.intp, value), emit


@intrinsic
def store_nearest(_context: Any, octets: Any, at: Any, value: Any, low: Any, high: Any, zero: Any) -> Any:
    """Write clip(nearest(value), low, high) - zero, of integers `low`, `high` and `zero`, as `store_bytes` does.

    What is nearest is meant as in lanes.nearest, for every input: here the integer is not turned into a float again.
    """
    vector = ints(value.width)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        shifted = builder.fadd(args[2], constant(args[2].type, ROUND_MAGIC))
        number = builder.and_(builder.bitcast(shifted, vector), constant(vector, MANTISSA))
        of_zero = ir.Constant(I32, ZERO_BITS)
        ends = (splatted(builder, builder.add(builder.trunc(end, I32), of_zero), vector) for end in args[3:])
        least, most, first = ends
        number = builder.select(builder.icmp_signed("<", number, least), least, number)
        number = builder.select(builder.icmp_signed(">", number, most), most, number)
        octet = ir.VectorType(I8, value.width)
        place = pointer(context, builder, signature.args[0], args[0], args[1], octet)
        builder.store(builder.trunc(builder.sub(number, first), octet), place).align = 1
        return context.get_dummy_value()

    return types.none(octets, types.intp, value, types.int64, types.int64, types.int64), emit


@intrinsic(prefer_literal=True)
def store_merged(
    _context: Any, codes: Any, at: Any, span: Any, shift: Any, raw: Any, to: Any, bits: Any, width: Any
) -> Any:
    """Write `width` bytes to raw[to:], byte i made of bits [shift, shift + bits) of codes at + i + k * span.

    k = 0, 1, ... counts from the lowest bits of the byte. codes and raw are uint8, `bits` (1, 2 or 4) and `width`
    literals.
    """
    step = bits.literal_value
    pairs = ir.VectorType(I16, width.literal_value // 2)

    # Two bytes at a time: what a shift brings from one to the other is masked.
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        right = splatted(builder, builder.trunc(args[3], I16), pairs)
        merged = None
        for k in range(8 // step):
            offset = builder.add(args[1], builder.mul(args[2], ir.Constant(ir.IntType(64), k)))
            code = builder.load(pointer(context, builder, signature.args[0], args[0], offset, pairs))
            code.align = 1
            part = builder.and_(builder.lshr(code, right), constant(pairs, ((1 << step) - 1) * 0x0101))
            part = builder.shl(part, constant(pairs, step * k))
            merged = part if merged is None else builder.or_(merged, part)
        builder.store(merged, pointer(context, builder, signature.args[4], args[4], args[5], pairs)).align = 1
        return context.get_dummy_value()

    return types.none(codes, types.intp, types.intp, types.intp, raw, types.intp, bits, width), emit


@intrinsic
def store_bits(_context: Any, codes: Any, at: Any, shift: Any, raw: Any, to: Any) -> Any:
    """Write 4 bytes to raw[to:], little-endian, bit i being bit `shift` of code at + i, for 32 codes uint8."""
    width = 32

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(I8, width)
        code = builder.load(pointer(context, builder, signature.args[0], args[0], args[1], vector))
        code.align = 1
        moved = builder.lshr(code, splatted(builder, builder.trunc(args[2], I8), vector))
        word = builder.bitcast(builder.trunc(moved, ir.VectorType(ir.IntType(1), width)), I32)
        builder.store(word, pointer(context, builder, signature.args[3], args[3], args[4], I32)).align = 1
        return context.get_dummy_value()

    return types.none(codes, types.intp, types.intp, raw, types.intp), emit
