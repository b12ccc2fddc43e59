"""The scales of groups for methods that choose codes one by one: more candidates than a reference encoder tries.

Codes reach further down than up (-8..7, or levels of -127..113), so that a scale's sign decides which side of a group
has the further reach. Reference encoders give it to the weight of largest magnitude; here it is tried both ways, in
steps of a fortieth of an octave, and each candidate's scale is the best one for its codes. What counts is the price of
columns alone, not how large their weights are.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import compiled, inlined
from quantkit.qtypes.search.groups import WIDTH
from quantkit.qtypes.search.lanes import absolute, load, select, splat, store, whole
from quantkit.qtypes.search.tiles import EPS, ZERO, load_weighted, signed_peak


@inlined
def _code(v, levels, middles):  # type: ignore[no-untyped-def]
    """The level nearest to v; without middles, the whole number nearest to it, from the first level to the last.

    v is NaN only where the sums are NaN whatever the code, or the group counts as zero.
    """
    if middles.size:
        q = splat(levels[0], WIDTH)
        for k in range(middles.size):
            q = select(v < splat(middles[k], WIDTH), q, splat(levels[k + 1], WIDTH))
        return q
    low, high = splat(levels[0], WIDTH), splat(levels[-1], WIDTH)
    v = select(v < low, low, v)
    return whole(select(v > high, high, v))


@compiled
def search_ends(groups, importance, how, levels, middles, shares, scale):  # type: ignore[no-untyped-def]
    """Signed scale of groups (m, n), weighted as in `load_weighted`: the candidate that fits best, the first of equals.

    A candidate puts the weight of largest magnitude at a share (steps,) of the first level or of the last. Both are
    float32; middles (levels - 1,) or (0,) for whole numbers. scale (lanes,), 0 for a group that counts as zero.
    """
    n = groups.shape[1]
    x, weight = np.empty((n, WIDTH), np.float32), np.empty((n, WIDTH), np.float32)
    zero = splat(ZERO, WIDTH)
    for lane in range(0, scale.size, WIDTH):
        load_weighted(groups, importance, importance, how, lane, x, weight)
        peak = signed_peak(x, WIDTH)
        best, best_scale = zero, zero
        for k in range(2 * shares.size):
            end = levels[0] if k % 2 == 0 else levels[-1]
            inverse = splat(np.float32(end * shares[k // 2]), WIDTH) / peak
            slx, sl2 = zero, zero
            for i in range(n):
                x_i = load(x, i * WIDTH, WIDTH)
                q = _code(inverse * x_i, levels, middles)
                wq = load(weight, i * WIDTH, WIDTH) * q
                slx = slx + wq * x_i
                sl2 = sl2 + wq * q
            better = (sl2 > zero) & (slx * slx > best * sl2)
            best_scale = select(better, slx / sl2, best_scale)
            best = select(better, best_scale * slx, best)
        store(scale, lane, select(absolute(peak) < splat(EPS, WIDTH), zero, best_scale))
