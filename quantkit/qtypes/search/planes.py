"""Bit planes: how the GGUF block types lay codes of 1, 2 or 4 bits into bytes, and codes on their way there.

All of them follow one pattern. `per` = 8 // bits codes share a byte. Within every span * per codes, byte i of `span`
bytes holds codes i, i + span, i + 2 * span, ..., lowest bits first:

    bits 4, span 16    q4_0 and other groups of 32: byte i has q[i] low, q[i + 16] high
    bits 4, span 32    q4_k, q5_k
    bits 4, span 64    q6_k
    bits 4, span 8     counts of q3_k, of which there are 16
    bits 2, span 32    q2_k, q3_k, high bits of q6_k
    bits 2, span 4     high bits of counts of q3_k
    bits 1, span 32    high bits of q3_k and q5_k
    bits 1, span 1     high bits of q5_0 and q5_1

Types with more bits per code store several planes; `shift` says which bits of the code go into one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantkit.qtypes.base import Codes, Grid
from quantkit.qtypes.search import entries
from quantkit.qtypes.search.groups import SUPER, frozen, lanes
from quantkit.qtypes.search.scales import middles
from quantkit.records import record
from quantkit.tensors import F32, U8

# (bits, span) of the planes that loops write, and how many codes at once: SUPER is all of a block.
WRITTEN = {
    (4, 8): 16, (4, 16): 32, (4, 32): SUPER, (4, 64): SUPER, (2, 4): 16, (2, 32): SUPER, (1, 32): SUPER, (1, 1): 32,
}  # fmt: skip


@record
class Plane:
    """Bits [shift, shift + bits) of every code of a block, from byte `at` of the block on."""

    at: int
    bits: int
    span: int
    shift: int = 0


@record
class SearchCodes:
    """The codes a search ended with, which groups keep whose scale is stored as zero.

    They are clip(nearest(iscale * (x - origin))), iscale and origin (groups,), all the smallest where iscale is 0; or
    `kept` (k, n) has them, for the groups of zero scale in order.
    """

    iscale: F32 | None = None
    origin: F32 | None = None
    kept: F32 | None = None


def _layout(planes: tuple[Plane, ...], block: int, nbytes: int) -> NDArray[np.int64]:
    """Planes as loops take them, for blocks of so many codes in so many bytes: loops write what they are told to."""
    for plane in planes:
        codes = WRITTEN.get((plane.bits, plane.span), SUPER + 1)
        assert block == codes if codes >= SUPER else block % codes == 0, f"no loop writes {plane} of {block} codes"
        assert plane.at + block * plane.bits // 8 <= nbytes, f"{plane} of {block} codes ends beyond byte {nbytes}"
    return np.array([(plane.at, plane.bits, plane.span, plane.shift) for plane in planes], np.int64)


def pack_planes(codes: Codes, low: int, planes: tuple[Plane, ...], raw: U8) -> None:
    """Write `codes` (n, block), of which `low` is stored as 0, into their planes of `raw` (n, nbytes)."""
    entries.pack_blocks(
        np.require(codes, np.int16, ["C", "A", "W"]), low, _layout(planes, codes.shape[1], raw.shape[1]), raw
    )


def unpack_planes(raw: U8, low: int, planes: tuple[Plane, ...], block: int) -> Codes:
    """Codes int16 (n, block) from their planes of `raw` (n, nbytes): the inverse of `pack_planes`."""
    raw = np.require(raw, np.uint8, ["C", "A", "W"])
    codes = np.full((len(raw), block), low, np.int16)
    for plane in planes:
        if plane.span == 1:
            bits = np.unpackbits(raw[:, plane.at : plane.at + block // 8], axis=1, bitorder="little")
            codes += bits.astype(np.int16) << plane.shift
        else:
            entries.unpack_plane(raw, plane.at, plane.bits, plane.span, plane.shift, codes)
    return codes


def round_to_planes(blocks: F32, grid: Grid, search: SearchCodes, planes: tuple[Plane, ...], raw: U8) -> None:
    """Round blocks (b, block) to their grid and write the codes into `raw` (b, nbytes)."""
    nothing = np.empty(0, np.float32)
    scale, offset = grid.scale.reshape(-1), nothing if grid.offset is None else grid.offset.reshape(-1)
    iscale, origin = (nothing if array is None else array for array in (search.iscale, search.origin))
    kept = nothing.reshape(0, 0) if search.kept is None else search.kept
    limits, layout = (grid.qmin, grid.qmax), _layout(planes, blocks.shape[1], raw.shape[1])
    assert blocks.size in (16 * scale.size, 32 * scale.size), "groups of 16 or 32"
    entries.round_to_planes(frozen(blocks), scale, offset, iscale, origin, kept, *limits, layout, raw)


def levels_to_planes(blocks: F32, inverse: F32, levels: F32, planes: tuple[Plane, ...], raw: U8) -> None:
    """Write the indices of the levels nearest to inverse * x, for blocks (b, block), inverse (groups,), into `raw`."""
    layout = _layout(planes, blocks.shape[1], raw.shape[1])
    entries.levels_to_planes(frozen(blocks), inverse, middles(levels), layout, raw)


def cut_to_planes(blocks: F32, top: int, signed: bool, planes: tuple[Plane, ...], raw: U8) -> tuple[F32, F32]:
    """Write the codes of legacy blocks (b, 32) without importance; return their unrounded scales and minima (b,).

    Signed: scale = peak / -top, codes -top..top - 1. Otherwise scale = (maximum - minimum) / top, codes 0..top.
    """
    scale, minimum = np.empty(lanes(len(blocks)), np.float32), np.empty(lanes(len(blocks)), np.float32)
    layout = _layout(planes, blocks.shape[1], raw.shape[1])
    entries.cut_to_planes(frozen(blocks), top, signed, layout, raw, scale, minimum)
    return scale[: len(blocks)], minimum[: len(blocks)]
