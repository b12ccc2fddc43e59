"""What the super-block types share: groups are searched, then their scales quantized.

A super-block has 256 weights in groups of `n`. Each group has a scale, a small integer in units of the super-block's
float16 d; in q2_k, q4_k and q5_k also a minimum, in units of dmin: value = d * sc * code - dmin * m.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantkit.qtypes.base import Grid, as_blocks
from quantkit.qtypes.search import scales
from quantkit.qtypes.search.blocks import F16, half, read_half, widened, write_half
from quantkit.qtypes.search.groups import Groups, Steps, Weighting
from quantkit.qtypes.search.planes import SearchCodes
from quantkit.records import record
from quantkit.tensors import F32, U8

BLOCK = 256
SIX_BITS = 63
# Candidates of every offset search with importance (quantize_row_q2_K_impl ... q5_K_impl of ggml-quants.c).
WEIGHTED_STEPS = Steps(-0.9, 0.05, 36)


@record
class OffsetSearch:
    """How one type searches: groups of n, codes 0..top, scales and minima 0..scale_top.

    `how`, `squared` and `steps` are used without importance. `sigma_factor` times the mean square of the
    super-block is sigma2 of the weights with importance, where scales of 6 bits are `cut` off, or not: a negative one
    is a byte beyond them.
    """

    n: int
    top: int
    scale_top: int
    how: Weighting
    squared: bool
    steps: Steps
    sigma_factor: int
    cut: bool = True


def search_offset(blocks: F32, importance: F32 | None, search: OffsetSearch) -> tuple[Grid, SearchCodes]:
    """The grid of super-blocks (b, 256) of whole rows, and the codes that groups of scale zero keep."""
    groups = blocks.reshape(-1, search.n)
    shape = (len(blocks), BLOCK // search.n)
    if importance is None:
        found = scales.search_offset(Groups(groups, search.how), search.top, search.steps, search.squared)
        d, sc = scales.proportional_codes(found.scale.reshape(shape), search.scale_top)
        dmin, m = scales.proportional_codes(-found.minimum.reshape(shape), search.scale_top)
    else:
        sigma2 = block_sigma2(blocks, search.sigma_factor, shape[1])
        weighted = Groups(groups, Weighting.IMPORTANCE, importance, sigma2)
        found = scales.search_offset(weighted, search.top, WEIGHTED_STEPS)
        weight = found.sums.reshape(shape)
        d, sc = scales.search_unsigned(found.scale.reshape(shape), weight, search.scale_top)
        dmin, m = scales.search_unsigned(-found.minimum.reshape(shape), weight, search.scale_top)
    if search.scale_top == SIX_BITS and ((sc > SIX_BITS).any() or (m > SIX_BITS).any()):
        sc, m = _in_six_bits(sc, m, cut=importance is None or search.cut)
    grid = offset_grid(half(d), half(dmin), sc, m, search.top)
    return grid, SearchCodes(found.iscale, found.origin)


def search_signed(
    w: F32, prices: F32, group: int, levels: F32, limits: tuple[int, int]
) -> tuple[F16, NDArray[np.int8]]:
    """For `QuantType.search` of groups with signed scales: d (b,), and the scales (b, groups) as whole numbers within
    limits. Units are found as ggml's quantize_row_q3_K_impl does, each scale at the sum of its columns' prices."""
    by_block = scales.search_ends(as_blocks(w, group), prices, levels).reshape(-1, BLOCK // group)
    sums = np.tile(prices.reshape(-1, group).sum(axis=1), len(w)).reshape(by_block.shape)
    d, factor, _ = scales.search_signed(Groups(by_block, Weighting.PURE_IMPORTANCE, sums), -limits[0])
    return half(d), scales.nearest_codes(by_block, factor, *limits)


def block_sigma2(blocks: F32, factor: int, groups: int) -> F32:
    """factor * mean square of each block (b, n), repeated for each of its groups: (b * groups,)."""
    return np.repeat(np.float32(factor) * scales.square_sums(blocks) / np.float32(blocks.shape[1]), groups)


def offset_grid(d: F16, dmin: F16, sc: U8, m: U8, top: int) -> Grid:
    """The grid of codes 0..top with scales d * sc and offsets -dmin * m; d and dmin (b,), sc and m (b, groups)."""
    scale, offset = scales.products(widened(d), sc), scales.products(-widened(dmin), m)
    return Grid(scale, offset, 0, top, fields={"d": d, "dmin": dmin, "sc": sc, "m": m})


def signed_grid(d: F16, sc: NDArray[np.int8], limits: tuple[int, int], levels: F32 | None = None) -> Grid:
    """The grid of codes limits[0]..limits[1] with scales d * sc; d (b,), sc (b, groups)."""
    return Grid(scales.products(widened(d), sc), None, *limits, levels=levels, fields={"d": d, "sc": sc})


def pack_six_bits(sc: U8, m: U8) -> U8:
    """Eight scales and eight minima of 6 bits (b, 8) as 12 bytes (b, 12).

    Bytes 0-3: sc[0..3], bytes 4-7: m[0..3], with the top two bits of sc[4..7] and m[4..7] above them;
    bytes 8-11: the low four bits of sc[4..7], and of m[4..7] above them.
    """
    # Transposed, the loops of numpy run over the blocks instead of over four bytes.
    sc, m = np.ascontiguousarray(sc.T), np.ascontiguousarray(m.T)  # (8, b)
    packed = np.empty((12, sc.shape[1]), np.uint8)
    packed[0:4] = sc[:4] | (sc[4:] >> 4) << 6
    packed[4:8] = m[:4] | (m[4:] >> 4) << 6
    packed[8:] = (sc[4:] & 15) | (m[4:] & 15) << 4
    return packed.T


def _in_six_bits(sc: U8, m: U8, *, cut: bool) -> tuple[U8, U8]:
    """Scales and minima (b, 8) as ggml stores them where a negative one wrapped around: cut off, or as they are read
    again from bytes in which they run over into others."""
    if cut:
        return np.minimum(sc, SIX_BITS), np.minimum(m, SIX_BITS)
    return unpack_six_bits(pack_six_bits(sc, m))


def unpack_six_bits(raw: U8) -> tuple[U8, U8]:
    """The inverse of `pack_six_bits`."""
    first, second, third = np.ascontiguousarray(raw.T).reshape(3, 4, -1)  # each (4, b)
    sc = np.concatenate([first & 63, (third & 15) | (first >> 6) << 4])
    m = np.concatenate([second & 63, (third >> 4) | (second >> 6) << 4])
    return np.ascontiguousarray(sc.T), np.ascontiguousarray(m.T)


def write_scales(raw: U8, grid: Grid) -> None:
    """The first 16 bytes of q4_k and q5_k blocks (b, nbytes): d, dmin and the 6-bit scales and minima."""
    write_half(raw, 0, grid.fields["d"])
    write_half(raw, 2, grid.fields["dmin"])
    sc, m = (grid.fields[key].astype(np.uint8, copy=False) for key in ("sc", "m"))
    raw[:, 4:16] = pack_six_bits(sc, m)


def read_scales(raw: U8, top: int) -> Grid:
    """The inverse of `write_scales`, for codes 0..top."""
    return offset_grid(read_half(raw, 0), read_half(raw, 2), *unpack_six_bits(raw[:, 4:16]), top)
