"""The search for points of a lattice, compiled: one scale for a group of weights, a point for every 4 or 8 of them.

Weights here are magnitudes, and level l means l + 1/2 steps: q = 2 * l + 1 half-steps, scale the size of one. The order
of every sum and product is that of ggml-quants.c: quantize_row_iq2_xxs_impl and its kin.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import called, compiled, inlined
from quantkit.qtypes.search.groups import IMPORTANCE, Redo, Weighting

ZERO, QUARTER, HALF, ONE, TWO = (np.float32(value) for value in (0, 0.25, 0.5, 1, 2))
LARGEST = np.finfo(np.float32).max
ROUNDING = np.float32(12582912)  # 1.5 * 2**23: adding it rounds to an integer, ties to even
NONE_FITS = np.int64(1) << 40

SQUARE = int(Weighting.SQUARE)
THOSE_OUTSIDE, ALL_IF_OUTSIDE, ALL = (int(redo) for redo in Redo)


@compiled
def neighbours(points, outside, rings, starts, near):  # type: ignore[no-untyped-def]
    """Write the points (m, dims) near each vector `outside` (k, dims) to `near`, those of vector i from starts[i] on.

    Where `near` is empty, count them in starts[1:] instead. See `Lattice`.
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
def magnitudes(blocks, weight, parity, signs):  # type: ignore[no-untyped-def]
    """The magnitudes (b, 256) of blocks (b, 256); signs (b, 32), bit i for weight i of 8.

    With `parity` the number of signs in 8 is even: of an odd number, the weight that matters least changes its own, and
    its magnitude becomes negative.
    """
    x = np.empty(blocks.shape, np.float32)
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
    return x


@called
def _best_near(x, root, first, scale, slot, tables, distance):  # type: ignore[no-untyped-def]
    """The point nearest to x / scale of those near a vector outside; NONE_FITS where all distances are infinite."""
    _, starts, near, levels, _ = tables
    start, count = starts[slot], starts[slot + 1] - starts[slot]
    for j in range(count):
        distance[j] = ZERO
    for i in range(levels.shape[0]):
        x_i, w_i = x[first + i], root[first + i]
        for j in range(count):
            diff = scale * (TWO * np.float32(levels[i, start + j]) + ONE) - x_i
            distance[j] += w_i * diff * diff
    best, found = LARGEST, NONE_FITS
    for j in range(count):
        if distance[j] < best:
            best, found = distance[j], np.int64(near[start + j])
    return found


@called
def _point(x, root, first, inverse, scale, how, tables, distance):  # type: ignore[no-untyped-def]
    """The point for the weights from `first` on, and whether it replaces a vector outside; NONE_FITS as above."""
    top, bits = how[0], how[1]
    key = np.int64(0)
    for i in range(tables[3].shape[0]):
        level = nearest_int(HALF * (inverse * x[first + i] - ONE))
        key |= max(0, min(top - 1, level)) << bits * i
    found = np.int64(tables[0][key])
    if found >= 0:
        return found, False
    return _best_near(x, root, first, scale, -1 - found, tables, distance), True


@called
def _moments(x, weight, chosen, points):  # type: ignore[no-untyped-def]
    """sum w*x*q and sum w*q*q of a group whose points are `chosen`."""
    dims = points.shape[1]
    slx, sl2 = ZERO, ZERO
    for k in range(chosen.size):
        for i in range(dims):
            j = k * dims + i
            q = TWO * np.float32(points[chosen[k], i]) + ONE
            slx += weight[j] * x[j] * q
            sl2 += weight[j] * q * q
    return slx, sl2


@called
def _try(x, root, inverse, how, tables, tried, outside, distance):  # type: ignore[no-untyped-def]
    """Round a group to points: their numbers go to `tried`, whether they replace a vector outside to `outside`.

    Return False where no point fits.
    """
    for k in range(tried.size):
        first = k * tables[3].shape[0]
        found, outside[k] = _point(x, root, first, inverse, ONE / inverse, how, tables, distance)
        if found == NONE_FITS:
            return False
        tried[k] = found
    return True


@called
def _settle(x, weight, root, scale, how, tables, chosen, outside, distance):  # type: ignore[no-untyped-def]
    """Round once more to the final scale where `how` says so; return the scale that fits best then."""
    redo = how[3]
    if not scale > ZERO or not (redo == ALL or outside.any()):
        return scale
    for k in range(chosen.size):
        if redo != THOSE_OUTSIDE or outside[k]:
            first = k * tables[3].shape[0]
            found, _ = _point(x, root, first, ONE / scale, scale, how, tables, distance)
            if found == NONE_FITS:
                return np.float32(np.nan)
            chosen[k] = found
    slx, sl2 = _moments(x, weight, chosen, tables[4])
    return slx / sl2 if sl2 > ZERO else scale


@compiled
def search_points(x, weight, peak, scale, how, step, tables, signs, chosen):  # type: ignore[no-untyped-def]
    """Choose a scale and points for groups of magnitudes x (g, n), weighted by `weight` (g, n).

    how = (levels, bits of a level, candidates on either side, redo, bits of signs that are stored): the candidates are
    the steps that reach the top level at `peak` (g,), and more or fewer by multiples of `step`. A group of peak 0 is
    left alone. `tables` are those of the lattice. scale (g,) holds the first guess and receives the result, NaN where
    float32 is too narrow; chosen (g, n // dims) receives points; signs (g,
    n // 8) change where a scale turns out negative.
    """
    top, _, steps, redo, mask = how
    reach = np.float32(2 * top - 1)
    size = x.shape[1]
    root, distance = np.empty(size, np.float32), np.empty(tables[4].shape[0], np.float32)
    tried, outside = np.zeros(chosen.shape[1], np.uint16), np.zeros(chosen.shape[1], np.bool_)
    moved = np.zeros(chosen.shape[1], np.bool_)
    for g in range(x.shape[0]):
        if peak[g] == ZERO:
            continue
        for i in range(size):
            root[i] = np.sqrt(weight[g, i])
        best, found = ZERO, scale[g]
        outside[:] = redo == ALL_IF_OUTSIDE
        fits = True
        for candidate in range(-steps, steps + 1):
            inverse = (reach + np.float32(candidate) * step) / peak[g]
            fits = _try(x[g], root, inverse, how, tables, tried, moved, distance)
            if not fits:
                break
            slx, sl2 = _moments(x[g], weight[g], tried, tables[4])
            if sl2 > ZERO and slx * slx > best * sl2:
                found = slx / sl2
                best = found * slx
                chosen[g], outside[:] = tried, moved
        if fits:
            found = _settle(x[g], weight[g], root, found, how, tables, chosen[g], outside, distance)
        if found < ZERO:
            found = -found
            for k in range(signs.shape[1]):
                signs[g, k] = ~signs[g, k] & mask
        scale[g] = found if fits else np.float32(np.nan)


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
