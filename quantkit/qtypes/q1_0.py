"""Q1_0: 128 weights of one bit, the sign, and one scale.

struct block_q1_0, 18 bytes
+------+------------+
| d    | qs         |    value = q ? d : -d
| f16  | 16 bytes   |
+------+------------+
0      2            18

qs: bit i % 8 of byte i // 8 is weight i.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.floats import f16_scales
from quantkit.qtypes.kept import kept
from quantkit.tensors import F32, U8

BLOCK = 128
NBYTES = 18
LEVELS = np.array([-1, 1], np.float32)
LEVELS.flags.writeable = False


@kept
def _means(blocks: F32, scale: F32) -> None:
    """Fill the mean magnitude (n,) of `blocks` (n, 128), summed from the first weight to the last."""
    for i in range(blocks.shape[0]):
        total = np.float32(0)
        for j in range(BLOCK):
            total += np.abs(blocks[i, j])
        scale[i] = total / np.float32(BLOCK)


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 128 * 18), as ggml's quantize_row_q1_0_ref. No importance."""
    blocks = as_blocks(w, BLOCK)
    return _bytes(blocks >= 0, _scales(blocks)).reshape(w.shape[0], w.shape[1] // BLOCK * NBYTES)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The grid -d, d with d the mean magnitude of each block: the nearest to weights of those signs."""
    return _grid(_scales(as_blocks(w, BLOCK)))


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 128), 0 or 1, to bytes (n, 18)."""
    return _bytes(codes, grid.fields["d"])


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 18) to codes int16 (n, 128) and their grid."""
    return np.unpackbits(raw[:, 2:], axis=1, bitorder="little").astype(np.int16), _grid(raw[:, :2])


def _scales(blocks: F32) -> U8:
    """The scales of blocks (n, 128) as float16 bytes (n, 2)."""
    scale = np.empty(len(blocks), np.float32)
    _means(blocks, scale)
    return f16_scales(scale, BLOCK)


def _bytes(bits: np.ndarray, d: np.ndarray) -> U8:
    raw = np.empty((len(bits), NBYTES), np.uint8)
    raw[:, :2] = d
    raw[:, 2:] = np.packbits(bits.astype(bool), axis=1, bitorder="little")
    return raw


def _grid(d: U8) -> Grid:
    d = np.ascontiguousarray(d)
    return Grid(d.view("<f2").astype(np.float32), None, 0, 1, levels=LEVELS, fields={"d": d})


TYPE = QuantType(
    name="q1_0", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, pack=pack, unpack=unpack, gguf=41, code_bytes=16,
    inputs="q8_0",
)  # fmt: skip
