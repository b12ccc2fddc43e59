"""NVFP4: groups of 16 four-bit floats (E2M1), each with an eight-bit float without sign (E4M3) as its scale.

struct block_nvfp4, 36 bytes
+-----------+---------------------+
| d         | qs                  |    value[16 g + j] = LEVELS[q[16 g + j]] * E4M3(d[g]) / 2
| 4 x u8    | 32 bytes            |
+-----------+---------------------+
0           4                     36

Byte j of the eight of group g holds q[16 g + j] in its low four bits and q[16 g + j + 8] in its high ones. Levels are
those of MXFP4, doubled to be integers, so that scales are halved. The byte 0x7F, which is no number in E4M3, is read as
zero; signs are ignored, so that 0xFF means 480.

A file may have a factor of the whole matrix in a tensor of its own, `NAME.scale`, by which the graph multiplies what
comes out. Weights that are rounded here have none.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.search import entries
from quantkit.qtypes.search.fp4 import LEVELS
from quantkit.tensors import F32, U8

BLOCK = 64
GROUP = 16
GROUPS = BLOCK // GROUP
NBYTES = GROUPS + BLOCK // 2
TOP = np.float32(6)
LARGEST = 0x7E  # the byte of 448


def _scale_values() -> F32:
    """Half of the number that each byte means as a scale, float32 (256,)."""
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    value = np.where(exponent > 0, np.ldexp(8 + mantissa, exponent - 11), np.ldexp(mantissa, -10))
    return np.where(byte == 127, 0, value).astype(np.float32)


SCALES = _scale_values()


def scale_bytes(scale: F32) -> U8:
    """The stored byte of each scale that is wanted (any shape), as ggml_fp32_to_ue4m3 rounds: a tie goes up, and what
    reaches 256 becomes the largest number, 448."""
    bits = np.ascontiguousarray(scale).view(np.uint32)
    # Exponent and three bits of mantissa, rounded by the next one, which may carry into the exponent.
    normal = (bits.astype(np.int64) + (1 << 19) >> 20) - (120 << 3)
    steps = np.minimum((np.minimum(scale, np.float32(1)) * np.float32(512) + np.float32(0.5)).astype(np.int64), 7)
    found = np.where(scale < np.float32(2.0**-6), steps, np.where(normal >= 15 << 3, LARGEST, normal))
    raw: U8 = found.astype(np.uint8)
    return raw


def _scales(blocks: F32) -> U8:
    """The stored scales (n, 4) of blocks (n, 64): each group's largest weight becomes the largest level."""
    largest: F32 = np.abs(blocks).reshape(len(blocks), GROUPS, GROUP).max(axis=2)
    return scale_bytes(largest / TOP)


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 64 * 36), as ggml's quantize_row_nvfp4_ref. No importance."""
    blocks = as_blocks(w, BLOCK)
    raw = np.empty((len(blocks), NBYTES), np.uint8)
    raw[:, :GROUPS] = _scales(blocks)
    qs = np.empty((len(blocks) * GROUPS, GROUP // 2), np.uint8)
    entries.round_nvfp4(blocks.reshape(len(qs), GROUP), SCALES[raw[:, :GROUPS]].reshape(-1), qs)
    raw[:, GROUPS:] = qs.reshape(len(blocks), BLOCK // 2)
    return raw.reshape(w.shape[0], w.shape[1] // BLOCK * NBYTES)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The grid that `encode` rounds to."""
    return _grid(_scales(as_blocks(w, BLOCK)))


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 64) to bytes (n, 36)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    raw[:, :GROUPS] = grid.fields["d"]
    halves = codes.reshape(len(codes), GROUPS, 2, GROUP // 2)
    raw[:, GROUPS:] = (halves[:, :, 0] | halves[:, :, 1] << 4).reshape(len(codes), BLOCK // 2)
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 36) to codes int16 (n, 64) and their grid."""
    qs = raw[:, GROUPS:].reshape(len(raw), GROUPS, 1, GROUP // 2)
    codes = np.concatenate([qs & 15, qs >> 4], axis=2).reshape(len(raw), BLOCK).astype(np.int16)
    return codes, _grid(raw[:, :GROUPS].copy())


def _grid(scale: U8) -> Grid:
    return Grid(SCALES[scale], None, 0, 15, levels=LEVELS, fields={"d": scale})


TYPE = QuantType(
    name="nvfp4", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, pack=pack, unpack=unpack, gguf=40,
    code_bytes=32, inputs="q8_0", floor_db=6.0,
)  # fmt: skip
