"""IQ3_XXS: 256 weights, a point of a lattice for every four, and eight groups with 4-bit scales.

struct block_iq3_xxs, 98 bytes
+------+-----------+-------------------+
| d    | qs        | scales and signs  |    value = d * (0.5 + s[g]) / 2 * (+ or -) MAGNITUDES[level]
| f16  | 64 bytes  | 8 x u32           |
+------+-----------+-------------------+
0      2           66                  98

qs: number of a point of 4 levels, one of 256. Word g belongs to the 32 weights of group g: seven signs of every eight
weights, of which the eighth makes an even number, and s[g] in the top four bits.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.blocks import read_half, write_half
from quantkit.qtypes.search.groups import Redo, Weighting
from quantkit.qtypes.search.lattice_signed import Signed
from quantkit.qtypes.search.lattice_types import BlockLayout, Parts, lattice_type, read_words, write_words
from quantkit.tensors import U8

CODING = Signed(
    points="iq3_xxs", rings=2, group=32, magnitudes=(4, 12, 20, 28, 36, 44, 52, 62), unit=0.25, steps=15, step=0.2,
    eps=1e-8, weighting=Weighting.SQUARE, sigma_factor=2, redo=Redo.THOSE_OUTSIDE, parity=True, fudge=1.0125,
)  # fmt: skip


def read(raw: U8) -> Parts:
    """Bytes (n, 98) taken apart."""
    signs, sc = read_words(raw[:, 66:])
    return Parts(raw[:, 2:66].astype(np.uint16), signs, read_half(raw, 0), sc)


def write(parts: Parts, raw: U8) -> None:
    """Fill bytes (n, 98) from their parts."""
    write_half(raw, 0, parts.d)
    raw[:, 2:66] = parts.numbers
    raw[:, 66:] = write_words(parts.marks, parts.sc)


TYPE = lattice_type(BlockLayout("iq3_xxs", 18, 98, 92, read, write, encode_ns=215.0), CODING)
