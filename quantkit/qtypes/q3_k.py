"""Q3_K: 256 weights of 3 bits in sixteen groups with signed 6-bit scales.

struct block_q3_K, 110 bytes
+-----------+-----------+-----------+------+
| hmask     | qs        | scales    | d    |    value = d * (s[g] - 32) * (q - 4)
| 32 bytes  | 64 bytes  | 12 bytes  | f16  |
+-----------+-----------+-----------+------+
0           32          96          108    110

qs: the low two bits, 32 bytes for every 128 weights, byte l with weights l, l + 32, l + 64 and l + 96 at bits 0, 2,
4 and 6. hmask: bit b of byte l is the third bit of weight 32 * b + l. scales: bytes 0-7 hold the low four bits of
s[j] low, of s[j + 8] high; byte 8 + j % 4 holds the top two bits of s[j] at bit 2 * (j // 4).
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.search import blocks, scales, superblocks
from quantkit.qtypes.search.blocks import LARGE_SLAB, Encoder, read_half, write_half
from quantkit.qtypes.search.groups import Groups, Weighting, whole_numbers
from quantkit.qtypes.search.planes import Plane, SearchCodes, pack_planes, round_to_planes, unpack_planes
from quantkit.qtypes.search.units import Ladder, Units
from quantkit.tensors import F32, U8

BLOCK = 256
NBYTES = 110
GROUP = 16
LOW, HIGH = -4, 3
SCALE_LOW, SCALE_HIGH = -32, 31
SCALE_PLANES = (Plane(at=96, bits=4, span=8), Plane(at=104, bits=2, span=4, shift=4))
PLANES = (Plane(at=32, bits=2, span=32), Plane(at=0, bits=1, span=32, shift=2))


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 256 * 110), as ggml's quantize_q3_K."""
    return blocks.encode(w, importance, ENCODER)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The scales that `encode` stores."""
    return blocks.fit(w, importance, ENCODER)


def search(w: F32, prices: F32) -> Grid:
    """Scales for codes that are chosen afterwards, each column at its price (cols,)."""
    d, sc = superblocks.search_signed(w, prices, GROUP, whole_numbers(LOW, HIGH), (SCALE_LOW, SCALE_HIGH))
    return blocks.finite(superblocks.signed_grid(d, sc, (LOW, HIGH)), BLOCK)


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 256) to bytes (n, 110)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    _write_scales(raw, grid)
    pack_planes(codes, LOW, PLANES, raw)
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 110) to codes int16 (n, 256) and their grid."""
    sc = unpack_planes(raw, SCALE_LOW, SCALE_PLANES, BLOCK // GROUP).astype(np.int8)
    return unpack_planes(raw, LOW, PLANES, BLOCK), superblocks.signed_grid(read_half(raw, 108), sc, (LOW, HIGH))


def _write_scales(raw: U8, grid: Grid) -> None:
    pack_planes(grid.fields["sc"], SCALE_LOW, SCALE_PLANES, raw)
    write_half(raw, 108, grid.fields["d"])


def _quantize(rows: F32, importance: F32 | None, raw: U8) -> Grid:
    weights = as_blocks(rows, BLOCK)
    grid, search_codes = _search(weights) if importance is None else _search_weighted(weights, importance)
    _write_scales(raw, grid)
    round_to_planes(weights, grid, search_codes, PLANES, raw)
    return grid


def _search(weights: F32) -> tuple[Grid, SearchCodes]:
    """quantize_row_q3_K_ref, for blocks (n, 256)."""
    groups = weights.reshape(-1, GROUP)
    scale = scales.search_descent(groups, -LOW).reshape(len(weights), BLOCK // GROUP)
    d, sc = scales.signed_units(scale, (SCALE_LOW, SCALE_HIGH), zero_code=SCALE_LOW)
    grid = superblocks.signed_grid(blocks.half(d), sc, (LOW, HIGH))
    zero = np.flatnonzero(grid.scale == 0)
    # These codes follow from no formula: search once more, the few groups that keep them.
    return grid, SearchCodes(kept=scales.descent_codes(groups[zero], -LOW) if zero.size else None)


def _search_weighted(weights: F32, importance: F32) -> tuple[Grid, SearchCodes]:
    """quantize_row_q3_K_impl, for blocks (n, 256)."""
    sigma2 = superblocks.block_sigma2(weights, 2, BLOCK // GROUP)
    groups = Groups(weights.reshape(-1, GROUP), Weighting.IMPORTANCE, importance, sigma2)
    scale, iscale, sums = scales.search_signed(groups, -LOW)
    by_block = scale.reshape(len(weights), BLOCK // GROUP)
    d, factor, _ = scales.search_signed(Groups(by_block, Weighting.PURE_IMPORTANCE, sums), -SCALE_LOW)
    sc = scales.nearest_codes(by_block, factor, SCALE_LOW, SCALE_HIGH)
    # of an infinite scale the factor is 0, too: the codes are 0 then, not the lowest
    sc[(factor == 0) & ~np.isinf(by_block).any(axis=1)] = SCALE_LOW
    return superblocks.signed_grid(blocks.half(d), sc, (LOW, HIGH)), SearchCodes(iscale)


UNITS = Units(Ladder("d", "sc", SCALE_LOW, SCALE_HIGH))
ENCODER = Encoder(BLOCK, NBYTES, _quantize, LARGE_SLAB)
TYPE = QuantType(
    name="q3_k", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, search=search, pack=pack, unpack=unpack, gguf=11,
    uses_importance=True, code_bytes=96, inputs="q8_k", encode_ns=8.0, units=UNITS,
)  # fmt: skip
