"""IQ3_S: 256 weights, a point of a lattice for every four, a sign each, and eight groups with 4-bit scales.

struct block_iq3_s, 110 bytes
+------+-----------+----------+-----------+----------+
| d    | qs        | qh       | signs     | scales   |    value = d * (1 + 2 * s[g]) * (+ or -) MAGNITUDES[level]
| f16  | 64 bytes  | 8 bytes  | 32 bytes  | 4 bytes  |
+------+-----------+----------+-----------+----------+
0      2           66         74          106        110

qs: low eight bits of the number of a point of 4 levels, one of 512; its ninth bit is bit k % 8 of byte k // 8 of qh.
signs: bit i of byte k for weight 8 * k + i. scales: byte i has s[2 * i] low, s[2 * i + 1] high.

ggml's encoder passes over a group of zeros without leaving its place in qs and signs free, so that the weights behind
it in the block are damaged; so does this one, whose promise is equal bytes.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.blocks import read_half, write_half
from quantkit.qtypes.search.groups import Redo, Weighting
from quantkit.qtypes.search.lattice_signed import Signed
from quantkit.qtypes.search.lattice_types import BlockLayout, Parts, lattice_type, read_nibbles, write_nibbles
from quantkit.tensors import U8

CODING = Signed(
    points="iq3_s", rings=3, group=32, magnitudes=(1, 3, 5, 7, 9, 11, 13, 15), unit=1.0, steps=9, step=0.2,
    eps=0.0, weighting=Weighting.SQUARE, sigma_factor=2, redo=Redo.ALL_IF_OUTSIDE, parity=False, fudge=1.033,
    closes_up=True,
)  # fmt: skip


def read(raw: U8) -> Parts:
    """Bytes (n, 110) taken apart."""
    ninth = np.unpackbits(raw[:, 66:74], axis=1, bitorder="little").astype(np.uint16)
    numbers = (raw[:, 2:66] | ninth << 8).astype(np.uint16)
    return Parts(numbers, raw[:, 74:106], read_half(raw, 0), read_nibbles(raw[:, 106:]))


def write(parts: Parts, raw: U8) -> None:
    """Fill bytes (n, 110) from their parts."""
    write_half(raw, 0, parts.d)
    raw[:, 2:66] = parts.numbers & 255
    raw[:, 66:74] = np.packbits(parts.numbers >> 8, axis=1, bitorder="little")
    raw[:, 74:106] = parts.marks
    raw[:, 106:] = write_nibbles(parts.sc)


LAYOUT = BlockLayout("iq3_s", 21, 110, 104, read, write, encode_ns=140.0, needs_importance=False)
TYPE = lattice_type(LAYOUT, CODING)
