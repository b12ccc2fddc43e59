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
from numpy.typing import NDArray

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.iq4_nl import GROUP, LEVELS, weighted_groups
from quantkit.qtypes.search import blocks, scales
from quantkit.qtypes.search.blocks import F16, read_half, write_half
from quantkit.qtypes.search.planes import Plane, pack_planes, unpack_planes
from quantkit.tensors import F32, U8

BLOCK = 256
NBYTES = 136
SCALE_LOW, SCALE_HIGH = -32, 31
PLANES = (Plane(at=8, bits=4, span=16),)
SHIFTS = np.array([0, 2, 4, 6], np.uint8)


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 256 * 136), as ggml's quantize_iq4_xs."""
    return blocks.encode(w, importance, _choose, pack)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The scales that `encode` stores."""
    return blocks.fit(w, importance, _choose)


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 256) to bytes (n, 136)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    write_half(raw, 0, grid.fields["d"])
    stored = (grid.fields["sc"].astype(np.int8) - np.int8(SCALE_LOW)).astype(np.uint8)
    raw[:, 2:4] = np.bitwise_or.reduce((stored >> 4).reshape(-1, 2, 4) << SHIFTS, axis=2)
    raw[:, 4:8] = (stored[:, 0::2] & 15) | (stored[:, 1::2] & 15) << 4
    pack_planes(codes, 0, PLANES, raw)
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 136) to codes int16 (n, 256) and their grid."""
    low = np.stack([raw[:, 4:8] & 15, raw[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    tops = (raw[:, 2:4, None] >> SHIFTS & 3).reshape(-1, 8)
    sc = (low | tops << 4).astype(np.int8) + np.int8(SCALE_LOW)
    return unpack_planes(raw, 0, PLANES, BLOCK), _grid(read_half(raw, 0), sc)


def _choose(rows: F32, importance: F32 | None) -> tuple[Codes, Grid]:
    """quantize_row_iq4_nl_impl for blocks of 256: codes come from d before it is rounded."""
    weights = as_blocks(rows, BLOCK)
    scale = scales.search_levels(weighted_groups(weights, importance), LEVELS)
    by_block = scale.reshape(len(weights), -1)
    d = -scales.signed_peaks(by_block) / np.float32(-SCALE_LOW)
    sc = scales.nearest_codes(by_block, scales.inverse(d), SCALE_LOW, SCALE_HIGH)
    with np.errstate(invalid="ignore"):
        inverse = scales.inverse((d[:, None] * sc.astype(np.float32)).reshape(-1))
    codes = scales.nearest_levels(weights.reshape(-1, GROUP), inverse, LEVELS)
    return codes.reshape(weights.shape), _grid(blocks.half(d), sc.astype(np.int8))


def _grid(d: F16, sc: NDArray[np.int8]) -> Grid:
    with np.errstate(invalid="ignore"):  # an infinite d times 0: `blocks` refuses it
        scale = d.astype(np.float32)[:, None] * sc.astype(np.float32)
    return Grid(scale, None, 0, 15, levels=LEVELS, fields={"d": d, "sc": sc})


TYPE = QuantType(
    name="iq4_xs", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, pack=pack, unpack=unpack, gguf=23,
    uses_importance=True, code_bytes=128,
)  # fmt: skip
