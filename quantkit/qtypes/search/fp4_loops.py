"""Loops of the types of four-bit floats (E2M1), MXFP4 and NVFP4, whose levels are doubled to be integers."""

from __future__ import annotations

import math

import numpy as np

from quantkit.qtypes.search.compilation import compiled, inlined
from quantkit.qtypes.search.fp4 import LEVELS


@inlined
def _nearest_level(x, unit):  # type: ignore[no-untyped-def]
    """Code of the level nearest to x; comparing with the midpoints between levels is exact, like the reference."""
    size = abs(x)
    code = np.uint8(size > np.float32(0.5) * unit)
    code += np.uint8(size > np.float32(1.5) * unit)
    code += np.uint8(size > np.float32(2.5) * unit)
    code += np.uint8(size > np.float32(3.5) * unit)
    code += np.uint8(size > np.float32(5) * unit)
    code += np.uint8(size > np.float32(7) * unit)
    code += np.uint8(size > np.float32(10) * unit)
    negative = (x < np.float32(0)) & (code > np.uint8(0))
    return np.uint8(code | (np.uint8(negative) << np.uint8(3)))


@compiled
def mxfp4_exponents(bits, exponent):  # type: ignore[no-untyped-def]
    """The stored exponent (n,) of each block, given as patterns (n, 32).

    The reference computes floor(log2f(largest)) - 2 + 127 and keeps its low eight bits. A logarithm rounded to
    float32 reaches the next integer just below a power of two, hence not simply the exponent of the largest weight.
    """
    for i in range(bits.shape[0]):
        largest = np.uint32(0)
        for j in range(bits.shape[1]):
            largest = max(largest, bits[i, j] & np.uint32(0x7FFFFFFF))
        exponent[i] = 0
        if largest > 0:
            log = np.float32(math.log2(np.float64(np.uint32(largest).view(np.float32))))
            stored = np.uint8(np.int32(math.floor(log)) + 125)
            # The reference writes "not a number" for blocks of at most 2**-125 and then refuses its own output; with
            # the smallest scale these blocks are well represented.
            exponent[i] = stored if stored != 255 else 0


@compiled
def round_mxfp4(blocks, scale, raw):  # type: ignore[no-untyped-def]
    """Fill bytes 1 to 16 of `raw` (n, 17) with the nearest levels of blocks (n, 32); the smaller one wins a tie."""
    for i in range(blocks.shape[0]):
        unit = scale[i]
        for j in range(16):
            low = _nearest_level(blocks[i, j], unit)
            raw[i, 1 + j] = low | np.uint8(_nearest_level(blocks[i, 16 + j], unit) << np.uint8(4))


@inlined
def _nearest(x, unit):  # type: ignore[no-untyped-def]
    """Code of the level nearest to x; the first of those that float32 finds equally near."""
    if abs(x) <= np.float32(16) * unit:  # distances are exact where they matter
        return _nearest_level(x, unit) if unit > np.float32(0) else np.uint8(0)
    best, code = abs(x), np.uint8(0)
    for i in range(1, 16):
        distance = abs(LEVELS[i] * unit - x)
        if distance < best:
            best, code = distance, np.uint8(i)
    return code


@compiled
def round_nvfp4(groups, scale, qs):  # type: ignore[no-untyped-def]
    """Fill qs (n, 8) with the nearest levels of groups (n, 16); the smaller one wins a tie."""
    for i in range(groups.shape[0]):
        unit = scale[i]
        for j in range(8):
            low, high = _nearest(groups[i, j], unit), _nearest(groups[i, 8 + j], unit)
            qs[i, j] = low | np.uint8(high << np.uint8(4))
