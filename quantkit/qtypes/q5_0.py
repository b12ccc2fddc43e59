"""Q5_0: 32 signed weights of 5 bits and one scale.

struct block_q5_0, 22 bytes
+------+----------+------------+
| d    | qh       | qs         |    value = d * (q - 16)
| f16  | 4 bytes  | 16 bytes   |
+------+----------+------------+
0      2          6            22

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
NBYTES = 22
TOP = 16  # codes are -TOP..TOP - 1
PLANES = (Plane(at=6, bits=4, span=16), Plane(at=2, bits=1, span=1, shift=4))


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 32 * 22), as ggml's quantize_q5_0."""
    return blocks.encode(w, importance, ENCODER)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The scales that `encode` stores."""
    return blocks.fit(w, importance, ENCODER)


def search(w: F32, prices: F32) -> Grid:
    """Scales for codes that are chosen afterwards, each column at its price (cols,)."""
    return legacy.search_signed(w, prices, TOP)


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 32) to bytes (n, 22)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    write_half(raw, 0, grid.fields["d"])
    pack_planes(codes, -TOP, PLANES, raw)
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 22) to codes int16 (n, 32) and their grid."""
    return unpack_planes(raw, -TOP, PLANES, BLOCK), legacy.signed_grid(read_half(raw, 0), TOP)


def _quantize(rows: F32, importance: F32 | None, raw: U8) -> Grid:
    return legacy.quantize_signed(rows, importance, TOP, PLANES, raw)


UNITS = Units(Ladder("d"))
ENCODER = Encoder(BLOCK, NBYTES, _quantize)
TYPE = QuantType(
    name="q5_0", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, search=search, pack=pack, unpack=unpack, gguf=6,
    uses_importance=True, code_bytes=20, inputs="q8_0", floor_db=10.0, units=UNITS,
)  # fmt: skip
