"""The scale searches on arrays: groups of weights in, scales and codes out.

Groups are always n consecutive weights of a row. The arithmetic is compiled (see the package's docstring); what is
here arranges groups in lanes and results in group order. All arrays are float32 unless stated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantkit.qtypes.search import entries
from quantkit.qtypes.search.groups import SWEPT, WIDTH, Groups, OffsetScales, Steps, Weighting, frozen, lanes
from quantkit.tensors import F32, U8

# Where the largest weight of a group may lie, of the last level on its side: steps of a fortieth of an octave.
SHARES = np.exp2(np.arange(-10, 15, dtype=np.float32) / 40).astype(np.float32)


def square_sums(rows: F32) -> F32:
    """Sum of squares of each row (m, n), element after element; n is a multiple of 16."""
    sums = np.empty(len(rows), np.float32)
    entries.square_sums(frozen(rows).reshape(-1), rows.shape[1], sums)
    return sums


def _weighted(groups: Groups) -> tuple[F32, F32, F32, int]:
    """The first arguments of every weighted search."""
    nothing = np.empty(0, np.float32)
    importance = nothing if groups.importance is None else groups.importance
    sigma2 = nothing if groups.sigma2 is None else groups.sigma2
    return frozen(groups.x), frozen(importance).reshape(-1), frozen(sigma2), int(groups.how)


def search_offset(groups: Groups, top: int, steps: Steps, squared: bool = True) -> OffsetScales:
    """Search C, for codes 0..top. The error is sum w*diff*diff, or sum w*|diff| unless `squared`."""
    count = len(groups.x)
    found = np.empty((5, lanes(count)), np.float32)
    candidates = np.array([steps.first, steps.size, steps.last], np.float32)
    entries.search_offset(*_weighted(groups), top, candidates, squared, found)
    return OffsetScales(*found[:, :count])


def search_signed(groups: Groups, top: int) -> tuple[F32, F32, F32]:
    """Search A, for codes -top..top - 1: scale, iscale and sum of weights of each group, (m,).

    The codes of the search are clip(nearest(iscale * x)); iscale 0 marks a group whose codes are all -top.
    """
    count = len(groups.x)
    found = np.empty((3, lanes(count)), np.float32)
    entries.search_signed(*_weighted(groups), top, found)
    scale, iscale, sums = found[:, :count]
    return scale, iscale, sums


def search_descent(groups: F32, top: int) -> F32:
    """Search B, for codes -top..top - 1 of groups (m, n): scale (m,)."""
    scale = np.empty(lanes(len(groups), SWEPT), np.float32)
    entries.search_descent(frozen(groups), top, scale)
    return scale[: len(groups)]


def descent_codes(groups: F32, top: int) -> F32:
    """The codes (m, n) that search B leaves."""
    kept = np.empty(groups.shape, np.float32)
    entries.descent_codes(frozen(groups), top, kept)
    return kept


def search_unsigned(values: F32, weights: F32, top: int) -> tuple[F32, U8]:
    """Search D: one scale for each row of `values` (m, n), weighted by (m, n), and codes 0..top uint8 (m, n)."""
    m, n = values.shape
    scale = np.empty(lanes(m), np.float32)
    codes = np.empty((scale.size // WIDTH, n, WIDTH), np.float32)
    entries.search_unsigned(frozen(values), frozen(weights), top, scale, codes)
    return scale[:m], codes.swapaxes(1, 2).reshape(-1, n)[:m].astype(np.uint8)


def search_levels(groups: Groups, levels: F32) -> F32:
    """Scales (m,) of groups whose codes index ascending `levels`."""
    scale = np.empty(lanes(len(groups.x)), np.float32)
    entries.search_levels(*_weighted(groups), levels, middles(levels), scale)
    return scale[: len(groups.x)]


def search_ends(groups: F32, prices: F32, levels: F32) -> F32:
    """Signed scales (m,) of groups whose codes index ascending `levels`, each column at its price (cols,).

    Two levels are the ends of a range of whole numbers.
    """
    scale = np.empty(lanes(len(groups)), np.float32)
    between = middles(levels) if len(levels) > 2 else np.empty(0, np.float32)
    how = int(Weighting.PURE_IMPORTANCE)
    entries.search_ends(frozen(groups), frozen(prices).reshape(-1), how, levels, between, SHARES, scale)
    return scale[: len(groups)]


def middles(levels: F32) -> F32:
    """Half-way points between ascending levels (k,), (k - 1,): from one on, the upper level is nearest."""
    return (levels[1:] + levels[:-1]) / np.float32(2)


def proportional_codes(values: F32, top: int) -> tuple[F32, U8]:
    """Rows of `values` (m, n) as codes of largest / top: that unit (m,), and the codes' low bytes uint8 (m, n).

    A row without a positive value has unit 0 and codes 0. Negative values wrap around, as in the reference.
    """
    unit = np.empty(len(values), np.float32)
    codes = np.empty(values.shape, np.uint8)
    entries.proportional_codes(values, top, unit, codes)
    return unit, codes


def signed_units(
    values: F32, limits: tuple[int, int], zero_code: int, *, eps: float = 0.0, exact: bool = False
) -> tuple[F32, NDArray[np.int8]]:
    """Rows of `values` (m, n) as codes limits[0]..limits[1] of peak / limits[0]: that unit (m,), and codes (m, n).

    The peak is the element of largest magnitude, the first of equals. The unit is computed as the inverse of
    limits[0] / peak unless `exact`. A row whose peak is 0 or below eps in magnitude has unit 0 and codes `zero_code`.
    """
    unit = np.empty(len(values), np.float32)
    codes = np.empty(values.shape, np.int8)
    entries.signed_units(values, *limits, np.float32(eps), zero_code, exact, unit, codes)
    return unit, codes


def nearest_codes(values: F32, factor: F32, low: int, high: int) -> NDArray[np.int8]:
    """clip(nearest(factor * value), low, high) for values (m, n) and factors (m,)."""
    codes = np.empty(values.shape, np.int8)
    entries.nearest_codes(values, factor, low, high, codes)
    return codes


def products(unit: F32, counts: NDArray[np.int8] | U8) -> F32:
    """The scales unit * count, of units (m,) and counts (m, n)."""
    scale = np.empty(counts.shape, np.float32)
    entries.products(unit, frozen(np.ascontiguousarray(counts)), scale)
    return scale


def inverse(values: F32) -> F32:
    """1 / value, and 0 where the value is 0; infinite where float32 has no number that large."""
    return np.divide(np.float32(1), values, out=np.zeros_like(values), where=values != 0)
