"""Q5_K: 256 weights of 5 bits in eight groups with 6-bit scales and minima.

struct block_q5_K, 176 bytes
+------+------+-----------+-----------+------------------+
| d    | dmin | scales    | qh        | qs               |    value = d * sc[g] * q - dmin * m[g]
| f16  | f16  | 12 bytes  | 32 bytes  | 128 bytes        |
+------+------+-----------+-----------+------------------+
0      2      4           16          48                 176

scales: see superblocks.pack_six_bits. qs: the low four bits, 32 bytes for every 64 weights, byte l with weight l low,
l + 32 high. qh: bit b of byte l is the fifth bit of weight 32 * b + l.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.search import blocks, superblocks
from quantkit.qtypes.search.blocks import LARGE_SLAB, Encoder
from quantkit.qtypes.search.groups import Steps, Weighting
from quantkit.qtypes.search.planes import Plane, pack_planes, round_to_planes, unpack_planes
from quantkit.qtypes.search.units import Ladder, Units
from quantkit.tensors import F32, U8

BLOCK = 256
NBYTES = 176
TOP = 31
PLANES = (Plane(at=48, bits=4, span=32), Plane(at=16, bits=1, span=32, shift=4))

# quantize_row_q5_K_ref and, with importance, quantize_row_q5_K_impl of ggml-quants.c
SEARCH = superblocks.OffsetSearch(
    n=32, top=TOP, scale_top=63, how=Weighting.RMS_MAGNITUDE, squared=True, steps=Steps(-0.5, 0.1, 15), sigma_factor=2
)


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 256 * 176), as ggml's quantize_q5_K."""
    return blocks.encode(w, importance, ENCODER)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The scales and minima that `encode` stores."""
    return blocks.fit(w, importance, ENCODER)


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 256) to bytes (n, 176)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    superblocks.write_scales(raw, grid)
    pack_planes(codes, 0, PLANES, raw)
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 176) to codes int16 (n, 256) and their grid."""
    return unpack_planes(raw, 0, PLANES, BLOCK), superblocks.read_scales(raw, TOP)


def _quantize(rows: F32, importance: F32 | None, raw: U8) -> Grid:
    weights = as_blocks(rows, BLOCK)
    grid, search_codes = superblocks.search_offset(weights, importance, SEARCH)
    superblocks.write_scales(raw, grid)
    round_to_planes(weights, grid, search_codes, PLANES, raw)
    return grid


UNITS = Units(Ladder("d", "sc", 0, 63), Ladder("dmin", "m", 0, 63, factor=-1))
ENCODER = Encoder(BLOCK, NBYTES, _quantize, LARGE_SLAB)
TYPE = QuantType(
    name="q5_k", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, pack=pack, unpack=unpack, gguf=13,
    uses_importance=True, code_bytes=160, inputs="q8_k", floor_db=10.0, encode_ns=8.0, units=UNITS,
)  # fmt: skip
