"""The search of IQ1: weights as -1, 0 or 1, all shifted up or down by an eighth, compiled.

A group is sorted; the best of all ways to cut it into three runs (and of all shifts) gives scale and levels, and
vectors of eight that are not in the lattice give way to the best point nearby (quantize_row_iq1_s_impl and
quantize_row_iq1_m_impl of ggml-quants.c, whose order of operations this is).
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import called, compiled, inlined
from quantkit.qtypes.search.groups import NEAR
from quantkit.qtypes.search.lanes import lane_bits, load, splat, store
from quantkit.qtypes.search.lattice_loops import HALF, LARGEST, MANY, NONE_FITS, ZERO, nearest_of

THREE = np.float32(3)
DELTA = np.float32(0.125)  # IQ1S_DELTA, IQ1M_DELTA of ggml-common.h
# The values of levels 0, 1, 2: shifted up, and shifted down.
SHIFTED = np.array([[-1 + DELTA, DELTA, 1 + DELTA], [-1 - DELTA, -DELTA, 1 - DELTA]], np.float32)


@called
def _sort(x, order):  # type: ignore[no-untyped-def]
    """order = the places of x (n,) in ascending order, equals in theirs."""
    for i in range(x.size):
        at = i
        while at > 0 and x[order[at - 1]] > x[i]:
            order[at] = order[at - 1]
            at -= 1
        order[at] = i


@called
def _cut_whole(x, weight, order, best):  # type: ignore[no-untyped-def]
    """The best cut of a group under one shift: best = its two places and the shift (0 up, 1 down); return the scale.

    best[2] stays -1 where no cut has a score.
    """
    n = x.size
    sumx, sumw = np.full(n + 1 + MANY, np.nan, np.float32), np.full(n + 1 + MANY, np.nan, np.float32)
    sumx[0], sumw[0] = ZERO, ZERO
    for j in range(n):
        i = order[j]
        sumx[j + 1] = sumx[j] + weight[i] * x[i]
        sumw[j + 1] = sumw[j] + weight[i]
    slx, sl2 = np.empty((2, MANY), np.float32), np.empty((2, MANY), np.float32)
    score, scale = -LARGEST, ZERO
    for first in range(n + 1):
        for at in range(first, n + 1, MANY):
            better = 0
            for shift in range(2):
                v = SHIFTED[shift]
                qx = splat((sumx[first] - sumx[0]) * v[0], MANY)
                qx = qx + (load(sumx, at, MANY) - splat(sumx[first], MANY)) * splat(v[1], MANY)
                qx = qx + (splat(sumx[n], MANY) - load(sumx, at, MANY)) * splat(v[2], MANY)
                q2 = splat((sumw[first] - sumw[0]) * v[0] * v[0], MANY)
                q2 = q2 + (load(sumw, at, MANY) - splat(sumw[first], MANY)) * splat(v[1], MANY) * splat(v[1], MANY)
                q2 = q2 + (splat(sumw[n], MANY) - load(sumw, at, MANY)) * splat(v[2], MANY) * splat(v[2], MANY)
                better |= lane_bits((q2 > splat(ZERO, MANY)) & (qx * qx > splat(score, MANY) * q2))
                store(slx, shift * MANY, qx)
                store(sl2, shift * MANY, q2)
            if better:
                score, scale = _climb(slx, sl2, first, at, score, scale, best)
    return scale


@called
def _climb(slx, sl2, first, at, score, scale, best):  # type: ignore[no-untyped-def]
    """Take the cuts that beat the score, one after another: second places from `at` on, each under all shifts.

    slx and sl2 (shifts, MANY), NaN beyond the last place. Return score and scale; `best` is as in `_cut_whole`.
    """
    for k in range(MANY):
        for shift in range(slx.shape[0]):
            qx, q2 = slx[shift, k], sl2[shift, k]
            if q2 > ZERO and qx * qx > score * q2:
                scale = qx / q2
                score = scale * qx
                best[0], best[1], best[2] = first, at + k, shift
    return score, scale


@called
def _half_sums(x, weight, order, sumx, sumw):  # type: ignore[no-untyped-def]
    """Running sums of weight * x and weight in sorted order, for each half of the group: (2, n + 1)."""
    n = x.size
    for j in range(n):
        i = order[j]
        half = 0 if i < n // 2 else 1
        for h in range(2):
            sumx[h, j + 1] = sumx[h, j] + weight[i] * x[i] if h == half else sumx[h, j]
            sumw[h, j + 1] = sumw[h, j] + weight[i] if h == half else sumw[h, j]


@called
def _cut_halves(x, weight, order, best):  # type: ignore[no-untyped-def]
    """As `_cut_whole`, with a shift for each half: best[2] = 2 * that of the first + that of the second."""
    n, width = x.size, x.size + 1 + MANY
    sumx, sumw = np.full((2, width), np.nan, np.float32), np.full((2, width), np.nan, np.float32)
    sumx[:, 0], sumw[:, 0] = ZERO, ZERO
    _half_sums(x, weight, order, sumx, sumw)
    slx, sl2 = np.empty((4, MANY), np.float32), np.empty((4, MANY), np.float32)
    score, scale = -LARGEST, ZERO
    for first in range(n + 1):
        up1, up2 = _half(sumx, sumw, 0, 0, first, n), _half(sumx, sumw, 1, 0, first, n)
        down1, down2 = _half(sumx, sumw, 0, 1, first, n), _half(sumx, sumw, 1, 1, first, n)
        better = _together(up1, up2, score, slx, sl2, 0) | _together(up1, down2, score, slx, sl2, 1)
        better |= _together(down1, up2, score, slx, sl2, 2) | _together(down1, down2, score, slx, sl2, 3)
        if better:
            score, scale = _climb(slx, sl2, first, first, score, scale, best)
    return scale


@inlined
def _half(sumx, sumw, half, shift, first, n):  # type: ignore[no-untyped-def]
    """Sums w*x*q and w*q*q of one half under one shift, for second places from `first` on."""
    v = SHIFTED[shift]
    a, b = v[0] * v[0] - v[1] * v[1], v[1] * v[1] - v[2] * v[2]
    at = half * sumx.shape[1] + first
    qx = splat(sumx[half, n] * v[2], MANY) - (splat(sumx[half, first], MANY) + load(sumx, at, MANY))
    q2 = splat(sumw[half, n] * v[2] * v[2] + sumw[half, first] * a, MANY) + load(sumw, at, MANY) * splat(b, MANY)
    return qx, q2


@inlined
def _together(first, second, score, slx, sl2, both):  # type: ignore[no-untyped-def]
    """Store the sums of two halves as row `both` of slx and sl2; return the lanes that beat the score, as bits."""
    qx, q2 = first[0] + second[0], first[1] + second[1]
    store(slx, both * MANY, qx)
    store(sl2, both * MANY, q2)
    return lane_bits((q2 > splat(ZERO, MANY)) & (qx * qx > splat(score, MANY) * q2))


@called
def _best_near(x, weight, first, scale, shift, slot, tables, distance):  # type: ignore[no-untyped-def]
    """The point near a vector outside that is closest to the eight weights from `first` on."""
    _, starts, near, halves, _ = tables
    start, count = np.int64(starts[slot]), np.int64(starts[slot + 1] - starts[slot])
    step, middle = splat(scale, NEAR), splat(SHIFTED[shift, 1], NEAR)
    for j in range(0, count, NEAR):
        total = splat(ZERO, NEAR)
        for i in range(8):
            level = (load(halves, (start + j) * 8 + i * NEAR, NEAR) - splat(THREE, NEAR)) * splat(HALF, NEAR)
            diff = step * (level + middle) - splat(x[first + i], NEAR)
            total = total + splat(weight[first + i], NEAR) * diff * diff
        store(distance, j, total)
    return nearest_of(distance, count, near, start)


@called
def _moments(x, weight, shifts, chosen, halves):  # type: ignore[no-untyped-def]
    """sum w*q*x and sum w*q*q of a group for the values q of its points."""
    slx, sl2 = ZERO, ZERO
    for k in range(chosen.size):
        for i in range(8):
            j = 8 * k + i
            q = (halves[chosen[k], i] - THREE) * HALF + SHIFTED[shifts[k], 1]
            slx += weight[j] * q * x[j]
            sl2 += weight[j] * q * q
    return slx, sl2


@called
def _search_group(x, weight, eps, halves, tables, shifts, chosen, distance):  # type: ignore[no-untyped-def]
    """The scale of a group (n,); its points go to `chosen` (n // 8,), the shift of each to `shifts`.

    A group that counts as zero has scale 0. NaN where float32 is too narrow.
    """
    n = x.size
    zero = True
    for j in range(n):
        zero = zero and np.abs(x[j]) < eps
    if zero:
        return ZERO
    order, best = np.empty(n, np.int64), np.array([-1, -1, -1])
    _sort(x, order)
    scale = _cut_halves(x, weight, order, best) if halves else _cut_whole(x, weight, order, best)
    if best[2] < 0:
        return ZERO
    level = np.empty(n, np.int64)
    for j in range(n):
        level[order[j]] = 0 if j < best[0] else 1 if j < best[1] else 2
    flip = scale < ZERO
    if flip:
        scale, level = -scale, 2 - level
    inside = True
    for k in range(chosen.size):
        shift = best[2] if not halves else best[2] // 2 if k == 0 else best[2] % 2
        shifts[k] = 1 - shift if flip else shift
        key = np.int64(0)
        for i in range(8):
            key |= level[8 * k + i] << 2 * i
        found = np.int64(tables[0][key])
        if found < 0:
            inside = False
            found = _best_near(x, weight, 8 * k, scale, shifts[k], -1 - found, tables, distance)
            if found == NONE_FITS:
                return np.float32(np.nan)
        chosen[k] = found
    if not inside:
        slx, sl2 = _moments(x, weight, shifts, chosen, tables[4])
        if slx > ZERO and sl2 > ZERO:
            scale = slx / sl2
    return scale


@compiled
def search_ternary(x, weight, eps, halves, tables, scale, shifts, chosen):  # type: ignore[no-untyped-def]
    """Choose scales (g,), shifts and points (g, n // 8) for groups x (g, n), weighted by `weight` (g, n).

    The shift is one for the group, or with `halves` one for each of two. `tables` are those of the
    lattice.
    """
    distance = np.empty(tables[4].shape[0] + NEAR, np.float32)
    for g in range(x.shape[0]):
        scale[g] = _search_group(x[g], weight[g], eps, halves, tables, shifts[g], chosen[g], distance)


@compiled
def best_units(x, weight, codes, shifts, chosen, points, unit):  # type: ignore[no-untyped-def]
    """Fit `unit` (b,) once more, to the points of all its groups x (g, n), whose scales are 2 * codes + 1, (g,)."""
    groups = x.shape[0] // max(unit.size, 1)
    for b in range(unit.size):
        if not unit[b] > ZERO:
            continue
        slx, sl2 = ZERO, ZERO
        for g in range(b * groups, (b + 1) * groups):
            factor = np.float32(2 * np.int64(codes[g]) + 1)
            for j in range(x.shape[1]):
                k = j // 8
                q = SHIFTED[shifts[g, k], points[chosen[g, k], j % 8]] * factor
                slx += weight[g, j] * q * x[g, j]
                sl2 += weight[g, j] * q * q
        if sl2 > ZERO:
            unit[b] = slx / sl2
