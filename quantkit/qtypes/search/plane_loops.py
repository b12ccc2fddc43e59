"""Compiled loops over bit planes: see planes.py. A plane is a row (at, bits, span, shift) of an int64 array."""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import compiled, inlined
from quantkit.qtypes.search.lanes import store_bits, store_merged


@inlined
def pack_block(codes, planes, raw, start):  # type: ignore[no-untyped-def]
    """Write int32 codes (block,), counted from 0, to the planes of the block at byte `start` of flat `raw`."""
    for p in range(planes.shape[0]):
        to, bits, span, shift = start + planes[p, 0], planes[p, 1], planes[p, 2], planes[p, 3]
        if span == 1:
            for at in range(0, codes.size, 32):
                store_bits(codes, at, shift, raw, to + at // 8)
            continue
        group = span * 8 // bits
        for first in range(0, codes.size, group):
            for i in range(0, span, 16):
                if bits == 4:
                    store_merged(codes, first + i, span, shift, 4, raw, to)
                elif bits == 2:
                    store_merged(codes, first + i, span, shift, 2, raw, to)
                else:
                    store_merged(codes, first + i, span, shift, 1, raw, to)
                to += 16


@compiled
def pack_blocks(codes, low, planes, raw):  # type: ignore[no-untyped-def]
    """Write codes int16 (n, block), of which `low` is stored as 0, to the planes of raw (n, nbytes)."""
    n, block = codes.shape
    counted, flat = np.empty(block, np.int32), raw.reshape(-1)
    for b in range(n):
        for i in range(block):
            counted[i] = codes[b, i] - low
        pack_block(counted, planes, flat, b * raw.shape[1])


# Unsigned indices and 16-bit arithmetic let LLVM vectorize the innermost loop.
@compiled
def unpack_plane(raw, at, bits, span, shift, codes):  # type: ignore[no-untyped-def]
    """Add a plane of raw (n, nbytes) to codes int16 (n, block)."""
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
