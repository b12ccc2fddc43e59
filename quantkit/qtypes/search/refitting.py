"""Integer counts and float16 units of blocks moved, codes held, as far as the loss of a row falls: row by row.

The loss of a row is e H e^T with e = w - q, its slope g = e H. A step s of a group's scale and o of its offset moves
q by s a + o b, a being what the scale is multiplied with and b what the offset is. It gains

    2 (s a.g + o b.g) - (s s aHa + 2 s o aHb + o o bHb)

which has its largest value where both derivatives are zero. Counts take the best of three whole numbers around it,
units the nearest float16; only what gains is kept, and g follows. Everything is float32, one row at a time, sums in
LANES lanes that are then halved: a row's result does not depend on its neighbours, nor on the host's vectors.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.lanes import flattened, load, splat, store, total
from quantkit.qtypes.search.tiles import ZERO, called, compiled

LANES = 16
TWO = np.float32(2)
APART = np.float32(1e-4)  # of the product of two curves: less, and the two directions cannot be told apart
LARGEST_CHANGE = np.float32(2)  # of a unit in one step: the quadratic is only as good as the codes
LARGEST_HALF = np.float32(65504)


@called
def _ratio(x, y):  # type: ignore[no-untyped-def]
    return x / y if y > ZERO else ZERO


@called
def _gain(s, o, form):  # type: ignore[no-untyped-def]
    a, b, curve_a, curve_b, cross = form
    return TWO * (s * a + o * b) - (s * s * curve_a + TWO * s * o * cross + o * o * curve_b)


@called
def _lowest(form):  # type: ignore[no-untyped-def]
    """The step along the first direction where the gain is largest, the second following it."""
    a, b, curve_a, curve_b, cross = form
    product = curve_a * curve_b
    determinant = product - cross * cross
    if determinant > APART * product:
        return (a * curve_b - b * cross) / determinant
    return _ratio(a, curve_a)


@called
def _second(s, form):  # type: ignore[no-untyped-def]
    """The best step along the second direction after s along the first."""
    _, b, _, curve_b, cross = form
    return _ratio(b - s * cross, curve_b)


@called
def nearest_half(x):  # type: ignore[no-untyped-def]
    """The float16 nearest to a float32, ties to even, as float32; infinite where it is too large."""
    bits = np.float32(x).view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    if magnitude >= np.uint32(0x477FF000):
        return np.float32(np.inf) if x > ZERO else np.float32(-np.inf)
    if magnitude < np.uint32(0x38800000):  # a multiple of 2**-24
        return np.float32(np.rint(x * np.float32(16777216)) / np.float32(16777216))
    rounded = magnitude + np.uint32(0xFFF) + ((magnitude >> np.uint32(13)) & np.uint32(1))
    return np.uint32((rounded & np.uint32(0xFFFFE000)) | (bits & np.uint32(0x80000000))).view(np.float32)


@called
def _clipped(x, low, high):  # type: ignore[no-untyped-def]
    return min(max(x, low), high)


@called
def _group_form(levels, slope, hessian, at, first, width, square):  # type: ignore[no-untyped-def]
    """The quadratic of a group whose scale and offset are one: levels and slope at flat `at`, H from `first` on."""
    n = hessian.shape[1]
    a, b = splat(ZERO, LANES), splat(ZERO, LANES)
    curve, cross = splat(ZERO, LANES), splat(ZERO, LANES)
    flat = flattened(levels)
    for k in range(0, width, LANES):
        own, g = load(levels, at + k, LANES), load(slope, at + k, LANES)
        mixed = splat(ZERO, LANES)
        for i in range(width):
            mixed = mixed + splat(flat[at + i], LANES) * load(hessian, (first + i) * n + first + k, LANES)
        a, b = a + g * own, b + g
        curve, cross = curve + mixed * own, cross + mixed
    return total(a), total(b), total(curve), square, total(cross)


@called
def _moved(slope, at, hessian, first, change):  # type: ignore[no-untyped-def]
    """Take change (width,) times the rows of H from `first` on off the slope of a row."""
    n = hessian.shape[1]
    for i in range(0, change.size, 4):
        c0, c1 = splat(change[i], LANES), splat(change[i + 1], LANES)
        c2, c3 = splat(change[i + 2], LANES), splat(change[i + 3], LANES)
        h = (first + i) * n
        for k in range(0, n, LANES):
            g = load(slope, at + k, LANES)
            g = g - c0 * load(hessian, h + k, LANES)
            g = g - c1 * load(hessian, h + n + k, LANES)
            g = g - c2 * load(hessian, h + 2 * n + k, LANES)
            g = g - c3 * load(hessian, h + 3 * n + k, LANES)
            store(slope, at + k, g)


@called
def _best_counts(count, other, form, limits):  # type: ignore[no-untyped-def]
    """Counts of a scale and of its offset, the best of three steps, and what they gain."""
    low, high, other_low, other_high = limits
    best, step, beside = ZERO, ZERO, ZERO
    lowest = np.float32(np.rint(_lowest(form)))
    for around in range(-1, 2):
        s = _clipped(lowest + np.float32(around), low - count, high - count)
        o = ZERO
        if other_high > other_low:
            o = _clipped(np.float32(np.rint(_second(s, form))), other_low - other, other_high - other)
        gain = _gain(s, o, form)
        if gain > best:
            best, step, beside = gain, s, o
    return best, step, beside


@compiled
def refit_counts(levels, slope, hessian, squares, unit, other_unit, count, other_count, limits, gain):  # type: ignore[no-untyped-def]
    """Move the counts of all groups of a segment in their order; adds what each row gained to gain (rows,).

    levels (rows, n) is what scales are multiplied with, slope (rows, n) is changed in place, hessian (n, n), squares
    (groups,) the sum of H over the columns of each group. unit (rows, blocks) and count (rows, groups) are those of
    scales with their sign, other_unit and other_count those of offsets: (rows, 0) without. count and other_count are
    changed. limits: the lowest and highest count of both. All float32; a group has a multiple of 16 columns.
    """
    rows, n = levels.shape
    groups, blocks = count.shape[1], unit.shape[1]
    width, per_block = n // groups, groups // blocks
    change = np.empty(width, np.float32)
    for r in range(rows):
        for group in range(groups):
            u, v, other = unit[r, group // per_block], ZERO, ZERO
            if other_unit.size:
                v, other = other_unit[r, group // per_block], other_count[r, group]
            at = r * n + group * width
            a, b, curve, square, cross = _group_form(levels, slope, hessian, at, group * width, width, squares[group])
            form = (u * a, v * b, u * u * curve, v * v * square, u * v * cross)
            best, step, beside = _best_counts(count[r, group], other, form, limits)
            if best <= ZERO:
                continue
            gain[r] += best
            scale, offset = u * count[r, group], v * other
            count[r, group] += step
            if other_unit.size:
                other_count[r, group] += beside
            scale_now, offset_now = u * count[r, group], v * (other + beside)
            for i in range(width):
                level = levels[r, group * width + i]
                change[i] = (level * scale_now + offset_now) - (level * scale + offset)
            _moved(slope, r * n, hessian, group * width, change)


@called
def _unit_form(along, mixed, slope, other_count, other, width, places):  # type: ignore[no-untyped-def]
    """The quadratic of a block's units. `other` (n,) is what the offsets' counts are times H."""
    at, mixed_at, first, span, group = places
    a, b = splat(ZERO, LANES), splat(ZERO, LANES)
    curve_a, curve_b, cross = splat(ZERO, LANES), splat(ZERO, LANES), splat(ZERO, LANES)
    for k in range(0, span, LANES):
        g, own = load(slope, at + k, LANES), load(along, at + k, LANES)
        m = load(mixed, mixed_at + first + k, LANES)
        a, curve_a = a + g * own, curve_a + m * own
        if other_count.size:
            c = splat(other_count[group + k // width], LANES)
            b, cross = b + g * c, cross + m * c
            curve_b = curve_b + load(other, first + k, LANES) * c
    return total(a), total(b), total(curve_a), total(curve_b), total(cross)


@called
def _offsets_mixed(other_count, sums, group, per_block, other):  # type: ignore[no-untyped-def]
    """The counts of a block's offsets times H: sums (groups, n) are the rows of H added up by group."""
    n = sums.shape[1]
    for k in range(0, n, LANES):
        mixed = splat(ZERO, LANES)
        for i in range(per_block):
            mixed = mixed + splat(other_count[group + i], LANES) * load(sums, (group + i) * n + k, LANES)
        store(other, k, mixed)


@compiled
def refit_units(along, mixed, slope, sums, unit, other_unit, other_count, gain):  # type: ignore[no-untyped-def]
    """Move the units of all blocks of a segment in their order; adds what each row gained to gain (rows,).

    along (rows, n) is what a unit of scales is multiplied with, mixed (blocks, rows, n) that of each block times H.
    slope (rows, n), unit (rows, blocks) and other_unit are changed in place. sums (groups, n) are the rows of H added
    up by group, other_count (rows, groups) the counts of offsets with their sign; both units as they are stored. All
    float32; without offsets other_unit and other_count are (rows, 0).
    """
    rows, n = along.shape
    blocks, groups = unit.shape[1], sums.shape[0]
    span, width, per_block = n // blocks, n // groups, groups // blocks
    other = np.zeros(n, np.float32)
    for r in range(rows):
        for block in range(blocks):
            first, group, mixed_at = block * span, block * per_block, (block * rows + r) * n
            counts = other_count[r]
            if counts.size:
                _offsets_mixed(counts, sums, group, per_block, other)
            form = _unit_form(along, mixed, slope, counts, other, width, (r * n + first, mixed_at, first, span, group))
            old = unit[r, block]
            low, high = old / LARGEST_CHANGE, old * LARGEST_CHANGE
            new = nearest_half(_clipped(old + _lowest(form), min(low, high), max(low, high)))
            s, o, moved = new - old, ZERO, ZERO
            if counts.size:
                moved = nearest_half(other_unit[r, block] + _second(s, form))
                o = moved - other_unit[r, block]
            found = _gain(s, o, form)
            if not found > ZERO or abs(new) > LARGEST_HALF or abs(o) > LARGEST_HALF:
                continue
            gain[r] += found
            unit[r, block] = new
            if counts.size:
                other_unit[r, block] = moved
            for k in range(0, n, LANES):
                step = splat(s, LANES) * load(mixed, mixed_at + k, LANES) + splat(o, LANES) * load(other, k, LANES)
                store(slope, r * n + k, load(slope, r * n + k, LANES) - step)
