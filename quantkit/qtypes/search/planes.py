"""Bit planes: how the GGUF block types lay codes of 1, 2 or 4 bits into bytes.

All of them follow one pattern. `per` = 8 // bits codes share a byte. Within every span * per codes, byte i of `span`
bytes holds codes i, i + span, i + 2 * span, ..., lowest bits first:

    bits 4, span 16    q4_0 and other blocks of 32: byte i has q[i] low, q[i + 16] high
    bits 4, span 32    q4_k, q5_k
    bits 4, span 64    q6_k
    bits 2, span 32    q2_k, q3_k, high bits of q6_k
    bits 1, span 32    high bits of q3_k and q5_k
    bits 1, span 1     high bits of q5_0 and q5_1

Types with more bits per code store several planes; `shift` says which bits of the code go into one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantkit.qtypes.base import Codes
from quantkit.tensors import U8


@dataclass(frozen=True)
class Plane:
    """Bits [shift, shift + bits) of every code of a block, from byte `at` of the block on."""

    at: int
    bits: int
    span: int
    shift: int = 0


def pack_planes(codes: Codes, low: int, planes: tuple[Plane, ...], raw: U8) -> None:
    """Write `codes` (n, block), of which `low` is stored as 0, into their planes of `raw` (n, nbytes)."""
    from quantkit.qtypes.search.plane_loops import pack_plane

    codes = np.require(codes, np.int16, ["C", "A", "W"])
    for plane in planes:
        if plane.span == 1:
            bits = np.packbits(((codes - low) >> plane.shift & 1).astype(bool), axis=1, bitorder="little")
            raw[:, plane.at : plane.at + bits.shape[1]] = bits
        else:
            pack_plane(codes, low, plane.shift, plane.bits, plane.span, raw, plane.at)


def unpack_planes(raw: U8, low: int, planes: tuple[Plane, ...], block: int) -> Codes:
    """Codes int16 (n, block) from their planes of `raw` (n, nbytes): the inverse of `pack_planes`."""
    from quantkit.qtypes.search.plane_loops import unpack_plane

    raw = np.require(raw, np.uint8, ["C", "A", "W"])
    codes = np.full((len(raw), block), low, np.int16)
    for plane in planes:
        if plane.span == 1:
            bits = np.unpackbits(raw[:, plane.at : plane.at + block // 8], axis=1, bitorder="little")
            codes += bits.astype(np.int16) << plane.shift
        else:
            unpack_plane(raw, plane.at, plane.bits, plane.span, plane.shift, codes)
    return codes
