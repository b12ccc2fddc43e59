"""IQ2_XXS: 256 weights, a point of a lattice for every eight, and eight groups with 4-bit scales.

struct block_iq2_xxs, 66 bytes
+------+------------------------------------------+
| d    | 8 x (4 numbers, word of scale and signs) |    value = d * (0.5 + s[g]) / 4 * (+ or -) MAGNITUDES[level]
| f16  | 8 x (4 bytes, u32)                       |
+------+------------------------------------------+
0      2                                          66

The numbers of group g are those of its four points of 8 levels, each one of 256. Its word has seven signs of every
eight weights, of which the eighth makes an even number, and s[g] in the top four bits.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.blocks import read_half, write_half
from quantkit.qtypes.search.groups import Redo, Weighting
from quantkit.qtypes.search.lattice_signed import Signed
from quantkit.qtypes.search.lattice_types import BlockLayout, Parts, lattice_type, read_words, write_words
from quantkit.tensors import U8

CODING = Signed(
    points="iq2_xxs", rings=2, group=32, magnitudes=(8, 25, 43), unit=0.125, steps=6, step=0.1, eps=1e-15,
    weighting=Weighting.IMPORTANCE, sigma_factor=1, redo=Redo.ALL, parity=True, fit_first=True,
)  # fmt: skip


def read(raw: U8) -> Parts:
    """Bytes (n, 66) taken apart."""
    groups = raw[:, 2:].reshape(len(raw), 8, 8)
    signs, sc = read_words(groups[:, :, 4:].reshape(len(raw), 32))
    return Parts(groups[:, :, :4].reshape(len(raw), 32).astype(np.uint16), signs, read_half(raw, 0), sc)


def write(parts: Parts, raw: U8) -> None:
    """Fill bytes (n, 66) from their parts."""
    write_half(raw, 0, parts.d)
    numbers = parts.numbers.reshape(len(raw), 8, 4).astype(np.uint8)
    words = write_words(parts.marks, parts.sc).reshape(len(raw), 8, 4)
    raw[:, 2:] = np.concatenate([numbers, words], axis=2).reshape(len(raw), 64)


TYPE = lattice_type(BlockLayout("iq2_xxs", 16, 66, 60, read, write, encode_ns=115.0), CODING)
