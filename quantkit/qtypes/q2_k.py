"""Q2_K: 256 weights of 2 bits in sixteen groups with 4-bit scales and minima.

struct block_q2_K, 84 bytes
+-----------+-----------+------+------+
| scales    | qs        | d    | dmin |    value = d * sc[g] * q - dmin * m[g]
| 16 bytes  | 64 bytes  | f16  | f16  |
+-----------+-----------+------+------+
0           16          80     82     84

scales: byte g holds sc[g] low, m[g] high. qs: 32 bytes for every 128 weights, byte l with weights l, l + 32, l + 64
and l + 96 at bits 0, 2, 4 and 6.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.search import blocks, superblocks
from quantkit.qtypes.search.blocks import Encoder, read_half, write_half
from quantkit.qtypes.search.groups import Steps, Weighting
from quantkit.qtypes.search.planes import Plane, pack_planes, round_to_planes, unpack_planes
from quantkit.qtypes.search.units import Ladder, Units
from quantkit.tensors import F32, U8

BLOCK = 256
NBYTES = 84
TOP = 3
PLANES = (Plane(at=16, bits=2, span=32),)

# quantize_row_q2_K_ref and, with importance, quantize_row_q2_K_impl of ggml-quants.c
SEARCH = superblocks.OffsetSearch(
    n=16, top=TOP, scale_top=15, how=Weighting.MAGNITUDE, squared=False, steps=Steps(-0.5, 0.1, 15), sigma_factor=1
)


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 256 * 84), as ggml's quantize_q2_K."""
    return blocks.encode(w, importance, ENCODER)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The scales and minima that `encode` stores."""
    return blocks.fit(w, importance, ENCODER)


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 256) to bytes (n, 84)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    _write_scales(raw, grid)
    pack_planes(codes, 0, PLANES, raw)
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 84) to codes int16 (n, 256) and their grid."""
    sc, m = raw[:, :16] & np.uint8(15), raw[:, :16] >> np.uint8(4)
    grid = superblocks.offset_grid(read_half(raw, 80), read_half(raw, 82), sc, m, TOP)
    return unpack_planes(raw, 0, PLANES, BLOCK), grid


def _write_scales(raw: U8, grid: Grid) -> None:
    raw[:, :16] = grid.fields["sc"].astype(np.uint8) | grid.fields["m"].astype(np.uint8) << 4
    write_half(raw, 80, grid.fields["d"])
    write_half(raw, 82, grid.fields["dmin"])


def _quantize(rows: F32, importance: F32 | None, raw: U8) -> Grid:
    weights = as_blocks(rows, BLOCK)
    grid, search_codes = superblocks.search_offset(weights, importance, SEARCH)
    _write_scales(raw, grid)
    round_to_planes(weights, grid, search_codes, PLANES, raw)
    return grid


UNITS = Units(Ladder("d", "sc", 0, 15), Ladder("dmin", "m", 0, 15, factor=-1))
ENCODER = Encoder(BLOCK, NBYTES, _quantize)
TYPE = QuantType(
    name="q2_k", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, pack=pack, unpack=unpack, gguf=10,
    uses_importance=True, code_bytes=64, inputs="q8_k", encode_ns=10.0, units=UNITS,
)  # fmt: skip
