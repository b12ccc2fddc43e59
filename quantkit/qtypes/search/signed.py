"""Searches A and B: one signed scale per group (make_qx_quants and make_q3_quants of ggml-quants.c).

Codes are -top..top - 1. The names of the sums are the reference's: slx = sum w*x*l, sl2 = sum w*l*l.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import compiled, inlined
from quantkit.qtypes.search.groups import WIDTH
from quantkit.qtypes.search.lanes import absolute, lane_bits, load, nearest, select, splat, store
from quantkit.qtypes.search.tiles import EPS, ZERO, gather_tile, load_weighted, signed_peak

SWEEPS = 5
ALL_LANES = (1 << WIDTH) - 1


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


@compiled
def search_signed(groups, importance, sigma2, how, top, found):  # type: ignore[no-untyped-def]
    """Search A: 19 scales near -top / peak of groups (m, n), weighted as in `load_weighted`; the best fit wins.

    found is (3, lanes): scale, the iscale of the codes of the search, clip(nearest(iscale * x)), and the sum of the
    weights. iscale 0 marks a group that counts as zero: its codes are all -top.
    """
    n = groups.shape[1]
    x, weight = np.empty((n, WIDTH), np.float32), np.empty((n, WIDTH), np.float32)
    low, high = splat(np.float32(-top), WIDTH), splat(np.float32(top - 1), WIDTH)
    zero = splat(ZERO, WIDTH)
    size = found.shape[1]
    for lane in range(0, size, WIDTH):
        sw = load_weighted(groups, importance, sigma2, how, lane, x, weight)
        peak = signed_peak(x)
        empty = absolute(peak) < splat(EPS, WIDTH)
        best_iscale = low / peak
        slx, sl2 = _moments(x, weight, best_iscale, low, high)
        scale = select(sl2 != zero, slx / sl2, zero)
        best = scale * slx
        for step in range(-9, 10):
            if step == 0:
                continue
            factor = np.float32(np.float32(top) + np.float32(np.float32(0.1) * np.float32(step)))
            iscale = splat(np.float32(-factor), WIDTH) / peak
            slx, sl2 = _moments(x, weight, iscale, low, high)
            better = (sl2 > zero) & (slx * slx > best * sl2)
            scale = select(better, slx / sl2, scale)
            best = select(better, scale * slx, best)
            best_iscale = select(better, iscale, best_iscale)
        store(found, lane, select(empty, zero, scale))
        store(found, size + lane, select(empty, zero, best_iscale))
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
