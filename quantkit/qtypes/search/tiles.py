"""Weights arranged in lanes: tiles, their weights for the searches, and ordered sums.

A tile is (n, WIDTH) float32: element i of WIDTH groups of n weights, lane k belonging to group k. Tiles lie one after
another, (tiles, n, WIDTH), and results per group are (tiles, WIDTH), whose flat order is the order of the groups.
Sums start at zero and take one element at a time, as the reference does.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from quantkit.qtypes.search.lanes import absolute, load, select, splat, square_root, store, transpose
from quantkit.qtypes.search.scales import Weighting

WIDTH = 32
SIDE = 16  # rows and columns that `transpose` turns at once

ZERO = np.float32(0)
ONE = np.float32(1)
INFINITY = np.float32(np.inf)
# A group whose largest magnitude is smaller counts as zero (GROUP_MAX_EPS in ggml-quants.c).
EPS = np.float32(1e-15)

MAGNITUDE, RMS_MAGNITUDE, IMPORTANCE = (
    int(Weighting.MAGNITUDE),
    int(Weighting.RMS_MAGNITUDE),
    int(Weighting.IMPORTANCE),
)

# error_model: division by zero gives an infinity or NaN, as in C. No fastmath: it would allow fused multiply-adds.
compiled = njit(nogil=True, cache=True, error_model="numpy")


@compiled
def to_tiles(source, period, count, n, tiles):  # type: ignore[no-untyped-def]
    """Copy groups of n elements into tiles: lane g of all lanes gets group g % period of flat `source`.

    Lanes from `count` on repeat the last group.
    """
    starts = np.empty(WIDTH, np.int64)
    whole = n - n % SIDE
    for tile in range(tiles.shape[0]):
        for lane in range(WIDTH):
            starts[lane] = min(tile * WIDTH + lane, count - 1) % period * n
        at = tile * n * WIDTH
        for column in range(0, whole, SIDE):
            for lane in range(0, WIDTH, SIDE):
                transpose(source, starts[lane:], column, tiles, at + column * WIDTH + lane, WIDTH)
        for i in range(whole, n):
            for lane in range(WIDTH):
                tiles[tile, i, lane] = source[starts[lane] + i]


@compiled
def square_sums(source, n, sums):  # type: ignore[no-untyped-def]
    """sums[r] = sum of squares of row r of flat `source`, rows of n elements, n a multiple of 16."""
    rows = sums.size
    starts = np.empty(WIDTH, np.int64)
    part = np.empty(SIDE * WIDTH, np.float32)
    lane_sums = np.empty(WIDTH, np.float32)
    for row in range(0, rows, WIDTH):
        for lane in range(WIDTH):
            starts[lane] = min(row + lane, rows - 1) * n
        total = splat(ZERO, WIDTH)
        for column in range(0, n, SIDE):
            for lane in range(0, WIDTH, SIDE):
                transpose(source, starts[lane:], column, part, lane, WIDTH)
            for i in range(SIDE):
                x = load(part, i * WIDTH, WIDTH)
                total = total + x * x
        store(lane_sums, 0, total)
        for lane in range(min(WIDTH, rows - row)):
            sums[row + lane] = lane_sums[lane]


@compiled
def weigh(x, mode, sigma2, weight, sums):  # type: ignore[no-untyped-def]
    """Fill `weight` (tiles, n, WIDTH) for the elements x, and `sums` (tiles, WIDTH) with its sums.

    SQUARE: x*x. MAGNITUDE: |x|. RMS_MAGNITUDE: root mean square of the group + |x|. IMPORTANCE: what `weight` holds
    times sqrt(sigma2 + x*x), with sigma2 (tiles, WIDTH).
    """
    tiles, n, _ = x.shape
    for tile in range(tiles):
        at = tile * n * WIDTH
        spread = load(sigma2, tile * WIDTH, WIDTH)
        if mode == RMS_MAGNITUDE:
            spread = splat(ZERO, WIDTH)
            for i in range(n):
                v = load(x, at + i * WIDTH, WIDTH)
                spread = spread + v * v
            spread = square_root(spread / splat(np.float32(n), WIDTH))
        total = splat(ZERO, WIDTH)
        for i in range(n):
            v = load(x, at + i * WIDTH, WIDTH)
            w = v * v
            if mode == MAGNITUDE:
                w = absolute(v)
            elif mode == RMS_MAGNITUDE:
                w = spread + absolute(v)
            elif mode == IMPORTANCE:
                w = load(weight, at + i * WIDTH, WIDTH) * square_root(spread + w)
            store(weight, at + i * WIDTH, w)
            total = total + w
        store(sums, tile * WIDTH, total)


@compiled
def signed_peak(x, at, n):  # type: ignore[no-untyped-def]
    """The element of largest magnitude of each lane of the tile at `at`, the first of equals, with its sign."""
    peak = splat(ZERO, WIDTH)
    for i in range(n):
        v = load(x, at + i * WIDTH, WIDTH)
        peak = select(absolute(v) > absolute(peak), v, peak)
    return peak


@compiled
def extremes(x, at, n):  # type: ignore[no-untyped-def]
    """Minimum and maximum of each lane of the tile at `at`, the first of equals (zeros keep their sign)."""
    minimum = load(x, at, WIDTH)
    maximum = minimum
    for i in range(1, n):
        v = load(x, at + i * WIDTH, WIDTH)
        minimum = select(v < minimum, v, minimum)
        maximum = select(v > maximum, v, maximum)
    return minimum, maximum


@compiled
def group_extremes(x, found):  # type: ignore[no-untyped-def]
    """found (3, tiles, WIDTH): signed peak, minimum, maximum of every group."""
    tiles, n, _ = x.shape
    size = tiles * WIDTH
    for tile in range(tiles):
        at = tile * n * WIDTH
        minimum, maximum = extremes(x, at, n)
        store(found, tile * WIDTH, signed_peak(x, at, n))
        store(found, size + tile * WIDTH, minimum)
        store(found, 2 * size + tile * WIDTH, maximum)
