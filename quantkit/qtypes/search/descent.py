"""Search B: one signed scale per group, whose codes are changed one by one (make_q3_quants of ggml-quants.c).

Codes are -top..top - 1, weights x*x. The names of the sums are the reference's: slx = sum w*x*l, sl2 = sum w*l*l. A
sweep proposes for every element the code that fits best with the others held, and takes it where the fit improves.

Four of five groups have their best codes at once, which is seen without dividing (see `_sure`). The others wait until
they fill a tile for sweeps: a sweep is one long chain of sums and divisions, so it takes WIDE groups side by side.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import called, compiled, inlined
from quantkit.qtypes.search.groups import WIDTH
from quantkit.qtypes.search.lanes import absolute, first_lane, lane_bits, load, nearest, select, splat, store, whole
from quantkit.qtypes.search.tiles import EPS, INFINITY, ZERO, gather_tile, load_tile, signed_peak

WIDE = 64  # groups of a tile that is swept
SWEEPS = 5
# A sum that is larger has terms that are rounded by the last bit of their mantissa, not by the end of float32's range.
TINY = np.float32(1e-30)


@inlined
def _first_codes(x, top, terms, codes):  # type: ignore[no-untyped-def]
    """Store clip(nearest(-top / peak * x)) and w*x*l; return the peak and the sums.

    No value of a finite group is beyond the range by more than its rounding, so that only the upper end cuts off. In
    another group slx is NaN.
    """
    high, zero = splat(np.float32(top - 1), WIDTH), splat(ZERO, WIDTH)
    peak = signed_peak(x)
    iscale = splat(np.float32(-top), WIDTH) / peak
    slx, sl2 = zero, zero
    for i in range(x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        q = whole(iscale * v)
        q = select(q > high, high, q)
        w = v * v
        term = w * v * q
        store(codes, i * WIDTH, q)
        store(terms, i * WIDTH, term)
        slx = slx + term
        sl2 = sl2 + w * q * q
    return peak, slx, sl2


@inlined
def _sure(x, terms, codes, top, slx, sl2):  # type: ignore[no-untyped-def]
    """Lanes in which a sweep surely changes nothing.

    With rest = slx - term, the proposal x * (sl2 - w*q*q) / rest is q + (x * sl2 / slx - q) * slx / rest. It is within
    0.499 of q where |x * sl2 / slx - q| < 0.499 * rest / slx = 0.499 - 0.499 / slx * term; 0.498 leaves room for what
    rounding adds, and keeps rest above 0.002 * slx. What is proposed beyond the range is cut off: the last code again.
    Where slx is not positive no proposal is made: all terms have its sign, and so has what is left without one.
    """
    zero, infinity = splat(ZERO, WIDTH), splat(INFINITY, WIDTH)
    low, high = splat(np.float32(-top), WIDTH), splat(np.float32(top - 1), WIDTH)
    ratio, share = sl2 / slx, splat(np.float32(0.499), WIDTH) / slx
    sure = (slx > splat(TINY, WIDTH)) & (slx < infinity) & (sl2 < infinity)
    for i in range(x.shape[0]):
        proposed = load(x, i * WIDTH, WIDTH) * ratio
        proposed = select(proposed < low, low, proposed)
        proposed = select(proposed > high, high, proposed)
        away = absolute(proposed - load(codes, i * WIDTH, WIDTH)) + share * load(terms, i * WIDTH, WIDTH)
        sure = sure & (away < splat(np.float32(0.498), WIDTH))
    return sure | (slx < zero) | (slx == zero)


@inlined
def _nearest_codes(x, top, codes):  # type: ignore[no-untyped-def]
    """What `_first_codes` does, for WIDE groups of any kind: infinities and NaN are as in the reference."""
    low, high = splat(np.float32(-top), WIDE), splat(np.float32(top - 1), WIDE)
    peak, largest = splat(ZERO, WIDE), splat(ZERO, WIDE)
    for i in range(x.shape[0]):
        v = load(x, i * WIDE, WIDE)
        larger = absolute(v) > largest
        peak, largest = select(larger, v, peak), select(larger, absolute(v), largest)
    iscale = low / peak
    slx, sl2 = splat(ZERO, WIDE), splat(ZERO, WIDE)
    for i in range(x.shape[0]):
        v = load(x, i * WIDE, WIDE)
        q = nearest(iscale * v)
        q = select(q < low, low, q)
        q = select(q > high, high, q)
        store(codes, i * WIDE, q)
        slx = slx + v * v * v * q
        sl2 = sl2 + v * v * q * q
    return peak, slx, sl2


@inlined
def _sweep(x, codes, top, slx, sl2):  # type: ignore[no-untyped-def]
    """Change the codes one by one where that improves the fit; return the sums of the changed codes."""
    low, high, zero = splat(np.float32(-top), WIDE), splat(np.float32(top - 1), WIDE), splat(ZERO, WIDE)
    for i in range(x.shape[0]):
        v = load(x, i * WIDE, WIDE)
        q = load(codes, i * WIDE, WIDE)
        w = v * v
        rest = slx - w * v * q
        rest2 = sl2 - w * q * q
        new = nearest(v * rest2 / rest)
        new = select(new < low, low, new)
        new = select(new > high, high, new)
        new_slx = rest + w * v * new
        new_sl2 = rest2 + w * new * new
        better = (rest > zero) & (new != q) & (new_sl2 > zero)
        better = better & (new_slx * new_slx * sl2 > slx * slx * new_sl2)
        store(codes, i * WIDE, select(better, new, q))
        slx, sl2 = select(better, new_slx, slx), select(better, new_sl2, sl2)
    return slx, sl2


@called
def _descend(x, top, codes, scales):  # type: ignore[no-untyped-def]
    """First codes and all sweeps for a tile (n, WIDE); scales (WIDE,) and codes are filled in.

    A lane in which a sweep changes nothing never changes again, so lanes that finish early need no mask.
    """
    peak, slx, sl2 = _nearest_codes(x, top, codes)
    for _ in range(SWEEPS):
        before, before2 = slx, sl2
        slx, sl2 = _sweep(x, codes, top, slx, sl2)
        if lane_bits((slx != before) | (sl2 != before2)) == 0:
            break
    empty, zero = absolute(peak) < splat(EPS, WIDE), splat(ZERO, WIDE)
    store(scales, 0, select(empty, zero, select(sl2 > zero, slx / sl2, zero)))


@compiled
def search_descent(groups, top, scale):  # type: ignore[no-untyped-def]
    """Search B of groups (m, n): least squares with weights x*x, then sweeps; scale (lanes,), 0 where all is zero."""
    count, n = groups.shape
    x, terms = np.empty((n, WIDTH), np.float32), np.empty((n, WIDTH), np.float32)
    codes = np.empty((n, WIDTH), np.float32)
    wide, wide_codes = np.empty((n, WIDE), np.float32), np.empty((n, WIDE), np.float32)
    queue, waiting = np.empty(WIDE + WIDTH, np.int64), 0
    starts, found = np.empty(WIDE, np.int64), np.empty(WIDE, np.float32)
    zero = splat(ZERO, WIDTH)
    for first in range(0, count, WIDTH):
        load_tile(groups.reshape(-1), first, n, x)
        peak, slx, sl2 = _first_codes(x, top, terms, codes)
        empty = absolute(peak) < splat(EPS, WIDTH)
        waits = lane_bits(~(_sure(x, terms, codes, top, slx, sl2) | empty))
        store(scale, first, select(empty, zero, select(sl2 > zero, slx / sl2, zero)))
        while waits != np.uint64(0):
            # lanes beyond the last group hold the first ones again: searching them twice gives the same
            queue[waiting] = (first + first_lane(waits)) % count
            waits &= waits - np.uint64(1)
            waiting += 1
        last = first + WIDTH >= count
        while waiting >= WIDE or (last and waiting > 0):
            used = min(waiting, WIDE)
            waiting -= used
            for lane in range(WIDE):
                starts[lane] = queue[waiting + min(lane, used - 1)] * n
            gather_tile(groups.reshape(-1), starts, n, wide)
            _descend(wide, top, wide_codes, found)
            for lane in range(used):
                scale[queue[waiting + lane]] = found[lane]


@compiled
def descent_codes(groups, top, kept):  # type: ignore[no-untyped-def]
    """The codes that search B leaves, to kept (m, n): those of a group that counts as zero are all -top."""
    count, n = groups.shape
    x, codes, scales = np.empty((n, WIDE), np.float32), np.empty((n, WIDE), np.float32), np.empty(WIDE, np.float32)
    for first in range(0, count, WIDE):
        load_tile(groups.reshape(-1), first, n, x)
        _descend(x, top, codes, scales)
        for lane in range(min(WIDE, count - first)):
            empty = True
            for i in range(n):
                empty = empty and not abs(x[i, lane]) >= EPS
            for i in range(n):
                kept[first + lane, i] = np.float32(-top) if empty else codes[i, lane]
