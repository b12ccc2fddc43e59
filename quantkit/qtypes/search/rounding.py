"""From scales to codes: the last step of the encoders, over groups (m, n) in memory order."""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.lanes import load, nearest, select, splat, store_int16, truncated
from quantkit.qtypes.search.tiles import ZERO, compiled

STEP = 16
MAGIC = np.float32(12582912.0)  # 1.5 * 2**23: see lanes.nearest


@compiled
def round_to_grid(x, scale, offset, iscale, origin, low, high, codes):  # type: ignore[no-untyped-def]
    """codes = clip(nearest((x - offset) / scale), low, high), int16 (m, n); scale, offset, iscale, origin (m,).

    A group whose scale rounded to zero keeps the codes of its search, clip(nearest(iscale * (x - origin))), or all
    `low` where iscale is 0. n is a multiple of 16.
    """
    groups, n = x.shape
    lowest, highest = splat(np.float32(low), STEP), splat(np.float32(high), STEP)
    for group in range(groups):
        kept = scale[group] == ZERO
        empty = kept and iscale[group] == ZERO
        start = splat(origin[group] if kept else offset[group], STEP)
        factor = splat(iscale[group] if kept else scale[group], STEP)
        for i in range(0, n, STEP):
            v = load(x, group * n + i, STEP) - start
            if kept:
                v = v * factor
                v = select(v > lowest, v, lowest)
                v = select(v > highest, highest, v)
            else:
                v = v / factor
            q = nearest(v)
            q = select(q < lowest, lowest, q)
            q = select(q > highest, highest, q)
            store_int16(codes, group * n + i, lowest if empty else q)


@compiled
def truncate(x, origin, inverse, shift, low, high, codes):  # type: ignore[no-untyped-def]
    """codes = min(trunc((x - origin) * inverse + shift) + low, high), int16 (m, n); origin, inverse (m,).

    What no integer can hold (the inverse of a tiny scale is infinite) becomes `low`, as where C converts it to the
    smallest int and keeps the low byte. n is a multiple of 16.
    """
    groups, n = x.shape
    lowest, highest = splat(np.float32(low), STEP), splat(np.float32(high), STEP)
    for group in range(groups):
        start, factor = splat(origin[group], STEP), splat(inverse[group], STEP)
        for i in range(0, n, STEP):
            v = (load(x, group * n + i, STEP) - start) * factor + splat(shift, STEP)
            q = truncated(v) + lowest
            store_int16(codes, group * n + i, select(q > highest, highest, q))


@compiled
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


@compiled
def signed_peaks(values, peaks):  # type: ignore[no-untyped-def]
    """The first element of largest magnitude of each row (m, n)."""
    for row in range(values.shape[0]):
        peak = ZERO
        for j in range(values.shape[1]):
            if abs(values[row, j]) > abs(peak):
                peak = values[row, j]
        peaks[row] = peak


@compiled
def nearest_codes(values, factor, low, high, codes):  # type: ignore[no-untyped-def]
    """codes = clip(nearest(factor * value), low, high), int16 (m, n), factor (m,)."""
    for row in range(values.shape[0]):
        for j in range(values.shape[1]):
            codes[row, j] = min(max(_nearest(factor[row] * values[row, j]), low), high)
