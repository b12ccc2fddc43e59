"""TQ2_0: 256 ternary weights of two bits each and one float16 scale (BitNet b1.58, TriLM).

struct block_tq2_0, 66 bytes
+-----------------------------+------+
| qs                          | d    |    value[j] = (q[j] - 1) * d
| 64 bytes, 4 codes in each   | f16  |
+-----------------------------+------+
0                             64     66

Half h of the block: bits 2n and 2n + 1 of byte 32h + m hold q[128h + 32n + m], n = 0..3, m = 0..31.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.floats import U32, f16_scales
from quantkit.qtypes.kept import kept
from quantkit.tensors import F32, U8

BLOCK = 256
NBYTES = 66


@kept
def _encode(blocks: F32, bits: U32, raw: U8, scale: F32) -> None:
    """Fill the codes of `raw` (n, 66) and the unrounded scales (n,). `bits` is `blocks` (n, 256) as patterns."""
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
        for half in range(2):
            for m in range(32):
                packed = np.uint8(0)
                for n in range(4):
                    x = blocks[i, 128 * half + 32 * n + m] * inverse
                    trit = np.uint8(1) + np.uint8(x >= np.float32(0.5)) - np.uint8(x <= np.float32(-0.5))
                    packed |= np.uint8(trit << (2 * n))
                raw[i, 32 * half + m] = packed


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 256 * 66), as ggml's quantize_row_tq2_0_ref. No importance.

    The scale is max|x|; codes are x / scale rounded half away from zero before the scale is rounded to float16.
    """
    blocks = as_blocks(w, BLOCK)
    raw = np.empty((len(blocks), NBYTES), np.uint8)
    scale = np.empty(len(blocks), np.float32)
    _encode(blocks, blocks.view(np.uint32), raw, scale)
    raw[:, 64:] = f16_scales(scale, BLOCK)
    return raw.reshape(w.shape[0], w.shape[1] // BLOCK * NBYTES)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The grid -d, 0, d with d the largest magnitude of each block."""
    return _grid(f16_scales(np.abs(as_blocks(w, BLOCK)).max(axis=1), BLOCK))


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 256) to bytes (n, 66)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    fields = (codes + 1).astype(np.uint8).reshape(-1, 2, 4, 32) << shifts  # (n, half, 4, 32)
    raw[:, :64] = np.bitwise_or.reduce(fields, axis=2).reshape(-1, 64)
    raw[:, 64:] = grid.fields["d"]
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 66) to codes int16 (n, 256) and their grid."""
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    fields = raw[:, :64].reshape(-1, 2, 1, 32) >> shifts & 3  # (n, half, 4, 32)
    return fields.reshape(-1, BLOCK).astype(np.int16) - np.int16(1), _grid(raw[:, 64:])


def _grid(d: U8) -> Grid:
    d = np.ascontiguousarray(d)
    return Grid(scale=d.view("<f2").astype(np.float32), offset=None, qmin=-1, qmax=1, fields={"d": d})


TYPE = QuantType(
    name="tq2_0", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, pack=pack, unpack=unpack, gguf=35,
    code_bytes=64, inputs="q8_k",
)  # fmt: skip
