"""Q5_1: 32 weights of 5 bits, a scale and an offset.

struct block_q5_1, 24 bytes
+------+------+----------+------------+
| d    | m    | qh       | qs         |    value = d * q + m
| f16  | f16  | 4 bytes  | 16 bytes   |
+------+------+----------+------------+
0      2      4          8            24

qs: the low four bits, byte i with weight i low, i + 16 high. qh: bit i % 8 of byte i // 8 is the fifth bit of weight
i.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Codes, Grid, QuantType
from quantkit.qtypes.search import blocks, legacy
from quantkit.qtypes.search.blocks import Encoder, read_half, write_half
from quantkit.qtypes.search.planes import Plane, pack_planes, unpack_planes
from quantkit.qtypes.search.units import Ladder, Units
from quantkit.tensors import F32, U8

BLOCK = 32
NBYTES = 24
TOP = 31
PLANES = (Plane(at=8, bits=4, span=16), Plane(at=4, bits=1, span=1, shift=4))


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 32 * 24), as ggml's quantize_q5_1."""
    return blocks.encode(w, importance, ENCODER)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The scales and offsets that `encode` stores."""
    return blocks.fit(w, importance, ENCODER)


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 32) to bytes (n, 24)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    write_half(raw, 0, grid.fields["d"])
    write_half(raw, 2, grid.fields["m"])
    pack_planes(codes, 0, PLANES, raw)
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 24) to codes int16 (n, 32) and their grid."""
    return unpack_planes(raw, 0, PLANES, BLOCK), legacy.offset_grid(read_half(raw, 0), read_half(raw, 2), TOP)


def _quantize(rows: F32, importance: F32 | None, raw: U8) -> Grid:
    return legacy.quantize_offset(rows, importance, TOP, PLANES, raw)


UNITS = Units(Ladder("d"), Ladder("m"))
ENCODER = Encoder(BLOCK, NBYTES, _quantize)
TYPE = QuantType(
    name="q5_1", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, pack=pack, unpack=unpack, gguf=7,
    uses_importance=True, code_bytes=20, inputs="q8_1", floor_db=10.0, units=UNITS,
)  # fmt: skip
