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
from quantkit.qtypes.search.lanes import (
    first_lane,
    flattened,
    lane_bits,
    load,
    nearest_small,
    select,
    splat,
    store,
    store_int32,
)
from quantkit.qtypes.search.tiles import ONE, ZERO, called, compiled, gather_tile, inlined

STEP = 16  # columns of a row that are looked at together
ALL, NO_LANE = np.uint64((1 << STEP) - 1), np.uint64(0)


@inlined
def _round(x, scale, low, high, middles, levels, width):  # type: ignore[no-untyped-def]
    """Code number, counted from 0 in ascending order of levels, and level, of the value nearest to x (lanes)."""
    v = select(scale != splat(ZERO, width), x / scale, splat(ZERO, width))
    if levels.size == 0:
        v = select(v > splat(low, width), v, splat(low, width))
        level = nearest_small(select(v < splat(high, width), v, splat(high, width)))
        return level, level
    code, level = splat(ZERO, width), splat(levels[0], width)
    for k in range(middles.size):
        below = v < splat(middles[k], width)
        code = select(below, code, splat(np.float32(k + 1), width))
        level = select(below, level, splat(levels[k + 1], width))
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
        gather_tile(flattened(target), starts, n, t)
        gather_tile(flattened(w), starts, n, own)
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
            code, level = _round(x - offset, scale, low, high, middles, levels, WIDTH)
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


@called
def _spread(values, row, group, to):  # type: ignore[no-untyped-def]
    """The value of each column's group; ones beyond the last column."""
    for k in range(to.size):
        to[k] = values[row, group[k]] if k < group.size else ONE


@called
def _padded(matrix, size):  # type: ignore[no-untyped-def]
    """The matrix with zeros for columns up to `size`."""
    out = np.zeros((matrix.shape[0], size), np.float32)
    for i in range(matrix.shape[0]):
        for k in range(matrix.shape[1]):
            out[i, k] = matrix[i, k]
    return out


@compiled
def descend(levels, slope, hessian, grid, values, codes, gain):  # type: ignore[no-untyped-def]
    """Give every column in turn, the others held, the code that costs least; gain (rows,) is what each row gained.

    levels (rows, n) float32 are what the scales are multiplied with, codes (rows, n) int16 the codes of that: both are
    changed in place, and values (rows, n) is filled with what they decode to. slope (rows, n) is (w - q) H, of all
    columns, and hessian (n, n) the block of H that belongs to these. The loss as a function of q[k] is a parabola with
    its bottom at q[k] + slope[k] / H[k, k]: the nearest code to that is the best, and never worse.

    A row at a time: STEP columns are looked at together, and where none of them wants another code, none of them costs
    anything else. That is most of them.
    """
    scales, offsets, group, low, high, middles, known, known_codes = grid
    rows, n = levels.shape
    size = (n + STEP - 1) // STEP * STEP
    matrix = hessian if size == n else _padded(hessian, size)
    curve, g, own = np.ones(size, np.float32), np.zeros(size, np.float32), np.zeros(size, np.float32)
    scale, offset = np.ones(size, np.float32), np.zeros(size, np.float32)
    found, numbers = np.empty(STEP, np.float32), np.empty(STEP, np.int32)
    for k in range(n):
        curve[k] = hessian[k, k]
    for r in range(rows):
        for k in range(n):  # an assignment to a slice would need numba's own functions for its error
            g[k], own[k] = slope[r, k], levels[r, k]
        _spread(scales, r, group, scale)
        if offsets.size:
            _spread(offsets, r, group, offset)
        gained = ZERO
        for at in range(0, size, STEP):
            s, o = load(scale, at, STEP), load(offset, at, STEP)
            pending = ALL >> np.uint64(max(0, at + STEP - n))
            while pending != NO_LANE:
                level = load(own, at, STEP)
                bottom = level * s + o + load(g, at, STEP) / load(curve, at, STEP)
                code, wanted = _round(bottom - o, s, low, high, middles, known, STEP)
                wanting = pending & lane_bits(wanted != level)
                if wanting == NO_LANE:
                    break
                lane = first_lane(wanting)
                pending = pending & (ALL << np.uint64(lane) << np.uint64(1))
                store(found, 0, wanted)
                store_int32(numbers, 0, code)
                k = at + lane
                step = (found[lane] * scale[k] + offset[k]) - (own[k] * scale[k] + offset[k])
                gained += step * (g[k] + g[k] - step * curve[k])
                own[k] = found[lane]
                codes[r, k] = known_codes[numbers[lane]] if known.size else numbers[lane]
                change = splat(step, STEP)
                for other in range(0, size, STEP):
                    store(g, other, load(g, other, STEP) - change * load(matrix, k * size + other, STEP))
        gain[r] = gained
        for k in range(n):
            levels[r, k] = own[k]
            values[r, k] = own[k] * scale[k] + offset[k]
