"""Search C: a scale and a minimum per group (make_qkx2_quants and make_qkx3_quants of ggml-quants.c).

The names of the sums are the reference's: l code, sl = sum w*l, sl2 = sum w*l*l, slx = sum w*l*x.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import compiled, inlined
from quantkit.qtypes.search.groups import WIDTH
from quantkit.qtypes.search.lanes import absolute, load, select, splat, store, whole
from quantkit.qtypes.search.tiles import INFINITY, ONE, ZERO, extremes, load_weighted


@inlined
def _code(v, high):  # type: ignore[no-untyped-def]
    """nearest(clip(v, 0, high)).

    The same as clipping last, except beyond 2**22, where `nearest` is meaningless and only weights of no importance
    lie. There the builds of ggml differ: 0.25.3 clips last, the one in xllamacpp 2026.10 first, as here.
    """
    v = select(v > splat(ZERO, WIDTH), v, splat(ZERO, WIDTH))
    return whole(select(v > high, high, v))


@inlined
def _divided(factor, span):  # type: ignore[no-untyped-def]
    """factor / span, and 0, which makes all codes 0, where that is infinite."""
    iscale = factor / span
    return select(iscale < splat(INFINITY, WIDTH), iscale, splat(ZERO, WIDTH))


@inlined
def _error(x, weight, codes, scale, minimum, squared):  # type: ignore[no-untyped-def]
    """sum w*diff*diff, or sum w*|diff|, of the stored codes."""
    error = splat(ZERO, WIDTH)
    for i in range(x.shape[0]):
        diff = scale * load(codes, i * WIDTH, WIDTH) + minimum - load(x, i * WIDTH, WIDTH)
        diff = diff * diff if squared else absolute(diff)
        error = error + load(weight, i * WIDTH, WIDTH) * diff
    return error


@inlined
def _least_squares(x, weight, codes, iscale, minimum, high, sw, sx):  # type: ignore[no-untyped-def]
    """Store the codes that (iscale, minimum) give; return their determinant and best scale and minimum (<= 0)."""
    zero = splat(ZERO, WIDTH)
    sl, sl2, slx = zero, zero, zero
    for i in range(x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        q = _code(iscale * (v - minimum), high)
        store(codes, i * WIDTH, q)
        wl = load(weight, i * WIDTH, WIDTH) * q
        sl = sl + wl
        sl2 = sl2 + wl * q
        slx = slx + wl * v
    determinant = sw * sl2 - sl * sl
    scale = (sw * slx - sx * sl) / determinant
    new_minimum = (sl2 * sx - sl * slx) / determinant
    positive = new_minimum > zero
    scale = select(positive, slx / sl2, scale)
    return determinant, scale, select(positive, zero, new_minimum)


@compiled
def search_offset(groups, importance, sigma2, how, top, steps, squared, found):  # type: ignore[no-untyped-def]
    """Scale and minimum for codes 0..top of groups (m, n), weighted as in `load_weighted`.

    Candidates are (steps[0] + steps[1] * k + top) / (maximum - minimum) for k = 0..steps[2], where the minimum is the
    best one found so far. found is (5, lanes): scale, minimum (<= 0), the (iscale, origin) of the codes of the
    search, clip(nearest(iscale * (x - origin)), 0, top), and the sum of the weights. iscale 0 marks a group whose
    codes are all 0.
    """
    n = groups.shape[1]
    x, weight = np.empty((n, WIDTH), np.float32), np.empty((n, WIDTH), np.float32)
    codes = np.empty((n, WIDTH), np.float32)
    zero, high = splat(ZERO, WIDTH), splat(np.float32(top), WIDTH)
    size = found.shape[1]
    for lane in range(0, size, WIDTH):
        sw = load_weighted(groups, importance, sigma2, how, lane, x, weight)
        sx = load(weight, 0, WIDTH) * load(x, 0, WIDTH)
        for i in range(1, n):
            sx = sx + load(weight, i * WIDTH, WIDTH) * load(x, i * WIDTH, WIDTH)
        minimum, maximum = extremes(x)
        minimum = select(minimum > zero, zero, minimum)
        usable = maximum != minimum
        scale = splat(ONE, WIDTH) / (high / (maximum - minimum))
        iscale = _divided(high, maximum - minimum)
        for i in range(n):
            store(codes, i * WIDTH, _code(iscale * (load(x, i * WIDTH, WIDTH) - minimum), high))
        best = _error(x, weight, codes, scale, minimum, squared)
        best_iscale, origin = iscale, minimum
        for k in range(int(steps[2]) + 1):
            factor = np.float32(np.float32(steps[0] + np.float32(steps[1] * np.float32(k))) + np.float32(top))
            iscale = _divided(splat(factor, WIDTH), maximum - minimum)
            determinant, new_scale, new_minimum = _least_squares(x, weight, codes, iscale, minimum, high, sw, sx)
            error = _error(x, weight, codes, new_scale, new_minimum, squared)
            better = (determinant > zero) & (error < best)
            best = select(better, error, best)
            scale = select(better, new_scale, scale)
            best_iscale = select(better, iscale, best_iscale)
            origin = select(better, minimum, origin)
            minimum = select(better, new_minimum, minimum)
        store(found, lane, select(usable, scale, zero))
        store(found, size + lane, minimum)
        store(found, 2 * size + lane, select(usable, best_iscale, zero))
        store(found, 3 * size + lane, origin)
        store(found, 4 * size + lane, sw)
