"""What the K types of scale and minimum share (q2_k, q4_k, q5_k): groups searched, then their scales quantized.

A super-block has 256 weights in groups of `n`. Each group has a scale and a minimum, small integers in units of the
super-block's float16 d and dmin: value = d * sc * code - dmin * m.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantkit.qtypes.base import Codes, Grid, as_blocks
from quantkit.qtypes.search import scales
from quantkit.qtypes.search.blocks import F16, half, read_half, write_half
from quantkit.qtypes.search.scales import Steps, Weighting
from quantkit.tensors import F32, U8

BLOCK = 256
# Candidates of every offset search with importance (quantize_row_q2_K_impl ... q5_K_impl of ggml-quants.c).
WEIGHTED_STEPS = Steps(-0.9, 0.05, 36)


@dataclass(frozen=True)
class OffsetSearch:
    """How one type searches: groups of n, codes 0..top, scales and minima 0..scale_top.

    `how`, `squared` and `steps` are used without importance. `sigma_factor` times the mean square of the
    super-block is sigma2 of the weights with importance.
    """

    n: int
    top: int
    scale_top: int
    how: Weighting
    squared: bool
    steps: Steps
    sigma_factor: int


def choose_offset(rows: F32, importance: F32 | None, search: OffsetSearch) -> tuple[Codes, Grid]:
    """Codes and grid of all super-blocks of rows (r, cols): see `blocks.Choose`."""
    blocks = as_blocks(rows, BLOCK)
    groups = blocks.reshape(-1, search.n)
    shape = (len(blocks), BLOCK // search.n)
    if importance is None:
        tiles = scales.weighted(groups, search.how)
        found = scales.search_offset(tiles, search.top, search.steps, search.squared)
        d, sc = scales.proportional_codes(found.scale.reshape(shape), search.scale_top)
        dmin, m = scales.proportional_codes(-found.minimum.reshape(shape), search.scale_top)
    else:
        sigma2 = block_sigma2(blocks, search.sigma_factor, shape[1])
        tiles = scales.weighted(groups, Weighting.IMPORTANCE, importance, sigma2)
        found = scales.search_offset(tiles, search.top, WEIGHTED_STEPS)
        weight = tiles.sums.reshape(shape)
        d, sc = scales.search_unsigned(found.scale.reshape(shape), weight, search.scale_top)
        dmin, m = scales.search_unsigned(-found.minimum.reshape(shape), weight, search.scale_top)
    grid = offset_grid(half(d), half(dmin), sc, m, search.top)
    return round_groups(blocks, grid, found.iscale, found.origin), grid


def block_sigma2(blocks: F32, factor: int, groups: int) -> F32:
    """factor * mean square of each block (b, n), repeated for each of its groups: (b * groups,)."""
    sums = scales.square_sums(blocks)
    return np.repeat(np.float32(factor) * sums / np.float32(blocks.shape[1]), groups)


def offset_grid(d: F16, dmin: F16, sc: U8, m: U8, top: int) -> Grid:
    """The grid of codes 0..top with scales d * sc and offsets -dmin * m; d and dmin (b,), sc and m (b, groups)."""
    with np.errstate(invalid="ignore"):  # an infinite d times 0: `blocks` refuses it
        scale = d.astype(np.float32)[:, None] * sc.astype(np.float32)
        offset = -(dmin.astype(np.float32)[:, None] * m.astype(np.float32))
    return Grid(scale, offset, 0, top, fields={"d": d, "dmin": dmin, "sc": sc, "m": m})


def round_groups(blocks: F32, grid: Grid, iscale: F32, origin: F32 | None = None) -> Codes:
    """Codes int16 (b, block) of blocks (b, block) on their grid.

    `iscale` and `origin`, one per group, give the codes of the search; groups whose scale is zero keep them.
    """
    from quantkit.qtypes.search.rounding import round_to_grid

    zeros = np.zeros(grid.scale.size, np.float32)
    offset = zeros if grid.offset is None else grid.offset.reshape(-1)
    origin = zeros if origin is None else origin
    codes = np.empty(blocks.shape, np.int16)
    by_group = (-1, blocks.shape[1] // grid.scale.shape[1])
    groups, scale = blocks.reshape(by_group), grid.scale.reshape(-1)
    round_to_grid(groups, scale, offset, iscale, origin, grid.qmin, grid.qmax, codes.reshape(by_group))
    return codes


def pack_six_bits(sc: U8, m: U8) -> U8:
    """Eight scales and eight minima of 6 bits (b, 8) as 12 bytes (b, 12).

    Bytes 0-3: sc[0..3], bytes 4-7: m[0..3], with the top two bits of sc[4..7] and m[4..7] above them;
    bytes 8-11: the low four bits of sc[4..7], and of m[4..7] above them.
    """
    low, high = slice(0, 4), slice(4, 8)
    tops = (sc[:, low] | (sc[:, high] >> 4) << 6, m[:, low] | (m[:, high] >> 4) << 6)
    return np.concatenate([*tops, (sc[:, high] & 15) | (m[:, high] & 15) << 4], axis=1)


def unpack_six_bits(raw: U8) -> tuple[U8, U8]:
    """The inverse of `pack_six_bits`."""
    first, second, third = raw[:, 0:4], raw[:, 4:8], raw[:, 8:12]
    sc = np.concatenate([first & 63, (third & 15) | (first >> 6) << 4], axis=1)
    m = np.concatenate([second & 63, (third >> 4) | (second >> 6) << 4], axis=1)
    return sc, m


def write_scales(raw: U8, grid: Grid) -> None:
    """The first 16 bytes of q4_k and q5_k blocks (b, nbytes): d, dmin and the 6-bit scales and minima."""
    write_half(raw, 0, grid.fields["d"])
    write_half(raw, 2, grid.fields["dmin"])
    sc, m = (grid.fields[key].astype(np.uint8, copy=False) for key in ("sc", "m"))
    raw[:, 4:16] = pack_six_bits(sc, m)


def read_scales(raw: U8, top: int) -> Grid:
    """The inverse of `write_scales`, for codes 0..top."""
    return offset_grid(read_half(raw, 0), read_half(raw, 2), *unpack_six_bits(raw[:, 4:16]), top)
