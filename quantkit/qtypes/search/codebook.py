"""The scale search of types whose codes index a fixed table of levels (quantize_row_iq4_nl_impl of ggml-quants.c)."""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import compiled, inlined
from quantkit.qtypes.search.groups import WIDTH
from quantkit.qtypes.search.lanes import absolute, load, select, splat, store
from quantkit.qtypes.search.tiles import EPS, ONE, ZERO, load_weighted, signed_peak

STEPS = 7


@inlined
def _moments(x, weight, inverse, levels, middles):  # type: ignore[no-untyped-def]
    """sum w*q*x and sum w*q*q of the levels q nearest to inverse * x."""
    slx, sl2 = splat(ZERO, WIDTH), splat(ZERO, WIDTH)
    for i in range(x.shape[0]):
        x_i = load(x, i * WIDTH, WIDTH)
        v = inverse * x_i
        q = splat(levels[0], WIDTH)
        for k in range(middles.size):
            q = select(v < splat(middles[k], WIDTH), q, splat(levels[k + 1], WIDTH))
        wq = load(weight, i * WIDTH, WIDTH) * q
        slx = slx + wq * x_i
        sl2 = sl2 + wq * q
    return slx, sl2


@compiled
def search_levels(groups, importance, sigma2, how, levels, middles, scale):  # type: ignore[no-untyped-def]
    """Scale of groups (m, n), weighted as in `load_weighted`: 16 candidates near peak / levels[0], the best fit wins.

    levels is ascending, levels[0] negative; middles are the points half-way between neighbours, at which the upper
    level is nearest. scale (lanes,), 0 for a group that counts as zero.
    """
    n = groups.shape[1]
    x, weight = np.empty((n, WIDTH), np.float32), np.empty((n, WIDTH), np.float32)
    zero, first = splat(ZERO, WIDTH), splat(levels[0], WIDTH)
    for lane in range(0, scale.size, WIDTH):
        load_weighted(groups, importance, sigma2, how, lane, x, weight)
        peak = signed_peak(x, WIDTH)
        inverse = splat(ONE, WIDTH) / ((zero - peak) / first)
        slx, sl2 = _moments(x, weight, inverse, levels, middles)
        best_scale = select(sl2 > zero, slx / sl2, zero)
        best = best_scale * slx
        for step in range(-STEPS, STEPS + 1):
            inverse = splat(np.float32(np.float32(step) + levels[0]), WIDTH) / peak
            slx, sl2 = _moments(x, weight, inverse, levels, middles)
            better = (sl2 > zero) & (slx * slx > best * sl2)
            best_scale = select(better, slx / sl2, best_scale)
            best = select(better, best_scale * slx, best)
        store(scale, lane, select(absolute(peak) < splat(EPS, WIDTH), zero, best_scale))
