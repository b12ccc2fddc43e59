"""Conversions between float32, float16 and bfloat16, exact and as fast as memory allows.

All rounding is to nearest, ties to even, as in ggml. Every kernel takes and returns bit patterns, so that no
arithmetic flag of the process (flush to zero) can change a result.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import NonFiniteError
from quantkit.qtypes.kept import kept
from quantkit.tensors import F32, U8

U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]

# Magnitudes (float32 bit patterns without sign) from which a value rounds to infinity.
F16_OVERFLOW = 0x477FF000  # 65520, half-way between the largest float16 (65504) and 65536
BF16_OVERFLOW = 0x7F7F8000  # half-way between the largest bfloat16 (3.3895e38) and 2**128
F32_OVERFLOW = 0x7F800000  # infinity itself
FEW = 1 << 16  # numbers


@kept
def _narrow_f16(src: U32, dst: U16) -> np.uint32:
    """Round float32 patterns to float16 patterns; return the largest magnitude pattern seen."""
    worst = np.uint32(0)
    for i in range(src.size):
        bits = src[i]
        magnitude = bits & np.uint32(0x7FFFFFFF)
        worst = max(worst, magnitude)
        normal = (magnitude + np.uint32(0xFFF) + ((magnitude >> np.uint32(13)) & np.uint32(1))) - np.uint32(0x38000000)
        # Below 2**-14 a float16 is a multiple of 2**-24: adding 2**23 rounds that multiple to an integer.
        small = np.uint32(min(magnitude, np.uint32(0x38800000))).view(np.float32)
        summed = np.float32(small * np.float32(16777216.0) + np.float32(8388608.0))
        steps = summed.view(np.uint32) & np.uint32(0x7FFFFF)
        rounded = steps if magnitude < np.uint32(0x38800000) else normal >> np.uint32(13)
        dst[i] = rounded | ((bits >> np.uint32(16)) & np.uint32(0x8000))
    return worst


@kept
def _narrow_bf16(src: U32, dst: U16) -> np.uint32:
    """Round float32 patterns to bfloat16 patterns; return the largest magnitude pattern seen."""
    worst = np.uint32(0)
    for i in range(src.size):
        bits = src[i]
        worst = max(worst, bits & np.uint32(0x7FFFFFFF))
        dst[i] = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return worst


@kept
def _widen_f16(src: U16, dst: U32) -> None:
    for i in range(src.size):
        bits = np.uint32(src[i])
        magnitude = bits & np.uint32(0x7FFF)
        normal = (magnitude << np.uint32(13)) + np.uint32(0x38000000)
        special = (magnitude << np.uint32(13)) | np.uint32(0x7F800000)
        small = np.float32(np.float32(np.int32(magnitude)) * np.float32(2.0**-24)).view(np.uint32)
        value = small if magnitude < np.uint32(0x400) else normal
        value = special if magnitude >= np.uint32(0x7C00) else value
        dst[i] = value | ((bits & np.uint32(0x8000)) << np.uint32(16))


@kept
def _widen_bf16(src: U16, dst: U32) -> None:
    for i in range(src.size):
        dst[i] = np.uint32(src[i]) << np.uint32(16)


@kept
def _largest_magnitude(src: U32) -> np.uint32:
    worst = np.uint32(0)
    for i in range(src.size):
        worst = max(worst, src[i] & np.uint32(0x7FFFFFFF))
    return worst


def _few(size: int) -> bool:
    """Whether numpy is to do it, since importing the compiler would take longer: vectors in a file of floats."""
    return size <= FEW and "numba" not in sys.modules


def _numpy_largest_magnitude(src: U32) -> int:
    return int((src & np.uint32(0x7FFFFFFF)).max(initial=0))


def _numpy_widen_bf16(src: U16, dst: U32) -> None:
    np.left_shift(src.astype(np.uint32), np.uint32(16), out=dst)


def _numpy_widen_f16(src: U16, dst: U32) -> None:
    """See `_widen_f16`."""
    bits = src.astype(np.uint32)
    magnitude = bits & np.uint32(0x7FFF)
    shifted = magnitude << np.uint32(13)
    small = (magnitude.astype(np.float32) * np.float32(2.0**-24)).view(np.uint32)
    value = np.where(magnitude < 0x400, small, shifted + np.uint32(0x38000000))
    value = np.where(magnitude >= 0x7C00, shifted | np.uint32(0x7F800000), value)
    np.bitwise_or(value, (bits & np.uint32(0x8000)) << np.uint32(16), out=dst)


def _bits(x: F32) -> U32:
    """`x` as a flat, contiguous, aligned, read-only array of bit patterns.

    Read-only, because numba compiles a kernel anew for every mutability it meets.
    """
    bits = np.require(x, np.float32, ["C", "A"]).reshape(-1).view(np.uint32)
    bits.flags.writeable = False
    return bits


def first_nonfinite(x: F32) -> int:
    """Flat index of the first NaN or infinity in `x` (float32, any shape); -1 if all are finite."""
    bits = _bits(x)
    largest = _numpy_largest_magnitude if _few(bits.size) else _largest_magnitude
    if largest(bits) < F32_OVERFLOW:
        return -1
    return int(np.argmax((bits & 0x7FFFFFFF) >= F32_OVERFLOW))


def all_finite(raw: U8, dtype: str) -> bool:
    """Whether little-endian `raw` bytes (any shape) of dtype "F32", "F16" or "BF16" hold neither NaN nor infinity.

    Two maxima instead of a look at every exponent: of positive patterns as signed integers, of negative ones, which
    have the top bit and so are the larger ones, as unsigned.
    """
    size, infinity = {"F32": (4, 0x7F800000), "F16": (2, 0x7C00), "BF16": (2, 0x7F80)}[dtype]
    flat = raw.reshape(-1)
    signed, unsigned = flat.view(f"<i{size}"), flat.view(f"<u{size}")
    negative = infinity | 1 << (8 * size - 1)
    return int(signed.max(initial=0)) < infinity and int(unsigned.max(initial=0)) < negative


def to_f16(x: F32) -> U16:
    """Round float32 (any shape) to float16 patterns of the same shape.

    Raises NonFiniteError, with the flat index, for a value that is not finite or becomes infinite.
    """
    bits = _bits(x)
    out = np.empty(bits.size, np.uint16)
    if _narrow_f16(bits, out) >= F16_OVERFLOW:
        raise _overflow(bits, F16_OVERFLOW, "float16, whose largest value is 65504")
    return out.reshape(x.shape)


def to_bf16(x: F32) -> U16:
    """Round float32 (any shape) to bfloat16 patterns of the same shape.

    Raises NonFiniteError, with the flat index, for a value that is not finite or becomes infinite.
    """
    bits = _bits(x)
    out = np.empty(bits.size, np.uint16)
    if _narrow_bf16(bits, out) >= BF16_OVERFLOW:
        raise _overflow(bits, BF16_OVERFLOW, "bfloat16, whose largest value is 3.39e38")
    return out.reshape(x.shape)


def f16_scales(scale: F32, block: int) -> U8:
    """Little-endian float16 bytes (n, 2) of one scale per block, float32 (n,).

    Raises NonFiniteError, with the flat index of the first weight of the block, for a scale that float16 cannot
    hold: the reference implementation writes infinity there and then refuses its own output.
    """
    try:
        return to_f16(scale).view(np.uint8).reshape(-1, 2)
    except NonFiniteError as error:
        index = (error.index or 0) * block
        raise NonFiniteError(
            f"the block of {block} weights at index {index} needs a scale of {scale[index // block]:g}, "
            "which float16 cannot hold",
            index=index,
            hint="keep this tensor in bf16 or f32",
        ) from None


def to_float32(raw: U8, dtype: str, out: F32) -> None:
    """Decode little-endian `raw` bytes of dtype "F32", "F16" or "BF16" into `out`, exactly.

    `raw` is a flat contiguous uint8 array, any alignment; `out` is a contiguous float32 array of as many elements.
    NaN stays NaN and infinity stays infinity: see `first_nonfinite`.
    """
    assert out.flags.c_contiguous, "out must be contiguous"
    assert out.dtype == np.float32, out.dtype
    flat = out.reshape(-1)
    if dtype == "F32":
        flat.view(np.uint8)[:] = raw
        return
    source = np.require(raw.view(np.uint16), requirements="A")  # copies a misaligned slice of a mapped file
    assert source.size == flat.size, (source.size, flat.size)
    source = source.view()
    source.flags.writeable = False
    few = {"F16": _numpy_widen_f16, "BF16": _numpy_widen_bf16}
    widen = (few if _few(flat.size) else {"F16": _widen_f16, "BF16": _widen_bf16})[dtype]
    widen(source, flat.view(np.uint32))


def _overflow(bits: U32, limit: int, what: str) -> NonFiniteError:
    index = int(np.argmax((bits & 0x7FFFFFFF) >= limit))
    value = float(bits.view(np.float32)[index])
    return NonFiniteError(
        f"weight {value:g} at index {index} does not fit {what}",
        index=index,
        hint="keep this tensor in f32" if limit == BF16_OVERFLOW else "keep this tensor in bf16 or f32",
    )
