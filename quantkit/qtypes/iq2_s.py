"""IQ2_S: 256 weights, a point of a lattice for every eight, a sign each, and sixteen groups with 4-bit scales.

struct block_iq2_s, 82 bytes
+------+-----------+-----------+----------+----------+
| d    | qs        | signs     | qh       | scales   |    value = d * (0.5 + s[g]) / 4 * (+ or -) MAGNITUDES[level]
| f16  | 32 bytes  | 32 bytes  | 8 bytes  | 8 bytes  |
+------+-----------+-----------+----------+----------+
0      2           34          66         74         82

qs: low eight bits of the number of a point of 8 levels, one of 1024; its top two bits are bits 2 * (k % 4) of byte
k // 4 of qh. signs: bit i of byte k for weight 8 * k + i. scales: byte i has s[2 * i] low, s[2 * i + 1] high.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.blocks import read_half, write_half
from quantkit.qtypes.search.groups import Redo, Weighting
from quantkit.qtypes.search.lattice_signed import Signed
from quantkit.qtypes.search.lattice_types import BlockLayout, Parts, lattice_type, read_nibbles, write_nibbles
from quantkit.tensors import U8

CODING = Signed(
    points="iq2_s", rings=1, group=16, magnitudes=(8, 25, 43), unit=0.125, steps=9, step=0.1, eps=1e-8,
    weighting=Weighting.SPREAD_SQUARE, sigma_factor=2, redo=Redo.THOSE_OUTSIDE, parity=False, fudge=0.9875,
)  # fmt: skip


def read(raw: U8) -> Parts:
    """Bytes (n, 82) taken apart."""
    tops = raw[:, 66:74, None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3
    numbers = (raw[:, 2:34] | tops.reshape(len(raw), 32).astype(np.uint16) << 8).astype(np.uint16)
    return Parts(numbers, raw[:, 34:66], read_half(raw, 0), read_nibbles(raw[:, 74:]))


def write(parts: Parts, raw: U8) -> None:
    """Fill bytes (n, 82) from their parts."""
    write_half(raw, 0, parts.d)
    raw[:, 2:34] = parts.numbers & 255
    raw[:, 34:66] = parts.marks
    tops = (parts.numbers >> 8).astype(np.uint8).reshape(len(raw), 8, 4)
    raw[:, 66:74] = (tops << np.arange(0, 8, 2, dtype=np.uint8)).sum(axis=2)
    raw[:, 74:] = write_nibbles(parts.sc)


TYPE = lattice_type(BlockLayout("iq2_s", 22, 82, 72, read, write, encode_ns=95.0), CODING)
