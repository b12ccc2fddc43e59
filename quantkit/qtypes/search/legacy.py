"""What the legacy types share: blocks of 32 weights with one float16 scale, and an offset in q4_1 and q5_1.

Without importance they take their scale from the largest weight, or from the extremes, and cut codes off with the
scale before it is rounded; with importance they search, and keep the codes of the search.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Codes, Grid, as_blocks
from quantkit.qtypes.search import scales
from quantkit.qtypes.search.blocks import F16, half
from quantkit.qtypes.search.scales import Weighting
from quantkit.qtypes.search.superblocks import WEIGHTED_STEPS, round_groups
from quantkit.tensors import F32

BLOCK = 32


def choose_signed(rows: F32, importance: F32 | None, top: int) -> tuple[Codes, Grid]:
    """Codes -top..top - 1 (quantize_row_q4_0_ref, _q5_0_ref; with importance, the functions ending in _impl)."""
    weights = as_blocks(rows, BLOCK)
    if importance is None:
        peak, _, _ = scales.extremes(weights)
        d = peak / np.float32(-top)
        codes = scales.truncated_codes(weights, np.zeros_like(d), scales.inverse(d), top + 0.5, (-top, top - 1))
        return codes, signed_grid(half(d), top)
    tiles = scales.weighted(weights, Weighting.IMPORTANCE, importance, row_sigma2(rows))
    d, iscale = scales.search_signed(tiles, top)
    grid = signed_grid(half(d), top)
    return round_groups(weights, unscaled(grid), iscale), grid


def choose_offset(rows: F32, importance: F32 | None, top: int) -> tuple[Codes, Grid]:
    """Codes 0..top (quantize_row_q4_1_ref, _q5_1_ref; with importance, the functions ending in _impl)."""
    weights = as_blocks(rows, BLOCK)
    if importance is None:
        _, minimum, maximum = scales.extremes(weights)
        with np.errstate(over="ignore"):
            d = (maximum - minimum) / np.float32(top)
        codes = scales.truncated_codes(weights, minimum, scales.inverse(d), 0.5, (0, top))
        return codes, offset_grid(half(d), half(minimum), top)
    tiles = scales.weighted(weights, Weighting.IMPORTANCE, importance, row_sigma2(rows))
    found = scales.search_offset(tiles, top, WEIGHTED_STEPS)
    grid = offset_grid(half(found.scale), half(found.minimum), top)
    return round_groups(weights, unscaled(grid), found.iscale, found.origin), grid


def signed_grid(d: F16, top: int) -> Grid:
    """The grid of codes -top..top - 1 with scale d (n,)."""
    return Grid(d.astype(np.float32)[:, None], None, -top, top - 1, fields={"d": d})


def offset_grid(d: F16, m: F16, top: int) -> Grid:
    """The grid of codes 0..top with scale d and offset m, (n,)."""
    scale, offset = d.astype(np.float32)[:, None], m.astype(np.float32)[:, None]
    return Grid(scale, offset, 0, top, fields={"d": d, "m": m})


def unscaled(grid: Grid) -> Grid:
    """The grid with scales of zero, on which `round_groups` keeps the codes of the search."""
    return Grid(np.zeros_like(grid.scale), grid.offset, grid.qmin, grid.qmax)


def row_sigma2(rows: F32) -> F32:
    """Mean square of each row (r, cols), repeated for each of its blocks: (r * cols // 32,)."""
    cols = rows.shape[1]
    return np.repeat(scales.square_sums(rows) / np.float32(cols), cols // BLOCK)
