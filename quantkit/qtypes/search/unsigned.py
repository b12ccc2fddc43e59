"""Search D: one scale for non-negative values, the block scales of K types (make_qp_quants of ggml-quants.c)."""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import compiled, inlined
from quantkit.qtypes.search.groups import WIDTH
from quantkit.qtypes.search.lanes import flattened, lane_bits, load, low_byte, nearest, select, splat, store
from quantkit.qtypes.search.tiles import EPS, ONE, ZERO, load_tile

SWEEPS = 5


@inlined
def _first_codes(x, weight, top, codes):  # type: ignore[no-untyped-def]
    """Try nine scales around top / maximum and store the codes of the best.

    Return sum w*x*l and sum w*l*l of these codes, and the lanes that count as zero.
    """
    zero, high = splat(ZERO, WIDTH), splat(np.float32(top), WIDTH)
    maximum = zero
    for i in range(x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        maximum = select(maximum > v, maximum, v)
    best_iscale = high / maximum
    scale = splat(ONE, WIDTH) / best_iscale
    best = zero
    for i in range(x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        diff = v - scale * low_byte(nearest(best_iscale * v))
        best = best + load(weight, i * WIDTH, WIDTH) * diff * diff
    for step in range(-4, 5):
        if step == 0:
            continue
        factor = np.float32(np.float32(np.float32(0.1) * np.float32(step)) + np.float32(top))
        iscale = splat(factor, WIDTH) / maximum
        scale = splat(ONE, WIDTH) / iscale
        error = zero
        for i in range(x.shape[0]):
            v = load(x, i * WIDTH, WIDTH)
            q = nearest(iscale * v)
            diff = v - scale * select(q > high, high, q)
            error = error + load(weight, i * WIDTH, WIDTH) * diff * diff
        best_iscale = select(error < best, iscale, best_iscale)
        best = select(error < best, error, best)
    slx, sl2 = zero, zero
    for i in range(x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        w = load(weight, i * WIDTH, WIDTH)
        q = nearest(best_iscale * v)
        q = select(q > high, high, q)
        store(codes, i * WIDTH, low_byte(q))
        slx = slx + w * v * q
        sl2 = sl2 + w * q * q
    return slx, sl2, maximum < splat(EPS, WIDTH)


@inlined
def _sweep(x, weight, codes, high, slx, sl2):  # type: ignore[no-untyped-def]
    """Change the codes one by one where that improves the fit; return the sums of the changed codes."""
    zero = splat(ZERO, WIDTH)
    for i in range(x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        w = load(weight, i * WIDTH, WIDTH)
        q = load(codes, i * WIDTH, WIDTH)
        rest = slx - w * v * q
        rest2 = sl2 - w * q * q
        new = nearest(v * rest2 / rest)
        new = select(new > high, high, new)
        new_slx = rest + w * v * new
        new_sl2 = rest2 + w * new * new
        better = (rest > zero) & (rest2 > zero) & (new != q)
        better = better & (new_slx * new_slx * sl2 > slx * slx * new_sl2)
        store(codes, i * WIDTH, select(better, low_byte(new), q))
        slx = select(better, new_slx, slx)
        sl2 = select(better, new_sl2, sl2)
    return slx, sl2


@compiled
def search_unsigned(values, weights, top, scale, found):  # type: ignore[no-untyped-def]
    """Scale and codes 0..top of every row of values (m, n), with weights (m, n).

    scale (lanes,), found (lanes // WIDTH, n, WIDTH) with the codes. Codes are bytes in the reference: a negative one
    (only negative values have it) is read back modulo 256.
    """
    n = values.shape[1]
    x, weight = np.empty((n, WIDTH), np.float32), np.empty((n, WIDTH), np.float32)
    codes = np.empty((n, WIDTH), np.float32)
    zero, high = splat(ZERO, WIDTH), splat(np.float32(top), WIDTH)
    for lane in range(0, scale.size, WIDTH):
        load_tile(flattened(values), lane, n, x)
        load_tile(flattened(weights), lane, n, weight)
        slx, sl2, empty = _first_codes(x, weight, top, codes)
        for _ in range(SWEEPS):
            before, before2 = slx, sl2
            slx, sl2 = _sweep(x, weight, codes, high, slx, sl2)
            if lane_bits((slx != before) | (sl2 != before2)) == 0:
                break
        for i in range(n):
            store(found, lane * n + i * WIDTH, select(empty, zero, load(codes, i * WIDTH, WIDTH)))
        best = select(sl2 > zero, slx / sl2, zero)
        store(scale, lane, select(empty, zero, best))
