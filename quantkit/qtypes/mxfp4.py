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

import math

import numpy as np
from numba import njit

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.floats import U32
from quantkit.qtypes.kept import kept
from quantkit.tensors import F32, U8

BLOCK = 32
NBYTES = 17

# Twice the E2M1 values; ggml reads the code of minus zero as plus zero.
LEVELS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


@kept
def _exponents(bits: U32, exponent: U8) -> None:
    """The stored exponent (n,) of each block, given as patterns (n, 32).

    The reference computes floor(log2f(largest)) - 2 + 127 and keeps its low eight bits. A logarithm rounded to
    float32 reaches the next integer just below a power of two, hence not simply the exponent of the largest weight.
    """
    for i in range(bits.shape[0]):
        largest = np.uint32(0)
        for j in range(BLOCK):
            largest = max(largest, bits[i, j] & np.uint32(0x7FFFFFFF))
        exponent[i] = 0
        if largest > 0:
            log = np.float32(math.log2(np.float64(np.uint32(largest).view(np.float32))))
            stored = np.uint8(np.int32(math.floor(log)) + 125)
            # The reference writes "not a number" for blocks of at most 2**-125 and then refuses its own output; with
            # the smallest scale these blocks are well represented.
            exponent[i] = stored if stored != 255 else 0


@kept
def _round(blocks: F32, scale: F32, raw: U8) -> None:
    """Fill bytes 1 to 16 of `raw` (n, 17) with the nearest levels of blocks (n, 32); the smaller one wins a tie."""
    for i in range(blocks.shape[0]):
        unit = scale[i]
        for j in range(16):
            low = nearest_level(blocks[i, j], unit)
            raw[i, 1 + j] = low | np.uint8(nearest_level(blocks[i, 16 + j], unit) << np.uint8(4))


@njit(nogil=True, inline="always")
def nearest_level(x: np.float32, unit: np.float32) -> np.uint8:
    """Code of the level nearest to x; comparing with the midpoints between levels is exact, like the reference."""
    size = abs(x)
    code = np.uint8(size > np.float32(0.5) * unit)
    code += np.uint8(size > np.float32(1.5) * unit)
    code += np.uint8(size > np.float32(2.5) * unit)
    code += np.uint8(size > np.float32(3.5) * unit)
    code += np.uint8(size > np.float32(5) * unit)
    code += np.uint8(size > np.float32(7) * unit)
    code += np.uint8(size > np.float32(10) * unit)
    negative = (x < np.float32(0)) & (code > np.uint8(0))
    return np.uint8(code | (np.uint8(negative) << np.uint8(3)))


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 32 * 17), as ggml's quantize_row_mxfp4_ref. No importance.

    Differs from it for blocks whose largest weight lies in [2^-126, 2^-125): see `_exponents`.
    """
    blocks = as_blocks(w, BLOCK)
    raw = np.empty((len(blocks), NBYTES), np.uint8)
    exponent = np.empty(len(blocks), np.uint8)
    _exponents(blocks.view(np.uint32), exponent)
    _round(blocks, _scale(exponent), raw)
    raw[:, 0] = exponent
    return raw.reshape(w.shape[0], w.shape[1] // BLOCK * NBYTES)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The grid that `encode` rounds to."""
    blocks = as_blocks(w, BLOCK)
    exponent = np.empty(len(blocks), np.uint8)
    _exponents(blocks.view(np.uint32), exponent)
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
