"""The search for points of a lattice, compiled: one scale for a group of weights, a point for every 4 or 8 of them.

Weights here are magnitudes, and level l means l + 1/2 steps: q = 2 * l + 1 half-steps, scale the size of one. The order
of every sum and product is that of ggml-quants.c: quantize_row_iq2_xxs_impl and its kin.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import called, compiled, inlined
from quantkit.qtypes.search.groups import IMPORTANCE, NEAR, Redo, Weighting
from quantkit.qtypes.search.lanes import load, nearest, select, splat, store

ZERO, QUARTER, HALF, ONE = (np.float32(value) for value in (0, 0.25, 0.5, 1))
LARGEST = np.finfo(np.float32).max
ROUNDING = np.float32(12582912)  # 1.5 * 2**23: adding it rounds to an integer, ties to even
NONE_FITS = np.int64(1) << 40
MANY = 32  # lanes for candidates

SQUARE = int(Weighting.SQUARE)
THOSE_OUTSIDE, ALL_IF_OUTSIDE, ALL = (int(redo) for redo in Redo)


@compiled
def neighbours(points, outside, rings, starts, near):  # type: ignore[no-untyped-def]
    """Write the points (m, dims) near each vector `outside` (k, dims) to `near`, those of vector i from starts[i] on.

    What is left of its place the first one fills. Where `near` is empty, count them in starts[1:] instead.
    """
    m, dims = points.shape
    distance = np.empty(m, np.int32)
    for i in range(outside.shape[0]):
        for j in range(m):
            distance[j] = 0
        for k in range(dims):
            for j in range(m):
                distance[j] += (np.int32(points[j, k]) - np.int32(outside[i, k])) ** 2
        at, count = np.int64(-1), starts[i] if near.size else 0
        for _ in range(rings):
            following = np.int64(1) << 30
            for j in range(m):
                if at < distance[j] < following:
                    following = np.int64(distance[j])
            at = np.int64(following)
            for j in range(m):
                if distance[j] == at:
                    if near.size:
                        near[count] = j
                    count += 1
        if near.size == 0:
            starts[i + 1] = count
        else:
            near[count : starts[i + 1]] = near[starts[i]]


@inlined
def nearest_int(value):  # type: ignore[no-untyped-def]
    """The nearest integer, and what the reference makes of values beyond 2**22 (nearest_int of ggml-quants.c)."""
    return np.int64(np.float32(value + ROUNDING).view(np.int32) & 0x7FFFFF) - 0x400000


@compiled
def weigh(blocks, importance, sigma2, how, weight):  # type: ignore[no-untyped-def]
    """How much errors of blocks (b, 256) count, to weight (b, 256); `how` is a Weighting.

    importance is flat and starts over with every row, sigma2 (b,).
    """
    for b in range(blocks.shape[0]):
        at = b * 256 % max(importance.size, 1)
        for i in range(256):
            x = blocks[b, i]
            if how == IMPORTANCE:
                weight[b, i] = importance[at + i] * np.sqrt(sigma2[b] + x * x)
            elif how == SQUARE:
                weight[b, i] = x * x
            else:
                weight[b, i] = QUARTER * sigma2[b] + x * x


@compiled
def magnitudes(blocks, weight, parity, x, signs):  # type: ignore[no-untyped-def]
    """The magnitudes x (b, 256) of blocks (b, 256); signs (b, 32), bit i for weight i of 8.

    With `parity` the number of signs in 8 is even: of an odd number, the weight that matters least changes its own, and
    its magnitude becomes negative.
    """
    for b in range(blocks.shape[0]):
        for k in range(32):
            byte, flips, least, cost = 0, 0, 0, LARGEST
            for i in range(8 * k, 8 * k + 8):
                value = blocks[b, i]
                x[b, i] = value if value >= ZERO else -value
                if not value >= ZERO:
                    byte |= 1 << (i - 8 * k)
                    flips += 1
                loss = weight[b, i] * value * value
                if i == 8 * k or loss < cost:
                    least, cost = i, loss
            if parity and flips % 2:
                x[b, least] = -x[b, least]
                byte ^= 1 << (least - 8 * k)
            signs[b, k] = byte


@inlined
def nearest_of(distance, count, near, start):  # type: ignore[no-untyped-def]
    """Number of the first of `count` points whose distance is least; NONE_FITS where all are infinite or NaN."""
    best, found = LARGEST, NONE_FITS
    for j in range(count):
        if distance[j] < best:
            best, found = distance[j], np.int64(near[start + j])
    return found


@called
def _best_near(x, root, first, scale, slot, tables, distance):  # type: ignore[no-untyped-def]
    """The point nearest to x / scale, dims weights from `first` on, of those near a vector outside."""
    _, starts, near, halves, _ = tables
    start, count, dims = np.int64(starts[slot]), np.int64(starts[slot + 1] - starts[slot]), halves.shape[1]
    step = splat(scale, NEAR)
    for j in range(0, count, NEAR):
        total = splat(ZERO, NEAR)
        for i in range(dims):
            diff = step * load(halves, (start + j) * dims + i * NEAR, NEAR) - splat(x[first + i], NEAR)
            total = total + splat(root[first + i], NEAR) * diff * diff
        store(distance, j, total)
    return nearest_of(distance, count, near, start)


@called
def _point(x, root, first, inverse, scale, how, tables, distance):  # type: ignore[no-untyped-def]
    """The point for the dims weights from `first` on, rounded to levels, at one scale; NONE_FITS as above."""
    top, bits = how[0], how[1]
    key = np.int64(0)
    for i in range(tables[4].shape[1]):
        level = nearest_int(HALF * (inverse * x[first + i] - ONE))
        key |= max(0, min(top - 1, level)) << bits * i
    found = np.int64(tables[0][key])
    return found if found >= 0 else _best_near(x, root, first, scale, -1 - found, tables, distance)


@called
def _keys(x, first, inverses, how, dims, keys):  # type: ignore[no-untyped-def]
    """Where the dims weights from `first` on, rounded to levels, are looked up, for each candidate."""
    zero, one, half = splat(ZERO, MANY), splat(ONE, MANY), splat(HALF, MANY)
    high, inverse = splat(np.float32(how[0] - 1), MANY), load(inverses, 0, MANY)
    total, place = zero, ONE
    for i in range(dims):
        level = nearest(half * (inverse * splat(x[first + i], MANY) - one))
        level = select(level > high, high, select(level < zero, zero, level))
        total = total + level * splat(place, MANY)  # an integer below 2**16
        place = place * np.float32(1 << how[1])
    store(keys, 0, total)


@called
def _try_all(x, root, inverses, how, tables, tile, tried, outside, keys, distance):  # type: ignore[no-untyped-def]
    """Round a group to points for every candidate, one in each lane: half-steps to `tile` (n, MANY).

    tried and outside, (n // dims, MANY), receive the numbers, and where a point replaces a vector outside. Return False
    where no point fits.
    """
    dims = tables[4].shape[1]
    for k in range(tried.shape[0]):
        _keys(x, k * dims, inverses, how, dims, keys)
        for c in range(2 * how[2] + 1):
            found = np.int64(tables[0][np.int64(keys[c])])
            outside[k, c] = found < 0
            if found < 0:
                found = _best_near(x, root, k * dims, ONE / inverses[c], -1 - found, tables, distance)
                if found == NONE_FITS:
                    return False
            tried[k, c] = found
            for i in range(dims):
                tile[k * dims + i, c] = tables[4][found, i]
    return True


@called
def _all_moments(x, weight, tile, slx, sl2):  # type: ignore[no-untyped-def]
    """sum w*x*q and sum w*q*q of every candidate."""
    sum1, sum2 = splat(ZERO, MANY), splat(ZERO, MANY)
    for i in range(x.size):
        q = load(tile, i * MANY, MANY)
        sum1 = sum1 + splat(weight[i] * x[i], MANY) * q
        sum2 = sum2 + splat(weight[i], MANY) * q * q
    store(slx, 0, sum1)
    store(sl2, 0, sum2)


@called
def _settle(x, weight, root, scale, how, tables, chosen, outside, distance):  # type: ignore[no-untyped-def]
    """Round once more to the final scale where `how` says so; return the scale that fits best then."""
    redo = how[3]
    if not scale > ZERO or not (redo == ALL or outside.any()):
        return scale
    dims = tables[4].shape[1]
    slx, sl2 = ZERO, ZERO
    for k in range(chosen.size):
        if redo != THOSE_OUTSIDE or outside[k]:
            found = _point(x, root, k * dims, ONE / scale, scale, how, tables, distance)
            if found == NONE_FITS:
                return np.float32(np.nan)
            chosen[k] = found
        for i in range(dims):
            j = k * dims + i
            q = tables[4][chosen[k], i]
            slx += weight[j] * x[j] * q
            sl2 += weight[j] * q * q
    return slx / sl2 if sl2 > ZERO else scale


@compiled
def search_points(x, weight, peak, scale, how, step, tables, signs, chosen):  # type: ignore[no-untyped-def]
    """Choose a scale and points for groups of magnitudes x (g, n), weighted by `weight` (g, n).

    how = (levels, bits of a level, candidates on either side, redo, bits of signs that are stored): the candidates are
    the steps that reach the top level at `peak` (g,), and more or fewer by multiples of `step`. A group of peak 0 is
    left alone. `tables` are those of the lattice. scale (g,) holds the first guess and receives the result, NaN where
    float32 is too narrow; chosen (g, n // dims) receives points; signs (g, n // 8) change where a scale turns out
    negative.
    """
    top, _, steps, redo, mask = how
    reach, size, count = np.float32(2 * top - 1), x.shape[1], chosen.shape[1]
    root, distance = np.empty(size, np.float32), np.empty(tables[4].shape[0] + NEAR, np.float32)
    lanes = np.ones((4, MANY), np.float32)  # inverse scales, keys, moments
    tile = np.zeros((size, MANY), np.float32)
    tried, moved = np.zeros((count, MANY), np.uint16), np.zeros((count, MANY), np.bool_)
    outside = np.zeros(count, np.bool_)
    for g in range(x.shape[0]):
        if peak[g] == ZERO:
            continue
        for i in range(size):
            root[i] = np.sqrt(weight[g, i])
        for c in range(2 * steps + 1):
            lanes[0, c] = (reach + np.float32(c - steps) * step) / peak[g]
        if not _try_all(x[g], root, lanes[0], how, tables, tile, tried, moved, lanes[1], distance):
            scale[g] = np.float32(np.nan)
            continue
        _all_moments(x[g], weight[g], tile, lanes[2], lanes[3])
        best, winner = ZERO, -1
        for c in range(2 * steps + 1):
            slx, sl2 = lanes[2, c], lanes[3, c]
            if sl2 > ZERO and slx * slx > best * sl2:
                scale[g] = slx / sl2
                best, winner = scale[g] * slx, c
        for k in range(count):
            outside[k] = moved[k, winner] if winner >= 0 else redo == ALL_IF_OUTSIDE
            chosen[g, k] = tried[k, winner] if winner >= 0 else 0
        found = _settle(x[g], weight[g], root, scale[g], how, tables, chosen[g], outside, distance)
        scale[g] = found if found >= ZERO else -found
        if found < ZERO:
            for k in range(signs.shape[1]):
                signs[g, k] = ~signs[g, k] & mask


@compiled
def odd_units(values, top, unit, codes):  # type: ignore[no-untyped-def]
    """Non-negative values (b, n) as odd multiples 2 * code + 1 of unit (b,) = largest / (2 * top + 1), codes 0..top.

    The unit of a row with a NaN is NaN.
    """
    for b in range(values.shape[0]):
        largest, odd = ZERO, False
        for i in range(values.shape[1]):
            odd |= not values[b, i] >= ZERO
            largest = max(largest, values[b, i])
        unit[b] = largest / np.float32(2 * top + 1)
        inverse = ONE / unit[b]
        for i in range(values.shape[1]):
            code = nearest_int(HALF * (inverse * values[b, i] - ONE))
            codes[b, i] = max(0, min(top, code)) if largest > ZERO else 0
        if odd:
            unit[b] = np.float32(np.nan)
