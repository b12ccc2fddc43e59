"""Q6_K: 256 weights of 6 bits in sixteen groups with signed 8-bit scales.

struct block_q6_K, 210 bytes
+------------+-----------+-----------+------+
| ql         | qh        | scales    | d    |    value = d * scales[g] * (q - 32)
| 128 bytes  | 64 bytes  | int8 x 16 | f16  |
+------------+-----------+-----------+------+
0            128         192         208    210

ql: the low four bits, 64 bytes for every 128 weights, byte l with weight l low, l + 64 high. qh: the top two bits,
32 bytes for every 128 weights, byte l with weights l, l + 32, l + 64 and l + 96 at bits 0, 2, 4 and 6.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.search import blocks, scales, superblocks
from quantkit.qtypes.search.blocks import Encoder, read_half, write_half
from quantkit.qtypes.search.groups import Groups, Weighting, whole_numbers
from quantkit.qtypes.search.planes import Plane, SearchCodes, pack_planes, round_to_planes, unpack_planes
from quantkit.qtypes.search.units import Ladder, Units
from quantkit.tensors import F32, U8

BLOCK = 256
NBYTES = 210
GROUP = 16
LOW, HIGH = -32, 31
SCALE_LOW, SCALE_HIGH = -128, 127
# A block whose largest scale is smaller is stored as zero bytes (GROUP_MAX_EPS in ggml-quants.c).
EPS = 1e-15
PLANES = (Plane(at=0, bits=4, span=64), Plane(at=128, bits=2, span=32, shift=4))


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 256 * 210), as ggml's quantize_q6_K."""
    return blocks.encode(w, importance, ENCODER)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The scales that `encode` stores."""
    return blocks.fit(w, importance, ENCODER)


def search(w: F32, prices: F32) -> Grid:
    """Scales for codes that are chosen afterwards, each column at its price (cols,)."""
    d, sc = superblocks.search_signed(w, prices, GROUP, whole_numbers(LOW, HIGH), (SCALE_LOW, SCALE_HIGH))
    return blocks.finite(superblocks.signed_grid(d, sc, (LOW, HIGH)), BLOCK)


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 256) to bytes (n, 210)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    _write_scales(raw, grid)
    pack_planes(codes, LOW, PLANES, raw)
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 210) to codes int16 (n, 256) and their grid."""
    sc = np.ascontiguousarray(raw[:, 192:208]).view(np.int8)
    return unpack_planes(raw, LOW, PLANES, BLOCK), superblocks.signed_grid(read_half(raw, 208), sc, (LOW, HIGH))


def _write_scales(raw: U8, grid: Grid) -> None:
    raw[:, 192:208] = grid.fields["sc"].view(np.uint8)
    write_half(raw, 208, grid.fields["d"])


def _quantize(rows: F32, importance: F32 | None, raw: U8) -> Grid:
    """quantize_row_q6_K_ref, and quantize_row_q6_K_impl, which takes the importance alone as weight."""
    weights = as_blocks(rows, BLOCK)
    groups = Groups(weights.reshape(-1, GROUP), Weighting.SQUARE)
    if importance is not None:
        groups = Groups(groups.x, Weighting.PURE_IMPORTANCE, importance)
    scale, iscale, _ = scales.search_signed(groups, -LOW)
    scale, iscale = scale.reshape(len(weights), BLOCK // GROUP), iscale.reshape(len(weights), BLOCK // GROUP)
    d, sc = scales.signed_units(scale, (SCALE_LOW, SCALE_HIGH), zero_code=0, eps=EPS)
    grid = superblocks.signed_grid(blocks.half(d), sc, (LOW, HIGH))
    _write_scales(raw, grid)
    iscale[d == 0] = 0  # such a block is all zero bytes
    round_to_planes(weights, grid, SearchCodes(iscale.reshape(-1)), PLANES, raw)
    return grid


UNITS = Units(Ladder("d", "sc", SCALE_LOW, SCALE_HIGH))
ENCODER = Encoder(BLOCK, NBYTES, _quantize)
TYPE = QuantType(
    name="q6_k", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, search=search, pack=pack, unpack=unpack, gguf=14,
    uses_importance=True, code_bytes=192, inputs="q8_k", floor_db=15.0, encode_ns=7.0, units=UNITS,
)  # fmt: skip
