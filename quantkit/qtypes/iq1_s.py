"""IQ1_S: 256 weights of about -1, 0 or 1, a point of a lattice for every eight, and eight groups with 3-bit scales.

struct block_iq1_s, 50 bytes
+------+-----------+----------+
| d    | qs        | qh       |    value = d * (1 + 2 * s[g]) * (t - 1 + delta[g]), t = 0, 1 or 2
| f16  | 32 bytes  | 8 x u16  |
+------+-----------+----------+
0      2           34         50

qs: low eight bits of the number of a point of 8 levels, one of 2048. Word g of qh belongs to group g: the top three
bits of its four numbers, number k at bit 3 * k, s[g] at bit 12, and at bit 15 whether delta[g] is -1/8 and not 1/8.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.blocks import read_half, write_half
from quantkit.qtypes.search.groups import Weighting
from quantkit.qtypes.search.lattice_ternary import Ternary
from quantkit.qtypes.search.lattice_types import BlockLayout, Parts, lattice_type
from quantkit.tensors import U8

CODING = Ternary(group=32, eps=1e-12, weighting=Weighting.IMPORTANCE, halves=False, fudge=1.125)
SHIFTS = np.arange(0, 12, 3, dtype=np.uint16)  # of the top bits of four numbers


def read(raw: U8) -> Parts:
    """Bytes (n, 50) taken apart."""
    words = raw.view("<u2")[:, 17:].astype(np.uint16)  # (n, 8)
    tops = (words[:, :, None] >> SHIFTS & 7).reshape(len(raw), 32)
    marks = np.repeat((words >> 15).astype(np.uint8), 4, axis=1)
    return Parts(
        (raw[:, 2:34] | tops << 8).astype(np.uint16), marks, read_half(raw, 0), (words >> 12 & 7).astype(np.uint8)
    )


def write(parts: Parts, raw: U8) -> None:
    """Fill bytes (n, 50) from their parts."""
    write_half(raw, 0, parts.d)
    raw[:, 2:34] = parts.numbers & 255
    tops = ((parts.numbers >> 8).reshape(len(raw), 8, 4) << SHIFTS).sum(axis=2)
    words = tops | parts.sc.astype(np.uint16) << 12 | parts.marks[:, ::4].astype(np.uint16) << 15
    raw.view("<u2")[:, 17:] = words


TYPE = lattice_type(BlockLayout("iq1_s", 19, 50, 45, read, write, encode_ns=75.0), CODING)
