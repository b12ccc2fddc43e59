"""Feedback where the codes of neighbouring columns are chosen together: the points of a lattice, and signs.

As in feedback.py, H = R R^T, M = R scaled by its diagonal, D its squares. The loss that a vector of columns V adds is
(x - q) A (x - q)^T, with A = M[V, V] D[V] M[V, V]^T and x what makes up best for the errors before it,

    x[k] = t[k] + sum over j < k in V of (w[j] - x[j]) M[j, k]

(block LDLQ, arXiv 2402.04396, with the whole form of a vector instead of its diagonal). Signs are those of x, of which
a type that wants an even number of them turns one; then all points are tried.

Everything is float32, one row at a time: a row's result does not depend on its neighbours.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.lanes import load, select, splat, store
from quantkit.qtypes.search.tiles import ONE, ZERO, called, compiled
from quantkit.qtypes.search.vectors import LANES, RUN

TWO = np.float32(2)
LARGEST = np.finfo(np.float32).max


@called
def _signs(x, weight, parity, signs):  # type: ignore[no-untyped-def]
    """The signs of a run x, +1 or -1: those of the numbers, one turned where their product has to be positive."""
    product, least, cost = ONE, 0, LARGEST
    for i in range(RUN):
        signs[i] = -ONE if x[i] < ZERO else ONE
        product = product * signs[i]
        loss = weight[i] * x[i] * x[i]
        if loss < cost:
            least, cost = i, loss
    if parity and product < ZERO:
        signs[least] = -signs[least]


@called
def _free_signs(x, signs):  # type: ignore[no-untyped-def]
    """The signs of numbers, +1 or -1."""
    for i in range(x.size):
        signs[i] = -ONE if x[i] < ZERO else ONE


@called
def _nearest_point(target, form, signs, points, scratch):  # type: ignore[no-untyped-def]
    """Number of the point p for which (target - signs p) form (target - signs p)^T is least, the first of equals."""
    line, curve, best, where = scratch
    dims, count = points.shape
    for i in range(dims):
        total = ZERO
        for k in range(dims):
            total += form[i, k] * target[k]
            curve[i, k] = (form[i, i] if i == k else TWO * form[i, k]) * signs[i] * signs[k]
        line[i] = -TWO * signs[i] * total
    least, found = splat(LARGEST, LANES), splat(ZERO, LANES)
    for j in range(0, count, LANES):
        loss = splat(ZERO, LANES)
        for i in range(dims):
            slope = splat(line[i], LANES)
            for k in range(i + 1):
                slope = slope + splat(curve[i, k], LANES) * load(points, k * count + j, LANES)
            loss = loss + load(points, i * count + j, LANES) * slope
        smaller = loss < least
        least, found = select(smaller, loss, least), select(smaller, splat(np.float32(j), LANES), found)
    store(best, 0, least)
    store(where, 0, found)
    lane, number = 0, np.int64(where[0])
    for k in range(1, LANES):
        candidate = np.int64(where[k]) + k
        if best[k] < best[lane] or (best[k] == best[lane] and candidate < number):
            lane, number = k, candidate
    return number


@called
def _scratch(dims):  # type: ignore[no-untyped-def]
    """What `_nearest_point` writes to."""
    lanes = np.empty((2, LANES), np.float32)
    return np.empty(dims, np.float32), np.empty((dims, dims), np.float32), lanes[0], lanes[1]


@called
def _take(number, scale, signs, vectors, found):  # type: ignore[no-untyped-def]
    """What a point with signs decodes to, into found: levels, values, and codes."""
    points, known, _, top = vectors
    levels, values, codes = found
    for i in range(points.shape[0]):
        level = points[i, number] * signs[i]
        levels[i], values[i] = level, level * scale
        codes[i] = top + known[number, i] if signs[i] > ZERO else top - 1 - known[number, i]


@called
def _in_steps(x, scale, found):  # type: ignore[no-untyped-def]
    """Values in units of the scale; zeros where that is zero."""
    for i in range(found.size):
        found[i] = x[i] / scale if scale != ZERO else ZERO


@called
def _made_up(target, own, mixing, first, x):  # type: ignore[no-untyped-def]
    """What makes up best for the errors before these columns: the x of the module's text, from column `first` on."""
    for k in range(x.size):
        total = target[first + k]
        for j in range(k):
            total += (own[first + j] - x[j]) * mixing[first + j, first + k]
        x[k] = total


@called
def _cost(error, form):  # type: ignore[no-untyped-def]
    total = ZERO
    for i in range(error.size):
        for k in range(error.size):
            total += error[i] * form[i, k] * error[k]
    return total


@compiled
def sweep_vectors(w, target, mixing, forms, weights, grid, vectors, codes, errors, loss):  # type: ignore[no-untyped-def]
    """Round the columns of w (rows, n) vector by vector; fill codes int16, errors = w - q and the loss of each row.

    `target` (rows, n) is w with what columns before these feed into it; mixing (n, n) is M. `forms` (vectors, dims,
    dims) is A of each vector, weights (n,) how much each sign counts. grid is (scale (rows, groups), the group of
    each run (runs,)), vectors (points, levels, parity, top): what Vectors.tables has, and the code of level 0.
    """
    scales, group = grid
    points, _, parity, _ = vectors
    rows, n = w.shape
    dims = points.shape[0]
    t, x, v, run = (
        np.empty(n, np.float32),
        np.empty(dims, np.float32),
        np.empty(dims, np.float32),
        np.empty(RUN, np.float32),
    )
    signs, scratch = np.ones(RUN, np.float32), _scratch(dims)
    found = np.empty(dims, np.float32), np.empty(dims, np.float32), np.empty(dims, np.int16)
    for r in range(rows):
        for k in range(n):  # an assignment to a slice would need numba's own functions for its error
            t[k] = target[r, k]
        spent = ZERO
        for start in range(0, n, RUN):
            scale = scales[r, group[start // RUN]]
            _made_up(t, w[r], mixing, start, run)
            _in_steps(run, scale, run)
            _signs(run, weights[start:], parity, signs)
            for first in range(start, start + RUN, dims):
                _made_up(t, w[r], mixing, first, x)
                _in_steps(x, scale, v)
                own = signs[first - start :]
                if not parity:
                    _free_signs(v, own)
                number = _nearest_point(v, forms[first // dims], own, points, scratch)
                _take(number, scale, own, vectors, found)
                for i in range(dims):
                    x[i] = x[i] - found[1][i]
                    errors[r, first + i] = w[r, first + i] - found[1][i]
                    codes[r, first + i] = found[2][i]
                spent += _cost(x, forms[first // dims])
                for i in range(dims):
                    for k in range(first + dims, n):
                        t[k] += errors[r, first + i] * mixing[first + i, k]
        loss[r] = spent


@called
def _bottom(levels, scale, slope, inverse, found):  # type: ignore[no-untyped-def]
    """Where the loss of a vector is least, in units of the scale; zeros where that is zero."""
    for i in range(found.size):
        total = levels[i] * scale
        for k in range(found.size):
            total += slope[k] * inverse[k, i]
        found[i] = total / scale if scale != ZERO else ZERO


@called
def _other_run(levels, scale, here, curve, inverses, vectors, room, found):  # type: ignore[no-untyped-def]
    """The points that suit a run best, vector after vector: levels, values and codes to `found`, and whether any value
    is another. `here` (RUN,) is the slope, which follows; curve (RUN, RUN) the block of H, inverses those of its
    blocks. room is (signs, a vector, weights, steps, scratch), all written to."""
    signs, v, weights, steps, scratch = room
    points, parity = vectors[0], vectors[2]
    dims = v.size
    bottom = found[0]
    for first in range(0, RUN, dims):
        _bottom(levels[first:], scale, here[first:], inverses[first // dims], bottom[first : first + dims])
    for i in range(RUN):
        weights[i] = curve[i, i]
    _signs(bottom, weights, parity, signs)
    other = False
    for first in range(0, RUN, dims):
        last = first + dims
        _bottom(levels[first:], scale, here[first:], inverses[first // dims], v)
        if not parity:
            _free_signs(v, signs[first:])
        number = _nearest_point(v, curve[first:last, first:last], signs[first:], points, scratch)
        _take(number, scale, signs[first:], vectors, (found[0][first:], found[1][first:], found[2][first:]))
        for i in range(first, last):
            steps[i] = found[1][i] - levels[i] * scale
            other |= steps[i] != ZERO
            for k in range(last, RUN):
                here[k] -= steps[i] * curve[i, k]
    return other


@compiled
def descend_vectors(levels, slope, hessian, inverses, grid, vectors, values, codes, gain):  # type: ignore[no-untyped-def]
    """Give every run of columns in turn, the others held, better points and signs; gain (rows,) is what a row gained.

    levels (rows, n) float32 are what the scales are multiplied with, codes (rows, n) int16: both are changed in place,
    and values (rows, n) is filled with what they decode to. slope (rows, n) is (w - q) H, hessian (n, n) the block of H
    that belongs to these columns, inverses (vectors, dims, dims) the inverses of its blocks. The loss as a function of
    a vector has its lowest point at q + slope H^-1; a run that would not gain keeps what it has.
    """
    scales, group = grid
    rows, n = levels.shape
    dims = vectors[0].shape[0]
    g, here, steps = np.empty(n, np.float32), np.empty(RUN, np.float32), np.empty(RUN, np.float32)
    room = np.ones(RUN, np.float32), np.empty(dims, np.float32), np.empty(RUN, np.float32), steps, _scratch(dims)
    found = np.empty(RUN, np.float32), np.empty(RUN, np.float32), np.empty(RUN, np.int16)
    for r in range(rows):
        for k in range(n):
            g[k] = slope[r, k]
        gained = ZERO
        for start in range(0, n, RUN):
            stop = start + RUN
            scale = scales[r, group[start // RUN]]
            for i in range(RUN):
                here[i] = g[start + i]
            curve = hessian[start:stop, start:stop]
            own = inverses[start // dims :]
            if not _other_run(levels[r, start:], scale, here, curve, own, vectors, room, found):
                continue
            better = -_cost(steps, curve)
            for i in range(RUN):
                better += TWO * steps[i] * g[start + i]
            if not better > ZERO:
                continue
            gained += better
            for i in range(RUN):
                levels[r, start + i], codes[r, start + i] = found[0][i], found[2][i]
                for k in range(n):
                    g[k] -= steps[i] * hessian[start + i, k]
        gain[r] = gained
        for k in range(n):
            values[r, k] = levels[r, k] * scales[r, group[k // RUN]]
