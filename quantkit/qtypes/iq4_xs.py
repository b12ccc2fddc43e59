"""IQ4_XS: 256 weights as 4-bit indices into the levels of IQ4_NL, in eight groups with signed 6-bit scales.

struct block_iq4_xs, 136 bytes
+------+-----------+-----------+------------+
| d    | scales_h  | scales_l  | qs         |    value = d * (s[g] - 32) * LEVELS[q]
| f16  | u16       | 4 bytes   | 128 bytes  |
+------+-----------+-----------+------------+
0      2           4           8            136

scales_l: the low four bits, byte i with s[2 * i] low, s[2 * i + 1] high. scales_h: the top two bits, s[g] at bit
2 * g. qs: 16 bytes for every group of 32 weights, byte i with weight i low, i + 16 high.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.iq4_nl import GROUP, LEVELS, weighted_groups
from quantkit.qtypes.search import blocks, scales, superblocks
from quantkit.qtypes.search.blocks import Encoder, read_half, write_half
from quantkit.qtypes.search.planes import Plane, levels_to_planes, pack_planes, unpack_planes
from quantkit.qtypes.search.units import Ladder, Units
from quantkit.tensors import F32, U8

BLOCK = 256
NBYTES = 136
SCALE_LOW, SCALE_HIGH = -32, 31
PLANES = (Plane(at=8, bits=4, span=16),)


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 256 * 136), as ggml's quantize_iq4_xs."""
    return blocks.encode(w, importance, ENCODER)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The scales that `encode` stores."""
    return blocks.fit(w, importance, ENCODER)


def search(w: F32, prices: F32) -> Grid:
    """Scales for codes that are chosen afterwards, each column at its price (cols,)."""
    d, sc = superblocks.search_signed(w, prices, GROUP, LEVELS, (SCALE_LOW, SCALE_HIGH))
    return blocks.finite(superblocks.signed_grid(d, sc, (0, 15), LEVELS), BLOCK)


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 256) to bytes (n, 136)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    _write_scales(raw, grid)
    pack_planes(codes, 0, PLANES, raw)
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 136) to codes int16 (n, 256) and their grid."""
    scales_h, scales_l = np.ascontiguousarray(raw[:, 2:4].T), np.ascontiguousarray(raw[:, 4:8].T)
    low = np.stack([scales_l & 15, scales_l >> 4], axis=1).reshape(8, -1)
    tops = np.stack([scales_h >> shift & 3 for shift in (0, 2, 4, 6)], axis=1).reshape(8, -1)
    sc = np.ascontiguousarray((low | tops << 4).T).view(np.int8) + np.int8(SCALE_LOW)
    return unpack_planes(raw, 0, PLANES, BLOCK), superblocks.signed_grid(read_half(raw, 0), sc, (0, 15), LEVELS)


def _write_scales(raw: U8, grid: Grid) -> None:
    write_half(raw, 0, grid.fields["d"])
    # Transposed, the loops of numpy run over the blocks instead of over a few bytes.
    stored = np.ascontiguousarray(grid.fields["sc"].astype(np.int8).T).view(np.uint8) - np.uint8(SCALE_LOW & 0xFF)
    tops = (stored >> 4).reshape(2, 4, -1)
    raw[:, 2:4] = (tops[:, 0] | tops[:, 1] << 2 | tops[:, 2] << 4 | tops[:, 3] << 6).T
    raw[:, 4:8] = ((stored[0::2] & 15) | (stored[1::2] & 15) << 4).T


def _quantize(rows: F32, importance: F32 | None, raw: U8) -> Grid:
    """quantize_row_iq4_nl_impl for blocks of 256: codes come from d before it is rounded."""
    weights = as_blocks(rows, BLOCK)
    scale = scales.search_levels(weighted_groups(weights, importance), LEVELS).reshape(len(weights), BLOCK // GROUP)
    d, sc = scales.signed_units(scale, (SCALE_LOW, SCALE_HIGH), zero_code=0, exact=True)
    grid = superblocks.signed_grid(blocks.half(d), sc, (0, 15), LEVELS)
    _write_scales(raw, grid)
    unrounded = (d[:, None] * sc).reshape(-1)
    levels_to_planes(weights, scales.inverse(unrounded), LEVELS, PLANES, raw)
    return grid


UNITS = Units(Ladder("d", "sc", SCALE_LOW, SCALE_HIGH))
ENCODER = Encoder(BLOCK, NBYTES, _quantize)
TYPE = QuantType(
    name="iq4_xs", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, search=search, pack=pack, unpack=unpack, gguf=23,
    uses_importance=True, code_bytes=128, inputs="q8_k", floor_db=6.0, encode_ns=9.0, units=UNITS,
)  # fmt: skip
