"""Searches A and B: one signed scale per group (make_qx_quants and make_q3_quants of ggml-quants.c).

Codes are -top..top - 1. The names of the sums are the reference's: slx = sum w*x*l, sl2 = sum w*l*l.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import called, compiled, inlined
from quantkit.qtypes.search.groups import WIDTH
from quantkit.qtypes.search.lanes import absolute, lane_bits, load, nearest, select, splat, store, whole
from quantkit.qtypes.search.tiles import ALL_LANES, EPS, INFINITY, ZERO, gather_tile, load_weighted, signed_peak

SWEEPS = 5


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
    peak = signed_peak(x)
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
def _tame_code(v, limits, low, high):  # type: ignore[no-untyped-def]
    """The nearest code of a value near the range; `limits` is how many of its ends the value can be beyond."""
    q = whole(v)
    if limits > 0:
        q = select(q > high, high, q)
    if limits > 1:
        q = select(q < low, low, q)
    return q


@inlined
def _three_moments(tile, tried, limits, low, high):  # type: ignore[no-untyped-def]
    """The sums of three candidates in one pass: together they keep the arithmetic busy while sums wait for sums."""
    x, weight, product = tile
    zero = splat(ZERO, WIDTH)
    slx0, slx1, slx2, sl20, sl21, sl22 = zero, zero, zero, zero, zero, zero
    for i in range(x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        w = load(weight, i * WIDTH, WIDTH)
        wx = load(product, i * WIDTH, WIDTH)
        q = _tame_code(tried[0] * v, limits, low, high)
        slx0 = slx0 + wx * q
        sl20 = sl20 + w * q * q
        q = _tame_code(tried[1] * v, limits, low, high)
        slx1 = slx1 + wx * q
        sl21 = sl21 + w * q * q
        q = _tame_code(tried[2] * v, limits, low, high)
        slx2 = slx2 + wx * q
        sl22 = sl22 + w * q * q
    return slx0, slx1, slx2, sl20, sl21, sl22


@inlined
def _three_steps(tile, step, limits, top, state):  # type: ignore[no-untyped-def]
    """Try three steps; `state` is peak, scale, best product and best iscale."""
    peak, scale, best, iscale = state
    low, high = splat(np.float32(-top), WIDTH), splat(np.float32(top - 1), WIDTH)
    first, second, third = _candidate(step, top, peak), _candidate(step + 1, top, peak), _candidate(step + 2, top, peak)
    sums = _three_moments(tile, (first, second, third), limits, low, high)
    scale, best, iscale = _improved(first, sums[0], sums[3], scale, best, iscale)
    scale, best, iscale = _improved(second, sums[1], sums[4], scale, best, iscale)
    scale, best, iscale = _improved(third, sums[2], sums[5], scale, best, iscale)
    return peak, scale, best, iscale


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
def _search_tame(x, weight, product, peak, top, found):  # type: ignore[no-untyped-def]
    """The same as `_search_any` for finite weights, where no value is beyond the range by more than its step.

    |iscale * x| is at most top + 0.1 * step, so that codes are cut off on neither side below 0.5, on the upper one
    alone (top - 1) up to 0.4, and on both from 0.5 on. Zeros may differ in their sign, which no sum shows.
    """
    low, high = splat(np.float32(-top), WIDTH), splat(np.float32(top - 1), WIDTH)
    zero = splat(ZERO, WIDTH)
    iscale = low / peak
    slx, sl2 = zero, zero
    for i in range(x.shape[0]):
        q = _tame_code(iscale * load(x, i * WIDTH, WIDTH), 1, low, high)
        slx = slx + load(product, i * WIDTH, WIDTH) * q
        sl2 = sl2 + load(weight, i * WIDTH, WIDTH) * q * q
    scale = select(sl2 != zero, slx / sl2, zero)
    tile, state = (x, weight, product), (peak, scale, scale * slx, iscale)
    state = _three_steps(tile, -9, 0, top, state)
    for step in (-6, -3, 1):
        state = _three_steps(tile, step, 1, top, state)
    for step in (4, 7):
        state = _three_steps(tile, step, 2, top, state)
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
    product, best = np.empty((n, WIDTH), np.float32), np.empty((2, WIDTH), np.float32)
    zero = splat(ZERO, WIDTH)
    size = found.shape[1]
    for lane in range(0, size, WIDTH):
        sw = load_weighted(groups, importance, sigma2, how, lane, x, weight)
        peak, finite = _prepared(x, weight, product)
        if finite:
            _search_tame(x, weight, product, peak, top, best)
        else:
            _search_any(x, weight, top, best)
        empty = absolute(peak) < splat(EPS, WIDTH)
        store(found, lane, select(empty, zero, load(best, 0, WIDTH)))
        store(found, size + lane, select(empty, zero, load(best, WIDTH, WIDTH)))
        store(found, 2 * size + lane, sw)


@inlined
def _sweep(x, codes, low, high, slx, sl2):  # type: ignore[no-untyped-def]
    """Change the codes one by one where that improves the fit; return the sums of the changed codes."""
    zero = splat(ZERO, WIDTH)
    for i in range(x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        q = load(codes, i * WIDTH, WIDTH)
        w = v * v
        rest = slx - w * v * q
        rest2 = sl2 - w * q * q
        new = _clipped(v * rest2 / rest, low, high)
        new_slx = rest + w * v * new
        new_sl2 = rest2 + w * new * new
        better = (rest > zero) & (new != q) & (new_sl2 > zero)
        better = better & (new_slx * new_slx * sl2 > slx * slx * new_sl2)
        store(codes, i * WIDTH, select(better, new, q))
        slx = select(better, new_slx, slx)
        sl2 = select(better, new_sl2, sl2)
    return slx, sl2


@inlined
def _certain(x, codes, top, slx, sl2):  # type: ignore[no-untyped-def]
    """Lanes, as bits, in which a sweep surely changes nothing: every code is the nearest to what the sweep proposes.

    The proposal x * rest2 / rest is compared without dividing, and there is none unless rest > 0. Codes within 0.499
    of it are certain (rounding errors are near 1e-6), and so are the smallest and the largest if it lies beyond them,
    within reason.
    """
    margin, beyond = splat(np.float32(0.499), WIDTH), splat(np.float32(1e6), WIDTH)
    zero = splat(ZERO, WIDTH)
    lowest, highest = splat(np.float32(0.5 - top), WIDTH), splat(np.float32(top - 1.5), WIDTH)
    certain = zero == zero
    for i in range(x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        q = load(codes, i * WIDTH, WIDTH)
        w = v * v
        rest = slx - w * v * q
        error = v * (sl2 - w * q * q) - q * rest
        above = select(q > highest, beyond, margin) * rest
        below = select(q < lowest, beyond, margin) * rest
        proposes = (rest > zero) & ~((error < above) & (error > zero - below))
        certain = certain & ~proposes
    return lane_bits(certain)


@inlined
def _descend(x, codes, top, complete):  # type: ignore[no-untyped-def]
    """First codes and, if `complete`, all sweeps. Return scales, and as bits the lanes that are finished.

    A lane in which a sweep changes nothing never changes again, so lanes that finish early need no mask.
    """
    low, high = splat(np.float32(-top), WIDTH), splat(np.float32(top - 1), WIDTH)
    zero = splat(ZERO, WIDTH)
    peak = signed_peak(x)
    iscale = low / peak
    slx, sl2 = zero, zero
    for i in range(x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        q = _clipped(iscale * v, low, high)
        store(codes, i * WIDTH, q)
        slx = slx + v * v * v * q
        sl2 = sl2 + v * v * q * q
    finished = np.uint64(ALL_LANES)
    if complete:
        for _ in range(SWEEPS):
            before, before2 = slx, sl2
            slx, sl2 = _sweep(x, codes, low, high, slx, sl2)
            if lane_bits((slx != before) | (sl2 != before2)) == 0:
                break
    else:
        finished = _certain(x, codes, top, slx, sl2)
    empty = absolute(peak) < splat(EPS, WIDTH)
    if lane_bits(empty) != 0:
        for i in range(x.shape[0]):
            store(codes, i * WIDTH, select(empty, low, load(codes, i * WIDTH, WIDTH)))
    return select(empty, zero, select(sl2 > zero, slx / sl2, zero)), finished | lane_bits(empty)


@compiled
def search_descent(groups, top, scale, kept):  # type: ignore[no-untyped-def]
    """Search B: least squares with weights x*x, then codes changed one by one while the fit improves.

    scale (lanes,) and, unless it is empty, kept (m, n) with the codes; a group that counts as zero has scale 0 and
    codes -top. Four of five groups have their best codes at once, but a tile takes as many sweeps as its slowest
    lane: so all tiles are only checked, and groups that are not certain wait until they fill a tile of their own.
    """
    count, n = groups.shape
    x, codes = np.empty((n, WIDTH), np.float32), np.empty((n, WIDTH), np.float32)
    starts, found = np.empty(WIDTH, np.int64), np.empty(WIDTH, np.float32)
    pending, waiting, first = np.empty(2 * WIDTH, np.int64), 0, 0
    while first < count or waiting > 0:
        again = waiting >= WIDTH or first >= count
        used = min(waiting if again else count - first, WIDTH)
        waiting -= used if again else 0
        for lane in range(WIDTH):
            taken = min(lane, used - 1)
            starts[lane] = pending[waiting + taken] if again else (first + taken) * n
        gather_tile(groups.reshape(-1), starts, n, x)
        scales, finished = _descend(x, codes, top, again)
        if again:
            store(found, 0, scales)
            for lane in range(used):
                scale[starts[lane] // n] = found[lane]
        else:
            store(scale, first, scales)
            for lane in range(used):
                if not finished >> np.uint64(lane) & np.uint64(1):
                    pending[waiting] = starts[lane]
                    waiting += 1
            first += WIDTH
        if kept.size:
            for lane in range(used):
                for i in range(n):
                    kept[starts[lane] // n, i] = codes[i, lane]
