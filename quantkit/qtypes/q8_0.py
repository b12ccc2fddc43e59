"""Q8_0: 32 signed bytes and one float16 scale.

struct block_q8_0, 34 bytes
+------+------------------+
| d    | qs               |    value[j] = qs[j] * d
| f16  | int8 x 32        |
+------+------------------+
0      2                 34
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.floats import U32, f16_scales
from quantkit.qtypes.kept import kept
from quantkit.tensors import F32, U8

BLOCK = 32
NBYTES = 34
QMAX = 127


@kept
def _encode(blocks: F32, bits: U32, raw: U8, scale: F32) -> None:
    """Fill the codes of `raw` (n, 34) and the unrounded scales (n,). `bits` is `blocks` (n, 32) as patterns."""
    for i in range(blocks.shape[0]):
        largest = np.uint32(0)
        for j in range(BLOCK):
            largest = max(largest, bits[i, j] & np.uint32(0x7FFFFFFF))
        d = np.uint32(largest).view(np.float32) / np.float32(QMAX)
        inverse = np.float32(1) / d
        # Zero, or so small that 1 / d overflows: the reference then stores zeros.
        if not inverse < np.float32(np.inf):
            inverse = np.float32(0)
        scale[i] = d
        for j in range(BLOCK):
            x = blocks[i, j] * inverse
            code = np.int32(x)
            rest = x - np.float32(code)
            raw[i, 2 + j] = np.uint8(code + np.int32(rest >= np.float32(0.5)) - np.int32(rest <= np.float32(-0.5)))


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 32 * 34), as ggml's quantize_row_q8_0_ref. No importance.

    Codes are rounded half away from zero with the scale max|x| / 127 before that scale is rounded to float16, so
    they may differ by one from rounding on the grid of `fit`.
    """
    blocks = as_blocks(w, BLOCK)
    raw = np.empty((len(blocks), NBYTES), np.uint8)
    scale = np.empty(len(blocks), np.float32)
    _encode(blocks, blocks.view(np.uint32), raw, scale)
    raw[:, :2] = f16_scales(scale, BLOCK)
    return raw.reshape(w.shape[0], w.shape[1] // BLOCK * NBYTES)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The grid whose largest code reaches the largest weight of each block."""
    scale = np.abs(as_blocks(w, BLOCK)).max(axis=1) / np.float32(QMAX)
    return _grid(f16_scales(scale, BLOCK))


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 32) to bytes (n, 34)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    raw[:, :2] = grid.fields["d"]
    raw[:, 2:] = codes.astype(np.int8).view(np.uint8)
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 34) to codes int16 (n, 32) and their grid."""
    return np.ascontiguousarray(raw[:, 2:]).view(np.int8).astype(np.int16), _grid(raw[:, :2])


def _grid(d: U8) -> Grid:
    d = np.ascontiguousarray(d)
    return Grid(scale=d.view("<f2").astype(np.float32), offset=None, qmin=-QMAX, qmax=QMAX, fields={"d": d})


TYPE = QuantType(
    name="q8_0", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, pack=pack, unpack=unpack, gguf=8, code_bytes=32,
    inputs="q8_0", floor_db=25.0,
)  # fmt: skip
