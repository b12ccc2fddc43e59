"""IQ1_M: 256 weights of about -1, 0 or 1, a point of a lattice for every eight, and sixteen groups with 3-bit scales.

struct block_iq1_m, 56 bytes
+-----------+-----------+----------+
| qs        | qh        | scales   |    value = d * (1 + 2 * s[g]) * (t - 1 + delta[k]), t = 0, 1 or 2
| 32 bytes  | 16 bytes  | 4 x u16  |
+-----------+-----------+----------+
0           32          48         56

qs: low eight bits of number k of a point of 8 levels, one of 2048. qh: byte g has four bits for the points of group g,
number 2 * g low: the top three bits of the number, and whether delta[k] is -1/8 and not 1/8. scales: word i has
s[4 * i], ... s[4 * i + 3] from bit 0, and in its top four bits bits 4 * i to 4 * i + 3 of d, a float16.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.groups import Weighting
from quantkit.qtypes.search.lattice_ternary import Ternary
from quantkit.qtypes.search.lattice_types import BlockLayout, Parts, lattice_type, read_nibbles, write_nibbles
from quantkit.tensors import U8

CODING = Ternary(group=16, eps=1e-7, weighting=Weighting.SQUARE, halves=True, fudge=1.1125)
SCALE_SHIFTS = np.arange(0, 12, 3, dtype=np.uint16)
D_SHIFTS = np.arange(0, 16, 4, dtype=np.uint16)


def read(raw: U8) -> Parts:
    """Bytes (n, 56) taken apart."""
    high = read_nibbles(raw[:, 32:48])
    words = raw.view("<u2")[:, 24:].astype(np.uint16)  # (n, 4)
    sc = (words[:, :, None] >> SCALE_SHIFTS & 7).reshape(len(raw), 16).astype(np.uint8)
    d = (words >> 12 << D_SHIFTS).sum(axis=1).astype(np.uint16).view(np.float16)
    return Parts(
        (raw[:, :32] | (high & 7).astype(np.uint16) << 8).astype(np.uint16), (high >> 3).astype(np.uint8), d, sc
    )


def write(parts: Parts, raw: U8) -> None:
    """Fill bytes (n, 56) from their parts."""
    raw[:, :32] = parts.numbers & 255
    raw[:, 32:48] = write_nibbles((parts.numbers >> 8 | parts.marks << 3).astype(np.uint8))
    words = (parts.sc.reshape(len(raw), 4, 4).astype(np.uint16) << SCALE_SHIFTS).sum(axis=2).astype(np.uint16)
    d = parts.d.astype(np.float16, copy=False).view(np.uint16)
    raw.view("<u2")[:, 24:] = words | (d[:, None] >> D_SHIFTS & 15) << 12


TYPE = lattice_type(BlockLayout("iq1_m", 29, 56, 48, read, write, encode_ns=90.0), CODING)
