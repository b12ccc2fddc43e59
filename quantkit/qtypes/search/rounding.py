"""From scales to stored codes: the last step of the encoders, block by block in memory order.

x is (b, block); arrays per group are flat, block after block; `raw` is (b, nbytes) and gets the bit planes that
`planes` describes (see planes.py). Codes are counted from 0 here, the smallest code being `low`.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.compilation import compiled, inlined
from quantkit.qtypes.search.groups import WIDTH
from quantkit.qtypes.search.lanes import absolute, flattened, lane_bits, load, select, splat, store, truncated
from quantkit.qtypes.search.octets import store_bytes, store_nearest
from quantkit.qtypes.search.plane_loops import pack_block
from quantkit.qtypes.search.tiles import ONE, ZERO, extremes, load_tile, signed_peak

STEP = 16
HALF = np.float32(0.5)
MAGIC = np.float32(12582912.0)  # 1.5 * 2**23: see lanes.nearest


@inlined
def _divide_step(x, at, start, scale, low, high, codes, to):  # type: ignore[no-untyped-def]
    v = (load(x, at, STEP) - splat(start, STEP)) / splat(scale, STEP)
    store_nearest(codes, to, v, low, high, low)


@inlined
def _divide_group(x, at, n, start, scale, low, high, codes, to):  # type: ignore[no-untyped-def]
    """clip(nearest((x - start) / scale), low, high) for the n weights at x[at:], one step or two: no loop is faster."""
    _divide_step(x, at, start, scale, low, high, codes, to)
    if n > STEP:
        _divide_step(x, at + STEP, start, scale, low, high, codes, to + STEP)


@inlined
def _searched_group(x, at, n, origin, iscale, low, high, codes, to):  # type: ignore[no-untyped-def]
    """nearest(clip(iscale * (x - origin), low, high)), or all `low` where iscale is 0."""
    lowest, highest = splat(np.float32(low), STEP), splat(np.float32(high), STEP)
    for i in range(0, n, STEP):
        v = (load(x, at + i, STEP) - splat(origin, STEP)) * splat(iscale, STEP)
        v = select(v > lowest, v, lowest)
        v = select(v > highest, highest, v)
        store_nearest(codes, to + i, lowest if iscale == ZERO else v, low, high, low)


@compiled
def round_to_planes(x, scale, offset, iscale, origin, kept, low, high, planes, raw):  # type: ignore[no-untyped-def]
    """Codes on the grid (scale, offset). A group whose scale is zero keeps the codes of its search.

    Those follow from iscale and origin or, unless it is empty, are the next row of kept (k, n). An empty offset or
    origin is zero. A block is packed when the next one is rounded, so that nothing waits for codes on their way to
    memory.
    """
    count, block = x.shape
    groups = scale.size // max(count, 1)
    n = block // max(groups, 1)
    codes, flat, taken = np.empty(2 * block, np.uint8), flattened(raw), 0
    for b in range(count + 1):
        first = b % 2 * block
        if b > 0:
            pack_block(codes, block - first, block, planes, flat, (b - 1) * raw.shape[1])
        for j in range(groups if b < count else 0):
            g, at, to = b * groups + j, b * block + j * n, first + j * n
            if scale[g] != ZERO:
                start = offset[g] if offset.size else ZERO
                _divide_group(x, at, n, start, scale[g], low, high, codes, to)
            elif kept.size:
                for i in range(n):
                    codes[to + i] = np.int32(kept[taken, i]) - low
                taken += 1
            else:
                start = origin[g] if origin.size else ZERO
                _searched_group(x, at, n, start, iscale[g], low, high, codes, to)


@compiled
def levels_to_planes(x, inverse, middles, planes, raw):  # type: ignore[no-untyped-def]
    """Codes that index the level nearest to inverse * x; middles as in codebook.search_levels."""
    count, block = x.shape
    groups = inverse.size // max(count, 1)
    n = block // max(groups, 1)
    codes, flat = np.empty(block, np.uint8), flattened(raw)
    for b in range(count):
        for i in range(0, block, STEP):
            v = splat(inverse[b * groups + i // n], STEP) * load(x, b * block + i, STEP)
            code = splat(ZERO, STEP)
            for k in range(middles.size):
                code = select(v < splat(middles[k], STEP), code, splat(np.float32(k + 1), STEP))
            store_bytes(codes, i, code)
        pack_block(codes, 0, codes.size, planes, flat, b * raw.shape[1])


@compiled
def cut_to_planes(x, top, signed, planes, raw, scale, minimum):  # type: ignore[no-untyped-def]
    """The legacy types without importance: codes cut off with the unrounded scale, which is returned, (lanes,).

    Signed: scale = peak / -top, codes -top..top - 1. Otherwise scale = (maximum - minimum) / top, codes 0..top.
    A code that no integer can hold (the inverse of a tiny scale is infinite) is stored as 0, as where C converts it
    to the smallest int and keeps the low byte.
    """
    count, n = x.shape
    tile, codes, flat = np.empty((n, WIDTH), np.float32), np.empty(n, np.uint8), flattened(raw)
    inverse = np.empty(WIDTH, np.float32)
    shift = splat(np.float32(top) + HALF if signed else HALF, STEP)
    highest = splat(np.float32(2 * top - 1 if signed else top), STEP)
    for first in range(0, count, WIDTH):
        load_tile(flattened(x), first, n, tile)
        nothing = splat(ZERO, WIDTH)
        if signed:
            low = nothing
            d = signed_peak(tile, WIDTH) / splat(np.float32(-top), WIDTH)
        else:
            low, high = extremes(tile)
            d = (high - low) / splat(np.float32(top), WIDTH)
        store(inverse, 0, select(d != nothing, splat(ONE, WIDTH) / d, nothing))
        store(scale, first, d)
        store(minimum, first, low)
        for b in range(first, min(first + WIDTH, count)):
            start, factor = splat(minimum[b], STEP), splat(inverse[b - first], STEP)
            for i in range(0, n, STEP):
                q = truncated((load(x, b * n + i, STEP) - start) * factor + shift)
                store_bytes(codes, i, select(q > highest, highest, q))
            pack_block(codes, 0, codes.size, planes, flat, b * raw.shape[1])


@inlined
def _nearest(v):  # type: ignore[no-untyped-def]
    bits = np.float32(v + MAGIC).view(np.int32)
    return np.int32(bits & np.int32(0x007FFFFF)) - np.int32(0x00400000)


@compiled
def proportional_codes(values, top, unit, codes):  # type: ignore[no-untyped-def]
    """unit = largest / top and codes = low byte of nearest(top / largest * value), per row of values (m, n)."""
    for row in range(values.shape[0]):
        largest = ZERO
        for j in range(values.shape[1]):
            if values[row, j] > largest:
                largest = values[row, j]
        unit[row] = largest / np.float32(top)
        factor = np.float32(top) / largest if largest > ZERO else ZERO
        for j in range(values.shape[1]):
            codes[row, j] = np.uint8(_nearest(factor * values[row, j]) & 0xFF)


@inlined
def _row_codes(values, at, n, factor, low, high, codes):  # type: ignore[no-untyped-def]
    """clip(nearest(factor * value), low, high), int8, for the n values at values[at:]."""
    whole = n - n % STEP
    for j in range(at, at + whole, STEP):
        store_nearest(codes, j, splat(factor, STEP) * load(values, j, STEP), low, high, 0)
    for j in range(at + whole, at + n):
        codes[j] = min(max(_nearest(factor * values[j]), low), high)


@compiled
def signed_units(values, low, high, eps, zero_code, exact, unit, codes):  # type: ignore[no-untyped-def]
    """unit = peak / low, and codes = clip(nearest(value / unit), low, high), int8, per row of values (m, n).

    The peak is the first element of largest magnitude; value / unit is computed as value * (low / peak), and unit,
    unless `exact`, as 1 / (low / peak). A row whose peak is 0 or below eps in magnitude has unit 0 (if `exact`, with
    the sign that the division gives it) and codes zero_code.
    """
    rows, n = values.shape
    flat, flat_codes = flattened(values), flattened(codes)
    tile, found = np.empty((n, WIDTH), np.float32), np.empty((2, WIDTH), np.float32)
    zero, lowest = splat(ZERO, WIDTH), splat(np.float32(low), WIDTH)
    for first in range(0, rows, WIDTH):
        load_tile(flat, first, n, tile)
        peak = signed_peak(tile, WIDTH)
        empty = (peak == zero) | (absolute(peak) < splat(eps, WIDTH))
        factor = lowest / peak
        store(found, 0, peak / lowest if exact else select(empty, zero, splat(ONE, WIDTH) / factor))
        store(found, WIDTH, factor)
        nothing = lane_bits(empty)
        for lane in range(min(WIDTH, rows - first)):
            row = first + lane
            unit[row] = found[0, lane]
            if (nothing >> np.uint64(lane)) & np.uint64(1):
                codes[row] = zero_code
            else:
                _row_codes(flat, row * n, n, found[1, lane], low, high, flat_codes)


@compiled
def nearest_codes(values, factor, low, high, codes):  # type: ignore[no-untyped-def]
    """codes = clip(nearest(factor * value), low, high), int8 (m, n), factor (m,)."""
    rows, n = values.shape
    for row in range(rows):
        _row_codes(flattened(values), row * n, n, factor[row], low, high, flattened(codes))


@compiled
def products(unit, counts, scale):  # type: ignore[no-untyped-def]
    """scale = unit * count, for units (m,) and counts (m, n)."""
    for row in range(counts.shape[0]):
        for j in range(counts.shape[1]):
            scale[row, j] = unit[row] * np.float32(counts[row, j])
