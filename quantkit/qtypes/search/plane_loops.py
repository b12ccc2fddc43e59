"""The compiled loops of planes.py."""

from __future__ import annotations

import numpy as np
from numba import njit


# Unsigned indices and 16-bit arithmetic let LLVM vectorize the innermost loops.
@njit(nogil=True, cache=True, error_model="numpy")
def pack_plane(codes, low, shift, bits, span, raw, at):  # type: ignore[no-untyped-def]
    """Write bits [shift, shift + bits) of codes - low, int16 (n, block), to raw (n, nbytes) from byte `at` on."""
    per, width = np.uint64(8 // bits), np.uint64(span)
    group = per * width
    mask, right, zero = np.uint16((1 << bits) - 1), np.uint16(shift), np.uint16(low)
    for block in range(codes.shape[0]):
        row, plane = codes[block], raw[block, at:]
        for g in range(np.uint64(row.size) // group):
            for j in range(per):
                left = np.uint16(np.uint64(bits) * j)
                first = g * group + j * width
                for i in range(width):
                    code = np.uint16(np.uint16(np.uint16(np.uint16(row[first + i]) - zero) >> right) & mask)
                    before = np.uint8(0) if j == np.uint64(0) else plane[g * width + i]
                    plane[g * width + i] = before | np.uint8(np.uint16(code << left))


@njit(nogil=True, cache=True, error_model="numpy")
def unpack_plane(raw, at, bits, span, shift, codes):  # type: ignore[no-untyped-def]
    """Add the plane's bits, moved to `shift`, to codes int16 (n, block)."""
    per, width = np.uint64(8 // bits), np.uint64(span)
    group = per * width
    mask, left = np.uint16((1 << bits) - 1), np.uint16(shift)
    for block in range(codes.shape[0]):
        row, plane = codes[block], raw[block, at:]
        for g in range(np.uint64(row.size) // group):
            for j in range(per):
                right = np.uint16(np.uint64(bits) * j)
                first = g * group + j * width
                for i in range(width):
                    code = np.uint16(np.uint16(np.uint16(plane[g * width + i]) >> right) & mask)
                    row[first + i] += np.int16(np.uint16(code << left))
