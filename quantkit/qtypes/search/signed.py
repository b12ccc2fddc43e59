"""Searches A and B: one signed scale per group (make_qx_quants and make_q3_quants of ggml-quants.c).

Codes are -top..top - 1. The names of the sums are the reference's: slx = sum w*x*l, sl2 = sum w*l*l.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.search.lanes import absolute, any_lane, load, nearest, select, splat, store
from quantkit.qtypes.search.tiles import EPS, WIDTH, ZERO, compiled, signed_peak

SWEEPS = 5


@compiled
def _clipped(v, low, high):  # type: ignore[no-untyped-def]
    q = nearest(v)
    q = select(q < low, low, q)
    return select(q > high, high, q)


@compiled
def _moments(x, weight, at, n, iscale, low, high):  # type: ignore[no-untyped-def]
    zero = splat(ZERO, WIDTH)
    slx, sl2 = zero, zero
    for i in range(n):
        v = load(x, at + i * WIDTH, WIDTH)
        w = load(weight, at + i * WIDTH, WIDTH)
        q = _clipped(iscale * v, low, high)
        slx = slx + w * v * q
        sl2 = sl2 + w * q * q
    return slx, sl2


@compiled
def search_signed(x, weight, top, found):  # type: ignore[no-untyped-def]
    """Search A: 19 scales near -top / peak; the best least-squares fit wins.

    found is (2, tiles, WIDTH): scale, and the iscale of the codes of the search, clip(nearest(iscale * x)). iscale 0
    marks a group that counts as zero: its codes are all -top.
    """
    tiles, n, _ = x.shape
    size = tiles * WIDTH
    low, high = splat(np.float32(-top), WIDTH), splat(np.float32(top - 1), WIDTH)
    zero = splat(ZERO, WIDTH)
    for tile in range(tiles):
        at = tile * n * WIDTH
        peak = signed_peak(x, at, n)
        empty = absolute(peak) < splat(EPS, WIDTH)
        best_iscale = low / peak
        slx, sl2 = _moments(x, weight, at, n, best_iscale, low, high)
        scale = select(sl2 != zero, slx / sl2, zero)
        best = scale * slx
        for step in range(-9, 10):
            if step == 0:
                continue
            factor = np.float32(np.float32(top) + np.float32(np.float32(0.1) * np.float32(step)))
            iscale = splat(np.float32(-factor), WIDTH) / peak
            slx, sl2 = _moments(x, weight, at, n, iscale, low, high)
            better = (sl2 > zero) & (slx * slx > best * sl2)
            scale = select(better, slx / sl2, scale)
            best = select(better, scale * slx, best)
            best_iscale = select(better, iscale, best_iscale)
        store(found, tile * WIDTH, select(empty, zero, scale))
        store(found, size + tile * WIDTH, select(empty, zero, best_iscale))


@compiled
def search_descent(x, top, scales, codes):  # type: ignore[no-untyped-def]
    """Search B: least squares with weights x*x, then codes changed one by one while the fit improves.

    scales is (tiles, WIDTH), codes (tiles, n, WIDTH); a group that counts as zero has scale 0 and codes -top. A lane
    in which a sweep changes nothing never changes again, so lanes that finish early need no mask.
    """
    tiles, n, _ = x.shape
    low, high = splat(np.float32(-top), WIDTH), splat(np.float32(top - 1), WIDTH)
    zero = splat(ZERO, WIDTH)
    for tile in range(tiles):
        at = tile * n * WIDTH
        peak = signed_peak(x, at, n)
        iscale = low / peak
        slx, sl2 = zero, zero
        for i in range(n):
            v = load(x, at + i * WIDTH, WIDTH)
            q = _clipped(iscale * v, low, high)
            store(codes, at + i * WIDTH, q)
            slx = slx + v * v * v * q
            sl2 = sl2 + v * v * q * q
        for _ in range(SWEEPS):
            before = slx
            before2 = sl2
            for i in range(n):
                v = load(x, at + i * WIDTH, WIDTH)
                q = load(codes, at + i * WIDTH, WIDTH)
                w = v * v
                rest = slx - w * v * q
                rest2 = sl2 - w * q * q
                new = _clipped(v * rest2 / rest, low, high)
                new_slx = rest + w * v * new
                new_sl2 = rest2 + w * new * new
                better = (rest > zero) & (new != q) & (new_sl2 > zero)
                better = better & (new_slx * new_slx * sl2 > slx * slx * new_sl2)
                store(codes, at + i * WIDTH, select(better, new, q))
                slx = select(better, new_slx, slx)
                sl2 = select(better, new_sl2, sl2)
            if not any_lane((slx != before) | (sl2 != before2)):
                break
        empty = absolute(peak) < splat(EPS, WIDTH)
        if any_lane(empty):
            for i in range(n):
                store(codes, at + i * WIDTH, select(empty, low, load(codes, at + i * WIDTH, WIDTH)))
        store(scales, tile * WIDTH, select(empty, zero, select(sl2 > zero, slx / sl2, zero)))
