"""Nearest codes on a grid, column by column, each column's error fed into those that follow.

With H = R R^T, R upper triangular, the loss of a row with errors e = w - q is |e R|^2. Column k's part of it is
D[k] (t[k] - q[k])^2, where D[k] = R[k, k]^2, M[j, k] = R[j, k] / R[k, k] and

    t[k] = w[k] + sum over j < k of e[j] M[j, k]

So every column is rounded at its target t, and only M and D are needed (GPTQ, arXiv 2210.17323, in the form of LDLQ,
arXiv 2307.13304, which shows them equal: the same codes, no inverse of H).

WIDTH rows are swept side by side as lanes; each lane sees the same operations in the same order wherever it is.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.groups import WIDTH
from quantkit.qtypes.search.lanes import load, nearest_small, select, splat, store, store_int32
from quantkit.qtypes.search.tiles import ZERO, called, compiled, gather_tile, inlined


@inlined
def _round(x, scale, low, high, middles, levels):  # type: ignore[no-untyped-def]
    """Code number, counted from 0 in ascending order of levels, and level, of the value nearest to x (lanes)."""
    v = select(scale != splat(ZERO, WIDTH), x / scale, splat(ZERO, WIDTH))
    if levels.size == 0:
        v = select(v > splat(low, WIDTH), v, splat(low, WIDTH))
        level = nearest_small(select(v < splat(high, WIDTH), v, splat(high, WIDTH)))
        return level, level
    code, level = splat(ZERO, WIDTH), splat(levels[0], WIDTH)
    for k in range(middles.size):
        below = v < splat(middles[k], WIDTH)
        code = select(below, code, splat(np.float32(k + 1), WIDTH))
        level = select(below, level, splat(levels[k + 1], WIDTH))
    return code, level


@called
def _load_groups(values, first, rows, group, lanes):  # type: ignore[no-untyped-def]
    for lane in range(WIDTH):
        lanes[lane] = values[min(first + lane, rows - 1), group]


@compiled
def sweep(w, target, mixing, pivots, grid, codes, errors, loss):  # type: ignore[no-untyped-def]
    """Round the columns of w (rows, n) in their order; fill codes int16, errors = w - q and the loss of each row.

    `target` (rows, n) is w with what columns before these feed into it; mixing (n, n) is M, pivots (n,) D.
    `grid` is (scale (rows, g), offset (rows, g) or (0, 0), group of each column (n,), low, high, middles, levels,
    code of each level): without levels, a code is low..high itself; otherwise levels ascend and `middles` lie between.
    All float32 but codes, and `group` int64. An empty mixing means no feedback.
    """
    scales, offsets, group, low, high, middles, levels, level_codes = grid
    rows, n = w.shape
    t, own = np.empty((n, WIDTH), np.float32), np.empty((n, WIDTH), np.float32)
    starts, lanes = np.empty(WIDTH, np.int64), np.empty(WIDTH, np.float32)
    numbers, spent = np.empty(WIDTH, np.int32), np.empty(WIDTH, np.float32)
    for first in range(0, rows, WIDTH):
        for lane in range(WIDTH):
            starts[lane] = min(first + lane, rows - 1) * n
        gather_tile(target.reshape(-1), starts, n, t)
        gather_tile(w.reshape(-1), starts, n, own)
        total = splat(ZERO, WIDTH)
        held, scale, offset = -1, splat(ZERO, WIDTH), splat(ZERO, WIDTH)
        count = min(WIDTH, rows - first)
        for j in range(n):
            if group[j] != held:
                held = group[j]
                _load_groups(scales, first, rows, held, lanes)
                scale = load(lanes, 0, WIDTH)
                if offsets.size:
                    _load_groups(offsets, first, rows, held, lanes)
                    offset = load(lanes, 0, WIDTH)
            x = load(t, j * WIDTH, WIDTH)
            code, level = _round(x - offset, scale, low, high, middles, levels)
            value = level * scale + offset
            residual = x - value
            total = total + splat(pivots[j], WIDTH) * residual * residual
            error = load(own, j * WIDTH, WIDTH) - value
            store_int32(numbers, 0, code)
            store(own, j * WIDTH, error)
            for lane in range(count):
                number = numbers[lane]
                codes[first + lane, j] = level_codes[number] if levels.size else number
            if mixing.size:
                for k in range(j + 1, n):
                    at = k * WIDTH
                    store(t, at, load(t, at, WIDTH) + error * splat(mixing[j, k], WIDTH))
        store(spent, 0, total)
        for lane in range(count):
            loss[first + lane] = spent[lane]
            for j in range(n):
                errors[first + lane, j] = own[j, lane]


@compiled
def descend(values, gradient, hessian, grid, codes, gain):  # type: ignore[no-untyped-def]
    """Give every column in turn, the others held, the code that costs least; fill codes, values and each row's gain.

    values (rows, n) are the rounded weights q, replaced by the new ones; gradient (rows, n) is (w - q) H, of all
    columns, and hessian (n, n) the block of H that belongs to these. The loss as a function of q[k] is a parabola
    with its bottom at q[k] + gradient[k] / H[k, k]: the nearest code to that is the best, and never worse.
    """
    scales, offsets, group, low, high, middles, levels, level_codes = grid
    rows, n = values.shape
    g, q = np.empty((n, WIDTH), np.float32), np.empty((n, WIDTH), np.float32)
    starts, lanes = np.empty(WIDTH, np.int64), np.empty(WIDTH, np.float32)
    numbers, spent = np.empty(WIDTH, np.int32), np.empty(WIDTH, np.float32)
    for first in range(0, rows, WIDTH):
        for lane in range(WIDTH):
            starts[lane] = min(first + lane, rows - 1) * n
        gather_tile(gradient.reshape(-1), starts, n, g)
        gather_tile(values.reshape(-1), starts, n, q)
        total = splat(ZERO, WIDTH)
        held, scale, offset = -1, splat(ZERO, WIDTH), splat(ZERO, WIDTH)
        count = min(WIDTH, rows - first)
        for j in range(n):
            if group[j] != held:
                held = group[j]
                _load_groups(scales, first, rows, held, lanes)
                scale = load(lanes, 0, WIDTH)
                if offsets.size:
                    _load_groups(offsets, first, rows, held, lanes)
                    offset = load(lanes, 0, WIDTH)
            own, slope, curve = load(q, j * WIDTH, WIDTH), load(g, j * WIDTH, WIDTH), splat(hessian[j, j], WIDTH)
            code, level = _round(own + slope / curve - offset, scale, low, high, middles, levels)
            step = level * scale + offset - own
            total = total + step * (slope + slope - step * curve)
            store_int32(numbers, 0, code)
            store(q, j * WIDTH, own + step)
            for lane in range(count):
                number = numbers[lane]
                codes[first + lane, j] = level_codes[number] if levels.size else number
            for k in range(n):
                at = k * WIDTH
                store(g, at, load(g, at, WIDTH) - step * splat(hessian[j, k], WIDTH))
        store(spent, 0, total)
        for lane in range(count):
            gain[first + lane] = spent[lane]
            for j in range(n):
                values[first + lane, j] = q[j, lane]
