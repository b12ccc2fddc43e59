"""TQ1_0: 256 ternary weights, five to a byte, and one float16 scale (BitNet b1.58, TriLM).

struct block_tq1_0, 54 bytes
+----------------------+------------------+------+
| qs                   | qh               | d    |    value[j] = (t[j] - 1) * d
| 48 bytes, 5 trits    | 4 bytes, 4 trits | f16  |
+----------------------+------------------+------+
0                      48                 52     54

Byte m = 0..31 holds t[m + 32n], byte 32 + m (m = 0..15) holds t[160 + m + 16n], n = 0..4, and byte 48 + m
(m = 0..3) holds t[240 + m + 4n], n = 0..3, followed by a zero trit. The first trit is the most significant digit
of a number below 243, stored as the fraction number / 243 of 256, rounded up: multiplying by 3 modulo 256 brings
the next trit on top.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.floats import U32, f16_scales
from quantkit.qtypes.kept import kept
from quantkit.tensors import F32, U8

BLOCK = 256
NBYTES = 54

# Runs of bytes that share a layout: first byte, bytes, first weight, trits in each byte.
RUNS = ((0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4))


@kept
def _round(blocks: F32, bits: U32, trits: U8, scale: F32) -> None:
    """Fill trits (n, 256), 0 to 2, and the unrounded scales (n,). `bits` is `blocks` (n, 256) as patterns."""
    for i in range(blocks.shape[0]):
        largest = np.uint32(0)
        for j in range(BLOCK):
            largest = max(largest, bits[i, j] & np.uint32(0x7FFFFFFF))
        d = np.uint32(largest).view(np.float32)
        inverse = np.float32(1) / d
        # Zero, or so small that 1 / d overflows: the reference then stores zeros.
        if not inverse < np.float32(np.inf):
            inverse = np.float32(0)
        scale[i] = d
        for j in range(BLOCK):
            x = blocks[i, j] * inverse
            trits[i, j] = np.uint8(1) + np.uint8(x >= np.float32(0.5)) - np.uint8(x <= np.float32(-0.5))


@kept
def _pack(trits: U8, raw: U8) -> None:
    """Fill bytes 0 to 51 of `raw` (n, 54) from trits (n, 256)."""
    for i in range(trits.shape[0]):
        for first, count, start, digits in RUNS:
            for m in range(count):
                number = np.uint32(0)
                for n in range(5):
                    number *= np.uint32(3)
                    if n < digits:
                        number += trits[i, start + count * n + m]
                raw[i, first + m] = np.uint8((number * np.uint32(256) + np.uint32(242)) // np.uint32(243))


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 256 * 54), as ggml's quantize_row_tq1_0_ref. No importance.

    The scale is max|x|; codes are x / scale rounded half away from zero before the scale is rounded to float16.
    """
    blocks = as_blocks(w, BLOCK)
    trits = np.empty((len(blocks), BLOCK), np.uint8)
    scale = np.empty(len(blocks), np.float32)
    _round(blocks, blocks.view(np.uint32), trits, scale)
    return _bytes(trits, f16_scales(scale, BLOCK)).reshape(w.shape[0], w.shape[1] // BLOCK * NBYTES)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The grid -d, 0, d with d the largest magnitude of each block."""
    return _grid(f16_scales(np.abs(as_blocks(w, BLOCK)).max(axis=1), BLOCK))


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 256) to bytes (n, 54)."""
    return _bytes((codes + 1).astype(np.uint8), grid.fields["d"])


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 54) to codes int16 (n, 256) and their grid. Exact inverse of `pack` for bytes that `pack` writes."""
    codes = np.empty((len(raw), BLOCK), np.int16)
    powers = np.array([1, 3, 9, 27, 81], np.uint8)[:, None]
    for first, count, start, digits in RUNS:
        remainder = raw[:, None, first : first + count] * powers[:digits]  # (n, digits, count), modulo 256
        trits = remainder.astype(np.int16) * np.int16(3) >> 8
        codes[:, start : start + digits * count] = trits.reshape(len(raw), digits * count) - np.int16(1)
    return codes, _grid(raw[:, 52:])


def _bytes(trits: U8, d: NDArray[np.generic]) -> U8:
    raw = np.empty((len(trits), NBYTES), np.uint8)
    _pack(trits, raw)
    raw[:, 52:] = d
    return raw


def _grid(d: U8) -> Grid:
    d = np.ascontiguousarray(d)
    return Grid(scale=d.view("<f2").astype(np.float32), offset=None, qmin=-1, qmax=1, fields={"d": d})


TYPE = QuantType(
    name="tq1_0", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, pack=pack, unpack=unpack, gguf=34,
    code_bytes=52, inputs="q8_k",
)  # fmt: skip
