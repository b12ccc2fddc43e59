"""What the legacy types share: blocks of 32 weights with one float16 scale, and an offset in q4_1 and q5_1.

Without importance they take their scale from the largest weight, or from the extremes, and cut codes off with the
scale before it is rounded; with importance they search, and store the codes of the search.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Grid, as_blocks
from quantkit.qtypes.search import scales
from quantkit.qtypes.search.blocks import F16, finite, half, widened, write_half
from quantkit.qtypes.search.groups import Groups, Weighting, whole_numbers
from quantkit.qtypes.search.planes import Plane, SearchCodes, cut_to_planes, round_to_planes
from quantkit.qtypes.search.superblocks import WEIGHTED_STEPS
from quantkit.tensors import F32, U8

BLOCK = 32


def quantize_signed(rows: F32, importance: F32 | None, top: int, planes: tuple[Plane, ...], raw: U8) -> Grid:
    """`Encoder.quantize` for codes -top..top - 1.

    quantize_row_q4_0_ref and _q5_0_ref of ggml-quants.c; with importance, the functions ending in _impl.
    """
    blocks = as_blocks(rows, BLOCK)
    if importance is None:
        d, _ = cut_to_planes(blocks, top, True, planes, raw)
        grid = signed_grid(half(d), top)
    else:
        groups = Groups(blocks, Weighting.IMPORTANCE, importance, row_sigma2(rows))
        d, iscale, _ = scales.search_signed(groups, top)
        grid = signed_grid(half(d), top)
        round_to_planes(blocks, unscaled(grid), SearchCodes(iscale), planes, raw)
    write_half(raw, 0, grid.fields["d"])
    return grid


def search_signed(w: F32, prices: F32, top: int) -> Grid:
    """`QuantType.search` for codes -top..top - 1."""
    scale = scales.search_ends(as_blocks(w, BLOCK), prices, whole_numbers(-top, top - 1))
    return finite(signed_grid(half(scale), top), BLOCK)


def quantize_offset(rows: F32, importance: F32 | None, top: int, planes: tuple[Plane, ...], raw: U8) -> Grid:
    """`Encoder.quantize` for codes 0..top: quantize_row_q4_1_ref and _q5_1_ref, or those ending in _impl."""
    blocks = as_blocks(rows, BLOCK)
    if importance is None:
        d, m = cut_to_planes(blocks, top, False, planes, raw)
        grid = offset_grid(half(d), half(m), top)
    else:
        groups = Groups(blocks, Weighting.IMPORTANCE, importance, row_sigma2(rows))
        found = scales.search_offset(groups, top, WEIGHTED_STEPS)
        grid = offset_grid(half(found.scale), half(found.minimum), top)
        round_to_planes(blocks, unscaled(grid), SearchCodes(found.iscale, found.origin), planes, raw)
    write_half(raw, 0, grid.fields["d"])
    write_half(raw, 2, grid.fields["m"])
    return grid


def signed_grid(d: F16, top: int) -> Grid:
    """The grid of codes -top..top - 1 with scale d (n,)."""
    return Grid(widened(d)[:, None], None, -top, top - 1, fields={"d": d})


def offset_grid(d: F16, m: F16, top: int) -> Grid:
    """The grid of codes 0..top with scale d and offset m, (n,)."""
    return Grid(widened(d)[:, None], widened(m)[:, None], 0, top, fields={"d": d, "m": m})


def unscaled(grid: Grid) -> Grid:
    """The grid with scales of zero, so that all groups keep the codes of the search."""
    return Grid(np.zeros_like(grid.scale), None, grid.qmin, grid.qmax)


def row_sigma2(rows: F32) -> F32:
    """Mean square of each row (r, cols), repeated for each of its blocks: (r * cols // 32,)."""
    cols = rows.shape[1]
    return np.repeat(scales.square_sums(rows) / np.float32(cols), cols // BLOCK)
