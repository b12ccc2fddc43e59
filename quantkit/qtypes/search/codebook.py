"""The scale search of types whose codes index a fixed table of levels (quantize_row_iq4_nl_impl of ggml-quants.c)."""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.lanes import absolute, load, select, splat, store, store_int16
from quantkit.qtypes.search.tiles import EPS, ONE, WIDTH, ZERO, compiled, signed_peak

STEPS = 7


@compiled
def _moments(x, weight, at, n, inverse, levels, middles):  # type: ignore[no-untyped-def]
    """sum w*q*x and sum w*q*q of the levels q nearest to inverse * x."""
    slx, sl2 = splat(ZERO, WIDTH), splat(ZERO, WIDTH)
    for i in range(n):
        x_i = load(x, at + i * WIDTH, WIDTH)
        v = inverse * x_i
        q = splat(levels[0], WIDTH)
        for k in range(middles.size):
            q = select(v < splat(middles[k], WIDTH), q, splat(levels[k + 1], WIDTH))
        wq = load(weight, at + i * WIDTH, WIDTH) * q
        slx = slx + wq * x_i
        sl2 = sl2 + wq * q
    return slx, sl2


@compiled
def search_levels(x, weight, levels, middles, scales):  # type: ignore[no-untyped-def]
    """Scale of every group: 16 candidates near peak / levels[0], the best least-squares fit wins.

    levels is ascending, levels[0] negative; middles are the points half-way between neighbours, at which the upper
    level is nearest. scales (tiles, WIDTH), 0 for a group that counts as zero.
    """
    tiles, n, _ = x.shape
    zero = splat(ZERO, WIDTH)
    first = splat(levels[0], WIDTH)
    for tile in range(tiles):
        at = tile * n * WIDTH
        peak = signed_peak(x, at, n)
        inverse = splat(ONE, WIDTH) / ((zero - peak) / first)
        slx, sl2 = _moments(x, weight, at, n, inverse, levels, middles)
        scale = select(sl2 > zero, slx / sl2, zero)
        best = scale * slx
        for step in range(-STEPS, STEPS + 1):
            inverse = splat(np.float32(np.float32(step) + levels[0]), WIDTH) / peak
            slx, sl2 = _moments(x, weight, at, n, inverse, levels, middles)
            better = (sl2 > zero) & (slx * slx > best * sl2)
            scale = select(better, slx / sl2, scale)
            best = select(better, scale * slx, best)
        store(scales, tile * WIDTH, select(absolute(peak) < splat(EPS, WIDTH), zero, scale))


@compiled
def nearest_levels(x, inverse, middles, codes):  # type: ignore[no-untyped-def]
    """codes int16 (m, n): index of the level nearest to inverse[g] * x[g, i]. x (m, n), n a multiple of 16."""
    groups, n = x.shape
    for group in range(groups):
        factor = splat(inverse[group], 16)
        for i in range(0, n, 16):
            v = factor * load(x, group * n + i, 16)
            code = splat(ZERO, 16)
            for k in range(middles.size):
                code = select(v < splat(middles[k], 16), code, splat(np.float32(k + 1), 16))
            store_int16(codes, group * n + i, code)
