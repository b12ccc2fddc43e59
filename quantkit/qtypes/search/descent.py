"""Search B: one signed scale per group, whose codes are changed one by one (make_q3_quants of ggml-quants.c).

Codes are -top..top - 1, weights x*x. The names of the sums are the reference's: slx = sum w*x*l, sl2 = sum w*l*l. A
sweep proposes for every element the code that fits best with the others held, and takes it where the fit improves.

Four of five groups have their best codes at once, and three of five of the others after one sweep, which is seen
without dividing (see `_sure`). A sweep is one long chain of sums and divisions, so it takes WIDTH groups side by side;
those that have their best codes then leave their lanes to others.

Groups in lanes are tiles x (n, lanes) of weights and terms (n, lanes), w*x*l, and a state (n + 2, lanes): the codes,
slx and sl2.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import called, compiled, inlined
from quantkit.qtypes.search.groups import SWEPT as WIDTH
from quantkit.qtypes.search.lanes import (
    absolute,
    first_lane,
    flattened,
    lane_bits,
    load,
    nearest,
    select,
    splat,
    store,
    whole,
)
from quantkit.qtypes.search.tiles import AHEAD, EPS, INFINITY, ZERO, ask_for, gather_tile, load_tile, signed_peak

ALL_LANES = np.uint64(2**WIDTH - 1)
SWEEPS = 5
# A sum that is larger has terms that are rounded by the last bit of their mantissa, not by the end of float32's range.
TINY = np.float32(1e-30)


@called
def _first_codes(flat, ahead, x, codes, top, terms):  # type: ignore[no-untyped-def]
    """Store clip(nearest(-top / peak * x)) and w*x*l; return the peak and the sums. Asks for the tile at flat[ahead:].

    No value of a finite group is beyond the range by more than its rounding, so that only the upper end cuts off. In
    another group slx is NaN.
    """
    high, zero = splat(np.float32(top - 1), WIDTH), splat(ZERO, WIDTH)
    peak = signed_peak(x, WIDTH)
    iscale = splat(np.float32(-top), WIDTH) / peak
    slx, sl2 = zero, zero
    for i in range(x.shape[0]):
        ask_for(flat, ahead + i * WIDTH, WIDTH)
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


@called
def _any_codes(x, codes, top, peak):  # type: ignore[no-untyped-def]
    """The codes and sums of `_first_codes` for groups of any kind: infinities and NaN are as in the reference."""
    low, high = splat(np.float32(-top), WIDTH), splat(np.float32(top - 1), WIDTH)
    iscale = low / peak
    slx, sl2 = splat(ZERO, WIDTH), splat(ZERO, WIDTH)
    for i in range(x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        q = nearest(iscale * v)
        q = select(q < low, low, q)
        q = select(q > high, high, q)
        store(codes, i * WIDTH, q)
        slx = slx + v * v * v * q
        sl2 = sl2 + v * v * q * q
    return slx, sl2


@inlined
def _sure(x, codes, top, terms, sums):  # type: ignore[no-untyped-def]
    """Lanes in which a sweep surely changes nothing.

    With rest = slx - term, the proposal x * (sl2 - w*q*q) / rest is q + (x * sl2 / slx - q) * slx / rest. It is within
    0.499 of q where |x * sl2 / slx - q| < 0.499 * rest / slx = 0.499 - 0.499 / slx * term; 0.498 leaves room for what
    rounding adds, and keeps rest above 0.002 * slx. What is proposed beyond the range is cut off: the last code again.
    Where slx is not positive no proposal is made: all terms have its sign, and so has what is left without one.
    """
    slx, sl2 = sums
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


@called
def _first_look(flat, x, state, terms, top, scale, first):  # type: ignore[no-untyped-def]
    """First codes and sums of WIDTH groups, to their state, and the scales that follow from these.

    Returns the lanes that need sweeps, as bits; the others are done.
    """
    n, zero = x.shape[0], splat(ZERO, WIDTH)
    peak, slx, sl2 = _first_codes(flat, (first + AHEAD * WIDTH) * n, x, state, top, terms)
    if lane_bits(slx != slx) != np.uint64(0):
        slx, sl2 = _any_codes(x, state, top, peak)
    store(state, n * WIDTH, slx)
    store(state, (n + 1) * WIDTH, sl2)
    empty = absolute(peak) < splat(EPS, WIDTH)
    store(scale, first, select(empty, zero, select(sl2 > zero, slx / sl2, zero)))
    return lane_bits(~(_sure(x, state, top, terms, (slx, sl2)) | empty))


@called
def _sweep(x, state, terms, top):  # type: ignore[no-untyped-def]
    """Change the codes of WIDTH groups one by one where that improves the fit.

    Returns, as bits, the lanes in which another sweep would change nothing.
    """
    n = x.shape[0]
    low, high, zero = splat(np.float32(-top), WIDTH), splat(np.float32(top - 1), WIDTH), splat(ZERO, WIDTH)
    before, before2 = load(state, n * WIDTH, WIDTH), load(state, (n + 1) * WIDTH, WIDTH)
    slx, sl2 = before, before2
    for i in range(n):
        v = load(x, i * WIDTH, WIDTH)
        q = load(state, i * WIDTH, WIDTH)
        w = v * v
        term = w * v * q
        rest = slx - term
        rest2 = sl2 - w * q * q
        new = nearest(v * rest2 / rest)
        new = select(new < low, low, new)
        new = select(new > high, high, new)
        new_term = w * v * new
        new_slx = rest + new_term
        new_sl2 = rest2 + w * new * new
        better = (rest > zero) & (new != q) & (new_sl2 > zero)
        better = better & (new_slx * new_slx * sl2 > slx * slx * new_sl2)
        store(state, i * WIDTH, select(better, new, q))
        store(terms, i * WIDTH, select(better, new_term, term))
        slx, sl2 = select(better, new_slx, slx), select(better, new_sl2, sl2)
    store(state, n * WIDTH, slx)
    store(state, (n + 1) * WIDTH, sl2)
    same = (slx == before) & (sl2 == before2)
    return lane_bits(same | _sure(x, state, top, terms, (slx, sl2)))


@inlined
def _move(source, lane, target, to):  # type: ignore[no-untyped-def]
    """Copy the state of a group from a lane to another; numpy's indexing, which checks each index, takes longer."""
    for i in range(source.shape[0]):
        store(target, i * WIDTH + to, load(source, i * WIDTH + lane, 1))


@called
def _sweep_and_leave(flat, x, state, terms, top, owners, waiting, scale):  # type: ignore[no-untyped-def]
    """Sweep the first `waiting` lanes once and store the scales of their codes.

    Groups that are done leave, the others move up. Returns how many are left. owners (3, WIDTH): where each lane's
    group starts in `flat`, its number, and how many sweeps it may still have.
    """
    n, zero, left = x.shape[0], splat(ZERO, WIDTH), 0
    gather_tile(flat, owners[0], n, x)
    done = _sweep(x, state, terms, top)
    slx, sl2 = load(state, n * WIDTH, WIDTH), load(state, (n + 1) * WIDTH, WIDTH)
    store(terms, 0, select(sl2 > zero, slx / sl2, zero))
    for lane in range(waiting):
        scale[owners[1, lane]] = terms[0, lane]
    stay = ~done & (ALL_LANES >> np.uint64(WIDTH - waiting))
    while stay != np.uint64(0):
        lane = first_lane(stay)
        stay &= stay - np.uint64(1)
        owners[2, lane] -= 1
        if owners[2, lane] > 0:
            _move(state, lane, state, left)
            owners[0, left], owners[1, left], owners[2, left] = owners[0, lane], owners[1, lane], owners[2, lane]
            left += 1
    return left


@compiled
def search_descent(groups, top, scale):  # type: ignore[no-untyped-def]
    """Search B of groups (m, n): least squares with weights x*x, then sweeps; scale (lanes,), 0 where all is zero."""
    count, n = groups.shape
    flat, starts = flattened(groups), np.empty(WIDTH, np.int64)
    x, terms = np.empty((n, WIDTH), np.float32), np.empty((n, WIDTH), np.float32)
    state, swept = np.empty((n + 2, WIDTH), np.float32), np.zeros((n + 2, WIDTH), np.float32)
    owners, waiting = np.zeros((3, WIDTH), np.int64), 0
    for first in range(0, count, WIDTH):
        for lane in range(WIDTH):
            starts[lane] = min((first + lane) * n, flat.size - n)
        gather_tile(flat, starts, n, x)
        waits = _first_look(flat, x, state, terms, top, scale, first)
        while waits != np.uint64(0):
            lane = first_lane(waits)
            waits &= waits - np.uint64(1)
            _move(state, lane, swept, waiting)
            owners[0, waiting], owners[1, waiting], owners[2, waiting] = starts[lane], first + lane, SWEEPS
            waiting += 1
            while waiting == WIDTH:
                waiting = _sweep_and_leave(flat, x, swept, terms, top, owners, waiting, scale)
    while waiting > 0:
        waiting = _sweep_and_leave(flat, x, swept, terms, top, owners, waiting, scale)


@compiled
def descent_codes(groups, top, kept):  # type: ignore[no-untyped-def]
    """The codes that search B leaves, to kept (m, n): those of a group that counts as zero are all -top."""
    count, n = groups.shape
    x, terms = np.empty((n, WIDTH), np.float32), np.empty((n, WIDTH), np.float32)
    state, scale = np.empty((n + 2, WIDTH), np.float32), np.empty(WIDTH, np.float32)
    for first in range(0, count, WIDTH):
        load_tile(flattened(groups), first, n, x)
        _first_look(flattened(groups), x, state, terms, top, scale, 0)
        for _ in range(SWEEPS):
            _sweep(x, state, terms, top)
        for lane in range(min(WIDTH, count - first)):
            empty = True
            for i in range(n):
                empty = empty and not abs(x[i, lane]) >= EPS
            for i in range(n):
                kept[first + lane, i] = np.float32(-top) if empty else state[i, lane]
