"""IQ2_XS: 256 weights, a point of a lattice for every eight, and sixteen groups with 4-bit scales.

struct block_iq2_xs, 74 bytes
+------+-----------+----------+
| d    | qs        | scales   |    value = d * (0.5 + s[g]) / 4 * (+ or -) MAGNITUDES[level]
| f16  | 32 x u16  | 8 bytes  |
+------+-----------+----------+
0      2           66         74

qs: low nine bits: number of a point of 8 levels, one of 512; above them seven signs, of which the eighth makes an even
number. scales: byte i has s[2 * i] low, s[2 * i + 1] high.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.blocks import read_half, write_half
from quantkit.qtypes.search.groups import Redo, Weighting
from quantkit.qtypes.search.lattice_signed import Signed
from quantkit.qtypes.search.lattice_types import BlockLayout, Parts, lattice_type, read_nibbles, write_nibbles
from quantkit.tensors import U8

CODING = Signed(
    points="iq2_xs", rings=2, group=16, magnitudes=(8, 25, 43), unit=0.125, steps=9, step=0.1, eps=1e-15,
    weighting=Weighting.IMPORTANCE, sigma_factor=1, redo=Redo.THOSE_OUTSIDE, parity=True,
)  # fmt: skip


def read(raw: U8) -> Parts:
    """Bytes (n, 74) taken apart."""
    words = raw.view("<u2")[:, 1:33].astype(np.uint16)
    return Parts(
        (words & 511).astype(np.uint16), (words >> 9).astype(np.uint8), read_half(raw, 0), read_nibbles(raw[:, 66:])
    )


def write(parts: Parts, raw: U8) -> None:
    """Fill bytes (n, 74) from their parts."""
    write_half(raw, 0, parts.d)
    raw.view("<u2")[:, 1:33] = parts.numbers | parts.marks.astype(np.uint16) << 9
    raw[:, 66:] = write_nibbles(parts.sc)


TYPE = lattice_type(BlockLayout("iq2_xs", 17, 74, 64, read, write, encode_ns=180.0), CODING)
