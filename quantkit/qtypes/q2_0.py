"""Q2_0: 64 weights of two bits and one scale; its encoder writes three of the four values.

struct block_q2_0, 18 bytes
+------+------------+
| d    | qs         |    value = d * (q - 1)
| f16  | 16 bytes   |
+------+------------+
0      2            18

qs: bits 2 (i % 4) and up of byte i // 4 are weight i.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.floats import f16_scales
from quantkit.qtypes.kept import kept
from quantkit.tensors import F32, U8

BLOCK = 64
NBYTES = 18
SHIFTS = np.arange(0, 8, 2, dtype=np.uint8)


@kept
def _encode(blocks: F32, raw: U8, scale: F32) -> None:
    """Fill the codes of `raw` (n, 18) and the unrounded scales (n,) of `blocks` (n, 64)."""
    half = np.float32(0.5)
    for i in range(blocks.shape[0]):
        d = np.float32(0)
        for j in range(BLOCK):
            d = max(d, np.abs(blocks[i, j]))
        inverse = np.float32(1) / d if d > 0 else np.float32(0)
        # So small that 1 / d overflows: no product is a number that rounds to a code, and the reference stores 0.
        usable = inverse < np.float32(np.inf)
        scale[i] = d
        for m in range(BLOCK // 4):
            packed = np.uint8(0)
            for n in range(4):
                x = blocks[i, 4 * m + n] * inverse
                code = np.uint8(1) + np.uint8(x >= half) - np.uint8(x <= -half) if usable else np.uint8(0)
                packed |= np.uint8(code << (2 * n))
            raw[i, 2 + m] = packed


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 64 * 18), as ggml's quantize_row_q2_0_ref. No importance.

    The scale is max|x|; codes are x / scale rounded half away from zero before the scale is rounded to float16.
    """
    blocks = as_blocks(w, BLOCK)
    raw = np.empty((len(blocks), NBYTES), np.uint8)
    scale = np.empty(len(blocks), np.float32)
    _encode(blocks, raw, scale)
    raw[:, :2] = f16_scales(scale, BLOCK)
    return raw.reshape(w.shape[0], w.shape[1] // BLOCK * NBYTES)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The grid -d, 0, d, 2 d with d the largest magnitude of each block."""
    return _grid(f16_scales(np.abs(as_blocks(w, BLOCK)).max(axis=1), BLOCK))


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 64), -1 to 2, to bytes (n, 18)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    raw[:, :2] = grid.fields["d"]
    raw[:, 2:] = np.bitwise_or.reduce((codes + 1).astype(np.uint8).reshape(-1, 16, 4) << SHIFTS, axis=2)
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 18) to codes int16 (n, 64) and their grid."""
    codes = raw[:, 2:, None] >> SHIFTS & 3  # (n, 16, 4)
    return codes.reshape(-1, BLOCK).astype(np.int16) - np.int16(1), _grid(raw[:, :2])


def _grid(d: U8) -> Grid:
    d = np.ascontiguousarray(d)
    return Grid(scale=d.view("<f2").astype(np.float32), offset=None, qmin=-1, qmax=2, fields={"d": d})


TYPE = QuantType(
    name="q2_0", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, pack=pack, unpack=unpack, gguf=42, code_bytes=16,
    inputs="q8_0",
)  # fmt: skip
