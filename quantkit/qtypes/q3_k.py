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
from numpy.typing import NDArray

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.search import blocks, scales, superblocks
from quantkit.qtypes.search.blocks import F16, read_half, write_half
from quantkit.qtypes.search.planes import Plane, pack_planes, unpack_planes
from quantkit.qtypes.search.scales import Weighting
from quantkit.tensors import F32, U8

BLOCK = 256
NBYTES = 110
GROUP = 16
LOW, HIGH = -4, 3
SCALE_LOW, SCALE_HIGH = -32, 31
PLANES = (Plane(at=32, bits=2, span=32), Plane(at=0, bits=1, span=32, shift=2))
SHIFTS = np.array([0, 2, 4, 6], np.uint8)


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 256 * 110), as ggml's quantize_q3_K."""
    return blocks.encode(w, importance, _choose, pack)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The scales that `encode` stores."""
    return blocks.fit(w, importance, _choose)


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 256) to bytes (n, 110)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    pack_planes(codes, LOW, PLANES, raw)
    stored = (grid.fields["sc"].astype(np.int8) - np.int8(SCALE_LOW)).astype(np.uint8)
    raw[:, 96:104] = (stored[:, :8] & 15) | (stored[:, 8:] & 15) << 4
    tops = (stored >> 4).reshape(-1, 4, 4) << SHIFTS[:, None]
    raw[:, 104:108] = np.bitwise_or.reduce(tops, axis=1)
    write_half(raw, 108, grid.fields["d"])
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 110) to codes int16 (n, 256) and their grid."""
    low = np.concatenate([raw[:, 96:104] & 15, raw[:, 96:104] >> 4], axis=1)
    tops = (raw[:, None, 104:108] >> SHIFTS[:, None] & 3).reshape(-1, 16)
    sc = (low | tops << 4).astype(np.int8) + np.int8(SCALE_LOW)
    return unpack_planes(raw, LOW, PLANES, BLOCK), _grid(read_half(raw, 108), sc)


def _choose(rows: F32, importance: F32 | None) -> tuple[Codes, Grid]:
    weights = as_blocks(rows, BLOCK)
    return _choose_plain(weights) if importance is None else _choose_weighted(weights, importance)


def _choose_plain(weights: F32) -> tuple[Codes, Grid]:
    """quantize_row_q3_K_ref, for blocks (n, 256)."""
    groups = weights.reshape(-1, GROUP)
    scale, searched = scales.search_descent(groups, -LOW)
    by_block = scale.reshape(len(weights), -1)
    peak = scales.signed_peaks(by_block)
    with np.errstate(all="ignore"):
        factor = np.float32(SCALE_LOW) / peak
        d = np.where(peak == 0, np.float32(0), np.float32(1) / factor)
    sc = scales.nearest_codes(by_block, factor, SCALE_LOW, SCALE_HIGH)
    sc[peak == 0] = SCALE_LOW
    grid = _grid(blocks.half(d), sc.astype(np.int8))
    codes = superblocks.round_groups(weights, grid, np.zeros_like(scale))
    kept = np.flatnonzero(grid.scale == 0)
    codes.reshape(-1, GROUP)[kept] = scales.groups_of(searched, kept)
    return codes, grid


def _choose_weighted(weights: F32, importance: F32) -> tuple[Codes, Grid]:
    """quantize_row_q3_K_impl, for blocks (n, 256)."""
    sigma2 = superblocks.block_sigma2(weights, 2, BLOCK // GROUP)
    tiles = scales.weighted(weights.reshape(-1, GROUP), Weighting.IMPORTANCE, importance, sigma2)
    scale, iscale = scales.search_signed(tiles, -LOW)
    by_block = scale.reshape(len(weights), -1)
    d, factor = scales.search_signed(scales.with_weights(by_block, tiles.sums.reshape(by_block.shape)), -SCALE_LOW)
    sc = scales.nearest_codes(by_block, factor, SCALE_LOW, SCALE_HIGH)
    sc[factor == 0] = SCALE_LOW
    grid = _grid(blocks.half(d), sc.astype(np.int8))
    return superblocks.round_groups(weights, grid, iscale), grid


def _grid(d: F16, sc: NDArray[np.int8]) -> Grid:
    with np.errstate(invalid="ignore"):  # an infinite d times 0: `blocks` refuses it
        scale = d.astype(np.float32)[:, None] * sc.astype(np.float32)
    return Grid(scale, None, LOW, HIGH, fields={"d": d, "sc": sc})


TYPE = QuantType(
    name="q3_k", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, pack=pack, unpack=unpack, gguf=11,
    uses_importance=True, code_bytes=96,
)  # fmt: skip
