"""Search A: one signed scale per group (make_qx_quants of ggml-quants.c).

Codes are -top..top - 1. The names of the sums are the reference's: slx = sum w*x*l, sl2 = sum w*l*l.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import called, compiled, inlined
from quantkit.qtypes.search.groups import WIDTH
from quantkit.qtypes.search.lanes import absolute, lane_bits, load, nearest, select, splat, store, whole
from quantkit.qtypes.search.tiles import ALL_LANES, EPS, INFINITY, ZERO, load_weighted, signed_peak


@inlined
def _clipped(v, low, high):  # type: ignore[no-untyped-def]
    q = nearest(v)
    q = select(q < low, low, q)
    return select(q > high, high, q)


@inlined
def _moments(x, weight, iscale, low, high):  # type: ignore[no-untyped-def]
    zero = splat(ZERO, WIDTH)
    slx, sl2 = zero, zero
    for i in range(x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        w = load(weight, i * WIDTH, WIDTH)
        q = _clipped(iscale * v, low, high)
        slx = slx + w * v * q
        sl2 = sl2 + w * q * q
    return slx, sl2


@inlined
def _improved(iscale, slx, sl2, scale, best, best_iscale):  # type: ignore[no-untyped-def]
    """Scale, its product with slx, and iscale, taken over where these sums fit better."""
    better = (sl2 > splat(ZERO, WIDTH)) & (slx * slx > best * sl2)
    scale = select(better, slx / sl2, scale)
    return scale, select(better, scale * slx, best), select(better, iscale, best_iscale)


@inlined
def _candidate(step, top, peak):  # type: ignore[no-untyped-def]
    factor = np.float32(np.float32(top) + np.float32(np.float32(0.1) * np.float32(step)))
    return splat(np.float32(-factor), WIDTH) / peak


@called
def _search_any(x, weight, top, found):  # type: ignore[no-untyped-def]
    """Scale and iscale of a tile, for weights of any kind, infinite ones and NaN among them: see `_search_tame`."""
    low, high = splat(np.float32(-top), WIDTH), splat(np.float32(top - 1), WIDTH)
    peak = signed_peak(x, WIDTH)
    iscale = low / peak
    slx, sl2 = _moments(x, weight, iscale, low, high)
    scale = select(sl2 != splat(ZERO, WIDTH), slx / sl2, splat(ZERO, WIDTH))
    best = scale * slx
    for step in range(-9, 10):
        if step == 0:
            continue
        tried = _candidate(step, top, peak)
        slx, sl2 = _moments(x, weight, tried, low, high)
        scale, best, iscale = _improved(tried, slx, sl2, scale, best, iscale)
    store(found, 0, scale)
    store(found, WIDTH, iscale)


@inlined
def _three_moments(tile, tried):  # type: ignore[no-untyped-def]
    """The sums of three candidates in one pass: together they keep the arithmetic busy while sums wait for sums.

    From the first to the third a value moves by a fifth at most, so that the second has the code of one of them.
    """
    x, weight, product = tile
    zero = splat(ZERO, WIDTH)
    slx0, slx1, slx2, sl20, sl21, sl22 = zero, zero, zero, zero, zero, zero
    for i in range(x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        w = load(weight, i * WIDTH, WIDTH)
        wx = load(product, i * WIDTH, WIDTH)
        low, high = whole(tried[0] * v), whole(tried[2] * v)
        same = whole(tried[1] * v) == low
        low_slx, low_sl2, high_slx, high_sl2 = wx * low, w * low * low, wx * high, w * high * high
        slx0, slx2 = slx0 + low_slx, slx2 + high_slx
        sl20, sl22 = sl20 + low_sl2, sl22 + high_sl2
        slx1, sl21 = slx1 + select(same, low_slx, high_slx), sl21 + select(same, low_sl2, high_sl2)
    return slx0, slx1, slx2, sl20, sl21, sl22


@inlined
def _three_steps(tile, step, top, state):  # type: ignore[no-untyped-def]
    """Try three steps; `state` is peak, scale, best product and best iscale."""
    peak, scale, best, iscale = state
    first, second, third = _candidate(step, top, peak), _candidate(step + 1, top, peak), _candidate(step + 2, top, peak)
    sums = _three_moments(tile, (first, second, third))
    scale, best, iscale = _improved(first, sums[0], sums[3], scale, best, iscale)
    scale, best, iscale = _improved(second, sums[1], sums[4], scale, best, iscale)
    scale, best, iscale = _improved(third, sums[2], sums[5], scale, best, iscale)
    return peak, scale, best, iscale


@inlined
def _limit(x, same, opposite, limited):  # type: ignore[no-untyped-def]
    """Store x cut off at `same`, the peak or a part of it, and at `opposite`, which has the other sign."""
    low, high = select(same < opposite, same, opposite), select(same > opposite, same, opposite)
    for i in range(x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        v = select(v < low, low, v)
        store(limited, i * WIDTH, select(v > high, high, v))


@inlined
def _prepared(x, weight, product):  # type: ignore[no-untyped-def]
    """Store weight * x; return the signed peak of each lane, and whether all weights of the tile are finite."""
    peak = splat(ZERO, WIDTH)
    largest, finite = peak, peak == peak
    for i in range(x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        store(product, i * WIDTH, load(weight, i * WIDTH, WIDTH) * v)
        magnitude = absolute(v)
        finite = finite & (magnitude < splat(INFINITY, WIDTH))
        larger = magnitude > largest
        peak, largest = select(larger, v, peak), select(larger, magnitude, largest)
    return peak, lane_bits(finite) == np.uint64(ALL_LANES)


@inlined
def _search_tame(x, weight, product, limited, peak, top, found):  # type: ignore[no-untyped-def]
    """The same as `_search_any` for finite weights, whose codes are cut off once for all steps of a sign.

    |iscale * x| is at most top + 0.1 * step. What is nearest to a code beyond the range is moved to where every step
    up to 0 (from 1 on) is nearer than 0.45 to the last code: to that code divided by the middle one of their factors.
    Zeros may differ in their sign, which no sum shows.
    """
    zero = splat(ZERO, WIDTH)
    last = np.float32(top - 1)
    _limit(x, peak, splat(np.float32(last / np.float32(0.45 - top)), WIDTH) * peak, limited)
    tile = limited, weight, product
    iscale = splat(np.float32(-top), WIDTH) / peak
    slx, sl2 = zero, zero
    for i in range(x.shape[0]):
        q = whole(iscale * load(limited, i * WIDTH, WIDTH))
        slx = slx + load(product, i * WIDTH, WIDTH) * q
        sl2 = sl2 + load(weight, i * WIDTH, WIDTH) * q * q
    scale = select(sl2 != zero, slx / sl2, zero)
    state = peak, scale, scale * slx, iscale
    for step in (-9, -6, -3):
        state = _three_steps(tile, step, top, state)
    middle = np.float32(top + 0.5)
    same, opposite = splat(np.float32(np.float32(top) / middle), WIDTH), splat(np.float32(-last / middle), WIDTH)
    _limit(x, same * peak, opposite * peak, limited)
    for step in (1, 4, 7):
        state = _three_steps(tile, step, top, state)
    store(found, 0, state[1])
    store(found, WIDTH, state[3])


@compiled
def search_signed(groups, importance, sigma2, how, top, found):  # type: ignore[no-untyped-def]
    """Search A: 19 scales near -top / peak of groups (m, n), weighted as in `load_weighted`; the best fit wins.

    found is (3, lanes): scale, the iscale of the codes of the search, clip(nearest(iscale * x)), and the sum of the
    weights. iscale 0 marks a group that counts as zero: its codes are all -top.
    """
    n = groups.shape[1]
    x, weight = np.empty((n, WIDTH), np.float32), np.empty((n, WIDTH), np.float32)
    product, limited = np.empty((n, WIDTH), np.float32), np.empty((n, WIDTH), np.float32)
    best = np.empty((2, WIDTH), np.float32)
    zero = splat(ZERO, WIDTH)
    size = found.shape[1]
    for lane in range(0, size, WIDTH):
        sw = load_weighted(groups, importance, sigma2, how, lane, x, weight)
        peak, finite = _prepared(x, weight, product)
        if finite:
            _search_tame(x, weight, product, limited, peak, top, best)
        else:
            _search_any(x, weight, top, best)
        empty = absolute(peak) < splat(EPS, WIDTH)
        store(found, lane, select(empty, zero, load(best, 0, WIDTH)))
        store(found, size + lane, select(empty, zero, load(best, WIDTH, WIDTH)))
        store(found, 2 * size + lane, sw)
