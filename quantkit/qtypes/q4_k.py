"""Q4_K: 256 weights of 4 bits in eight groups with 6-bit scales and minima.

struct block_q4_K, 144 bytes
+------+------+-----------+------------------+
| d    | dmin | scales    | qs               |    value = d * sc[g] * q - dmin * m[g]
| f16  | f16  | 12 bytes  | 128 bytes        |
+------+------+-----------+------------------+
0      2      4           16                 144

scales: see superblocks.pack_six_bits. qs: 32 bytes for every 64 weights, byte l with weight l low, l + 32 high.
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
NBYTES = 144
TOP = 15
PLANES = (Plane(at=16, bits=4, span=32),)

# quantize_row_q4_K_ref and, with importance, quantize_row_q4_K_impl of ggml-quants.c
SEARCH = superblocks.OffsetSearch(
    n=32,
    top=TOP,
    scale_top=63,
    how=Weighting.RMS_MAGNITUDE,
    squared=True,
    steps=Steps(-1.0, 0.1, 20),
    sigma_factor=2,
    cut=False,
)


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 256 * 144), as ggml's quantize_q4_K."""
    return blocks.encode(w, importance, ENCODER)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The scales and minima that `encode` stores."""
    return blocks.fit(w, importance, ENCODER)


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 256) to bytes (n, 144)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    superblocks.write_scales(raw, grid)
    pack_planes(codes, 0, PLANES, raw)
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 144) to codes int16 (n, 256) and their grid."""
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
    name="q4_k", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, pack=pack, unpack=unpack, gguf=12,
    uses_importance=True, code_bytes=128, inputs="q8_k", floor_db=6.0, encode_ns=9.0, units=UNITS,
)  # fmt: skip
