"""MXFP4: 32 four-bit floats (E2M1) and one power of two (E8M0), OCP Microscaling Formats 1.0.

struct block_mxfp4, 17 bytes
+------+---------------------+
| e    | qs                  |    value[j] = LEVELS[q[j]] * 2^(e - 128)
| u8   | 16 bytes            |
+------+---------------------+
0      1                     17

The low four bits of byte j hold q[j], the high four q[j + 16]. Levels are doubled to be integers, so the scale is
halved: 2^(e - 128) instead of 2^(e - 127). e = 255 is not a number.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.search import entries
from quantkit.qtypes.search.fp4 import LEVELS
from quantkit.tensors import F32, U8

BLOCK = 32
NBYTES = 17


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 32 * 17), as ggml's quantize_row_mxfp4_ref. No importance.

    Differs from it for blocks whose largest weight lies in [2^-126, 2^-125): see `mxfp4_exponents`.
    """
    blocks = as_blocks(w, BLOCK)
    raw = np.empty((len(blocks), NBYTES), np.uint8)
    exponent = np.empty(len(blocks), np.uint8)
    entries.mxfp4_exponents(blocks.view(np.uint32), exponent)
    entries.round_mxfp4(blocks, _scale(exponent), raw)
    raw[:, 0] = exponent
    return raw.reshape(w.shape[0], w.shape[1] // BLOCK * NBYTES)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The grid that `encode` rounds to."""
    blocks = as_blocks(w, BLOCK)
    exponent = np.empty(len(blocks), np.uint8)
    entries.mxfp4_exponents(blocks.view(np.uint32), exponent)
    return _grid(exponent)


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 32) to bytes (n, 17)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    raw[:, 0] = grid.fields["e"]
    raw[:, 1:] = codes[:, :16] | codes[:, 16:] << 4
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 17) to codes int16 (n, 32) and their grid."""
    codes = np.empty((len(raw), BLOCK), np.int16)
    codes[:, :16] = raw[:, 1:] & 15
    codes[:, 16:] = raw[:, 1:] >> 4
    return codes, _grid(raw[:, 0].copy())


def _scale(exponent: U8) -> F32:
    """2^(e - 128) as float32 (n,): the two smallest are subnormal."""
    return np.ldexp(np.float32(1), exponent.astype(np.int32) - 128)


def _grid(exponent: U8) -> Grid:
    return Grid(_scale(exponent)[:, None], None, 0, 15, levels=LEVELS, fields={"e": exponent})


TYPE = QuantType(
    name="mxfp4", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, pack=pack, unpack=unpack, gguf=39,
    code_bytes=16, inputs="q8_0", floor_db=6.0,
)  # fmt: skip
