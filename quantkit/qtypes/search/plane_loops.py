"""Compiled loops over bit planes: see planes.py. A plane is a row (at, bits, span, shift) of an int64 array."""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import compiled, inlined
from quantkit.qtypes.search.groups import SUPER
from quantkit.qtypes.search.lanes import flattened
from quantkit.qtypes.search.octets import store_bits, store_merged

# Steps of loops are literals: counting the steps of another range takes a division, which is slower than a plane.
# Literal ends, where there can be, unroll them.


@inlined
def _pack_nibbles(codes, first, block, span, shift, raw, to):  # type: ignore[no-untyped-def]
    """Write the bits [shift, shift + 4) of `block` codes from codes[first]."""
    if span == 16:
        for at in range(0, block, 32):
            store_merged(codes, first + at, 16, shift, raw, to + at // 2, 4, 16)
    elif span == 32:
        for at in range(0, SUPER, 64):
            store_merged(codes, first + at, 32, shift, raw, to + at // 2, 4, 32)
    elif span == 8:
        for at in range(0, block, 16):
            store_merged(codes, first + at, 8, shift, raw, to + at // 2, 4, 8)
    else:
        for at in range(0, SUPER, 128):
            store_merged(codes, first + at, 64, shift, raw, to + at // 2, 4, 64)


@inlined
def pack_block(codes, first, block, planes, raw, start):  # type: ignore[no-untyped-def]
    """Write `block` codes from codes[first], uint8 counted from 0, to the planes of the block at byte `start` of raw.

    raw is flat. The planes are of planes.WRITTEN.
    """
    for p in range(planes.shape[0]):
        to, bits, span, shift = start + planes[p, 0], planes[p, 1], planes[p, 2], planes[p, 3]
        if bits == 4:
            _pack_nibbles(codes, first, block, span, shift, raw, to)
        elif bits == 2 and span == 32:
            for at in range(0, SUPER, 128):
                store_merged(codes, first + at, 32, shift, raw, to + at // 4, 2, 32)
        elif bits == 2:
            for at in range(0, block, 16):
                store_merged(codes, first + at, 4, shift, raw, to + at // 4, 2, 4)
        elif span == 32:
            for at in range(0, SUPER, 256):
                store_merged(codes, first + at, 32, shift, raw, to + at // 8, 1, 32)
        else:
            for at in range(0, block, 32):
                store_bits(codes, first + at, shift, raw, to + at // 8)


@compiled
def pack_blocks(codes, low, planes, raw):  # type: ignore[no-untyped-def]
    """Write codes int16 (n, block), of which `low` is stored as 0, to the planes of raw (n, nbytes)."""
    n, block = codes.shape
    counted, flat = np.empty(block, np.uint8), flattened(raw)
    for b in range(n):
        for i in range(block):
            counted[i] = codes[b, i] - low
        pack_block(counted, 0, block, planes, flat, b * raw.shape[1])


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
