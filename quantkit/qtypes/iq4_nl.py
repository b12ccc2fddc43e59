"""IQ4_NL: 32 weights as 4-bit indices into a table of 16 levels, and one scale.

struct block_iq4_nl, 18 bytes
+------+------------+
| d    | qs         |    value = d * LEVELS[q]
| f16  | 16 bytes   |
+------+------------+
0      2            18

qs: byte i holds weight i low, i + 16 high.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.search import blocks, scales, superblocks
from quantkit.qtypes.search.blocks import F16, Encoder, read_half, write_half
from quantkit.qtypes.search.groups import Groups, Weighting
from quantkit.qtypes.search.planes import Plane, levels_to_planes, pack_planes, unpack_planes
from quantkit.qtypes.search.units import Ladder, Units
from quantkit.tensors import F32, U8

BLOCK = 32
NBYTES = 18
GROUP = 32
# kvalues_iq4nl of ggml-common.h
LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
PLANES = (Plane(at=2, bits=4, span=16),)


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols // 32 * 18), as ggml's quantize_iq4_nl."""
    return blocks.encode(w, importance, ENCODER)


def fit(w: F32, importance: F32 | None) -> Grid:
    """The scales that `encode` stores."""
    return blocks.fit(w, importance, ENCODER)


def search(w: F32, prices: F32) -> Grid:
    """Scales for codes that are chosen afterwards, each column at its price (cols,)."""
    return blocks.finite(_grid(blocks.half(scales.search_ends(as_blocks(w, BLOCK), prices, LEVELS))), BLOCK)


def pack(codes: Codes, grid: Grid) -> U8:
    """codes int16 (n, 32) to bytes (n, 18)."""
    raw = np.empty((len(codes), NBYTES), np.uint8)
    write_half(raw, 0, grid.fields["d"])
    pack_planes(codes, 0, PLANES, raw)
    return raw


def unpack(raw: U8) -> tuple[Codes, Grid]:
    """Bytes (n, 18) to codes int16 (n, 32) and their grid."""
    return unpack_planes(raw, 0, PLANES, BLOCK), _grid(read_half(raw, 0))


def weighted_groups(weights: F32, importance: F32 | None) -> Groups:
    """The groups of 32 of blocks (n, 32) or, for iq4_xs, (n, 256), weighted for the search of both types."""
    groups = weights.reshape(-1, GROUP)
    if importance is None:
        return Groups(groups, Weighting.SQUARE)
    sigma2 = superblocks.block_sigma2(weights, 2, weights.shape[1] // GROUP)
    return Groups(groups, Weighting.IMPORTANCE, importance, sigma2)


def _quantize(rows: F32, importance: F32 | None, raw: U8) -> Grid:
    """quantize_row_iq4_nl_impl for blocks of 32: codes come from the scale before it is rounded."""
    weights = as_blocks(rows, BLOCK)
    scale = scales.search_levels(weighted_groups(weights, importance), LEVELS)
    grid = _grid(blocks.half(scale))
    write_half(raw, 0, grid.fields["d"])
    levels_to_planes(weights, scales.inverse(scale), LEVELS, PLANES, raw)
    return grid


def _grid(d: F16) -> Grid:
    return Grid(blocks.widened(d)[:, None], None, 0, 15, levels=LEVELS, fields={"d": d})


UNITS = Units(Ladder("d"))
ENCODER = Encoder(BLOCK, NBYTES, _quantize)
TYPE = QuantType(
    name="iq4_nl", block=BLOCK, nbytes=NBYTES, encode=encode, fit=fit, search=search, pack=pack, unpack=unpack, gguf=20,
    uses_importance=True, code_bytes=16, inputs="q8_0", floor_db=6.0, encode_ns=9.0, units=UNITS,
)  # fmt: skip
