"""Weights arranged in lanes: tiles, their weights for the searches, and ordered sums.

A tile is (n, WIDTH) float32: element i of WIDTH groups of n weights, lane k belonging to the k-th of these groups. It
stays in the first-level cache while it is searched. Groups are consecutive, so results per lane, written one tile
after another, are results in group order; arrays of results are as long as all tiles, a multiple of WIDTH.
Sums start at zero and take one element at a time, as the reference does.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import called as called
from quantkit.qtypes.search.compilation import compiled as compiled
from quantkit.qtypes.search.compilation import inlined as inlined
from quantkit.qtypes.search.groups import IMPORTANCE, MAGNITUDE, PURE_IMPORTANCE, RMS_MAGNITUDE, WIDTH
from quantkit.qtypes.search.lanes import (
    absolute,
    flattened,
    load,
    prefetch,
    select,
    splat,
    square_root,
    store,
    transpose,
)

ALL_LANES = (1 << WIDTH) - 1
LINE = 16  # float32 in a cache line of 64 bytes
AHEAD = 2  # tiles
SIDE = 16  # rows and columns that `transpose` turns at once

ZERO = np.float32(0)
ONE = np.float32(1)
INFINITY = np.float32(np.inf)
# A group whose largest magnitude is smaller counts as zero (GROUP_MAX_EPS in ggml-quants.c).
EPS = np.float32(1e-15)


@called
def load_tile(source, first, n, tile):  # type: ignore[no-untyped-def]
    """Copy as many groups of n elements of flat `source` as `tile` (n, lanes) has lanes, from group `first` on.

    After its last group the source starts over: importance does with every row, and what fills the lanes beyond the
    last group does not matter.
    """
    starts = np.empty(tile.shape[1], np.int64)
    groups = source.size // n
    group = first % groups
    for lane in range(starts.size):
        starts[lane] = group * n
        group = group + 1 if group + 1 < groups else 0
    gather_tile(source, starts, n, tile)


@called
def gather_tile(source, starts, n, tile):  # type: ignore[no-untyped-def]
    """Copy the n elements from each of `starts` (lanes,) in flat `source` into `tile` (n, lanes)."""
    whole, width = n - n % SIDE, tile.shape[1]
    for column in range(0, whole, SIDE):
        for lane in range(0, width, SIDE):
            transpose(source, starts[lane:], column, tile, column * width + lane, width)
    for i in range(whole, n):
        for lane in range(width):
            tile[i, lane] = source[starts[lane] + i]


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


@inlined
def ask_for(source, at, count):  # type: ignore[no-untyped-def]
    """Have source[at : at + count] brought into the cache.

    A tile is read at once and then worked on for long, and processors do not look so far ahead. So loops over a tile
    ask for the one AHEAD of it, some lines with each row: only so many can be on their way, and others wait.
    """
    for line in range(at, at + count, LINE):
        prefetch(source, line)


@called
def load_weighted(groups, importance, sigma2, how, first, x, weight):  # type: ignore[no-untyped-def]
    """Load groups first.. of `groups` (m, n) into the tile x, and make their weights as `how` says.

    importance is flat, groups of n that start over for every row of the matrix; sigma2 (m,). Both may be empty where
    `how` needs none. Returns the sum of the weights of each lane.
    """
    m, n = groups.shape
    flat = flattened(groups)
    load_tile(flat, first, n, x)
    if how in (IMPORTANCE, PURE_IMPORTANCE):
        load_tile(importance, first, n, weight)
    spread = splat(ZERO, WIDTH)
    if how == RMS_MAGNITUDE:
        for i in range(n):
            v = load(x, i * WIDTH, WIDTH)
            spread = spread + v * v
        spread = square_root(spread / splat(np.float32(n), WIDTH))
    elif how == IMPORTANCE:
        lanes = np.empty(WIDTH, np.float32)
        for lane in range(WIDTH):
            lanes[lane] = sigma2[min(first + lane, m - 1)]
        spread = load(lanes, 0, WIDTH)
    total = splat(ZERO, WIDTH)
    for i in range(n):
        ask_for(flat, (first + AHEAD * WIDTH) * n + i * WIDTH, WIDTH)
        v = load(x, i * WIDTH, WIDTH)
        if how == PURE_IMPORTANCE:
            w = load(weight, i * WIDTH, WIDTH)
        elif how == MAGNITUDE:
            w = absolute(v)
        elif how == RMS_MAGNITUDE:
            w = spread + absolute(v)
        elif how == IMPORTANCE:
            w = load(weight, i * WIDTH, WIDTH) * square_root(spread + v * v)
        else:
            w = v * v
        store(weight, i * WIDTH, w)
        total = total + w
    return total


@inlined
def signed_peak(x, width):  # type: ignore[no-untyped-def]
    """The element of largest magnitude of each of `width` lanes, the first of equals, with its sign."""
    peak = splat(ZERO, width)
    largest = peak
    for i in range(x.shape[0]):
        v = load(x, i * width, width)
        magnitude = absolute(v)
        larger = magnitude > largest
        peak, largest = select(larger, v, peak), select(larger, magnitude, largest)
    return peak


@inlined
def extremes(x):  # type: ignore[no-untyped-def]
    """Minimum and maximum of each lane, the first of equals (zeros keep their sign)."""
    minimum = load(x, 0, WIDTH)
    maximum = minimum
    for i in range(1, x.shape[0]):
        v = load(x, i * WIDTH, WIDTH)
        minimum = select(v < minimum, v, minimum)
        maximum = select(v > maximum, v, maximum)
    return minimum, maximum
