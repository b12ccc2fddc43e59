"""The search of IQ1: weights as -1, 0 or 1, all shifted up or down by an eighth, compiled.

A group is sorted; the best of all ways to cut it into three runs (and of all shifts) gives scale and levels, and
vectors of eight that are not in the lattice give way to the best point nearby (quantize_row_iq1_s_impl and
quantize_row_iq1_m_impl of ggml-quants.c, whose order of operations this is).
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import called, compiled
from quantkit.qtypes.search.groups import NEAR
from quantkit.qtypes.search.lanes import load, splat, store
from quantkit.qtypes.search.lattice_loops import HALF, LARGEST, NONE_FITS, ZERO, nearest_of

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
    sumx, sumw = np.zeros(n + 1, np.float32), np.zeros(n + 1, np.float32)
    for j in range(n):
        i = order[j]
        sumx[j + 1] = sumx[j] + weight[i] * x[i]
        sumw[j + 1] = sumw[j] + weight[i]
    score, scale = -LARGEST, ZERO
    for first in range(n + 1):
        for second in range(first, n + 1):
            low, middle, high = sumx[first] - sumx[0], sumx[second] - sumx[first], sumx[n] - sumx[second]
            low2, middle2, high2 = sumw[first] - sumw[0], sumw[second] - sumw[first], sumw[n] - sumw[second]
            for shift in range(2):
                v = SHIFTED[shift]
                slx = low * v[0] + middle * v[1] + high * v[2]
                sl2 = low2 * v[0] * v[0] + middle2 * v[1] * v[1] + high2 * v[2] * v[2]
                if sl2 > ZERO and slx * slx > score * sl2:
                    scale = slx / sl2
                    score = scale * slx
                    best[0], best[1], best[2] = first, second, shift
    return scale


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
    n = x.size
    sumx, sumw = np.zeros((2, n + 1), np.float32), np.zeros((2, n + 1), np.float32)
    _half_sums(x, weight, order, sumx, sumw)
    slx, sl2 = np.empty((2, 2), np.float32), np.empty((2, 2), np.float32)  # (half, shift)
    score, scale = -LARGEST, ZERO
    for first in range(n + 1):
        for second in range(first, n + 1):
            for h in range(2):
                for shift in range(2):
                    v = SHIFTED[shift]
                    a, b = v[0] * v[0] - v[1] * v[1], v[1] * v[1] - v[2] * v[2]
                    slx[h, shift] = sumx[h, n] * v[2] - (sumx[h, first] + sumx[h, second])
                    sl2[h, shift] = sumw[h, n] * v[2] * v[2] + sumw[h, first] * a + sumw[h, second] * b
            for both in range(4):
                qx = slx[0, both // 2] + slx[1, both % 2]
                q2 = sl2[0, both // 2] + sl2[1, both % 2]
                if q2 > ZERO and qx * qx > score * q2:
                    scale = qx / q2
                    score = scale * qx
                    best[0], best[1], best[2] = first, second, both
    return scale


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
    if np.abs(x).max() < eps:
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
