"""The scale searches on arrays: groups of weights in, scales and codes out.

Groups are always n consecutive weights of a row. The arithmetic is compiled (see the package's docstring); what is
here arranges groups in lanes and results in group order. All arrays are float32 unless stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from quantkit.qtypes.base import Codes
from quantkit.tensors import F32, U8


class Weighting(IntEnum):
    """How much the error of a weight x counts in a search. `n` is its group, `qw` its importance."""

    SQUARE = 0  # x*x
    MAGNITUDE = 1  # |x|
    RMS_MAGNITUDE = 2  # root mean square of the group + |x|
    IMPORTANCE = 3  # qw * sqrt(sigma2 + x*x)
    PURE_IMPORTANCE = 4  # qw


@dataclass(frozen=True)
class Tiles:
    """`count` groups of n weights in lanes, (tiles, n, WIDTH), with the weight of every element.

    `sums` (count,) is the sum of the weights of each group; None where no search needs it.
    """

    x: F32
    weight: F32
    sums: F32
    count: int


@dataclass(frozen=True)
class Steps:
    """The candidates of an offset search: (first + size * k + top) / range for k = 0..last."""

    first: float
    size: float
    last: int


@dataclass(frozen=True)
class OffsetScales:
    """What an offset search finds for every group, each (count,).

    A group's values are scale * code + minimum, minimum <= 0. The codes of the search itself are
    clip(nearest(iscale * (x - origin)), 0, top); iscale 0 marks a group whose codes are all 0.
    """

    scale: F32
    minimum: F32
    iscale: F32
    origin: F32


def frozen(array: F32) -> F32:
    """A read-only view: compiled loops take their sources read-only, whatever the caller has."""
    view = np.require(array, np.float32, ["C", "A"]).view()
    view.flags.writeable = False
    return view


def in_tiles(source: F32, n: int, count: int) -> F32:
    """Groups of n elements of flat `source` as tiles for `count` groups, starting over where it ends."""
    from quantkit.qtypes.search.tiles import WIDTH, to_tiles

    tiles = np.empty((-(-count // WIDTH), n, WIDTH), np.float32)
    to_tiles(frozen(source).reshape(-1), source.size // n, count, n, tiles)
    return tiles


def square_sums(rows: F32) -> F32:
    """Sum of squares of each row (m, n), element after element; n is a multiple of 16."""
    from quantkit.qtypes.search import tiles

    sums = np.empty(len(rows), np.float32)
    tiles.square_sums(frozen(rows).reshape(-1), rows.shape[1], sums)
    return sums


def weighted(groups: F32, how: Weighting, importance: F32 | None = None, sigma2: F32 | None = None) -> Tiles:
    """Tiles of `groups` (m, n). `importance` (cols,) starts over with every row; sigma2 is (m,)."""
    from quantkit.qtypes.search.tiles import WIDTH, weigh

    count, n = groups.shape
    x = in_tiles(groups, n, count)
    weight = np.empty_like(x) if importance is None else in_tiles(importance, n, count)
    sums = np.zeros((len(x), WIDTH), np.float32)
    spread = np.zeros((len(x), WIDTH), np.float32)
    if sigma2 is not None:
        spread.reshape(-1)[:count] = sigma2
    if how != Weighting.PURE_IMPORTANCE:
        weigh(x, int(how), spread, weight, sums)
    return Tiles(x, weight, sums.reshape(-1)[:count], count)


def search_offset(tiles: Tiles, top: int, steps: Steps, squared: bool = True) -> OffsetScales:
    """Search C, for codes 0..top. The error is sum w*diff*diff, or sum w*|diff| unless `squared`."""
    from quantkit.qtypes.search import offset

    count, _, width = tiles.x.shape
    found = np.empty((4, count, width), np.float32)
    first, size = np.float32(steps.first), np.float32(steps.size)
    offset.search_offset(tiles.x, tiles.weight, top, first, size, steps.last, squared, found)
    return OffsetScales(*found.reshape(4, -1)[:, : tiles.count])


def search_signed(tiles: Tiles, top: int) -> tuple[F32, F32]:
    """Search A, for codes -top..top - 1: scale and iscale, (count,).

    The codes of the search are clip(nearest(iscale * x)); iscale 0 marks a group whose codes are all -top.
    """
    from quantkit.qtypes.search import signed

    count, _, width = tiles.x.shape
    found = np.empty((2, count, width), np.float32)
    signed.search_signed(tiles.x, tiles.weight, top, found)
    scale, iscale = found.reshape(2, -1)[:, : tiles.count]
    return scale, iscale


def search_descent(groups: F32, top: int) -> tuple[F32, F32]:
    """Search B, for codes -top..top - 1 of groups (m, n): scale (m,) and codes in tiles (tiles, n, WIDTH)."""
    from quantkit.qtypes.search import signed

    x = in_tiles(groups, groups.shape[1], len(groups))
    codes = np.empty_like(x)
    scale = np.empty((len(x), x.shape[2]), np.float32)
    signed.search_descent(x, top, scale, codes)
    return scale.reshape(-1)[: len(groups)], codes


def search_unsigned(values: F32, weight: F32, top: int) -> tuple[F32, U8]:
    """Search D: one scale for each row of `values` (m, n), weighted by (m, n), and codes 0..top uint8 (m, n)."""
    from quantkit.qtypes.search import unsigned

    m, n = values.shape
    x, w = in_tiles(values, n, m), in_tiles(weight, n, m)
    codes = np.empty_like(x)
    scale = np.empty((len(x), x.shape[2]), np.float32)
    unsigned.search_unsigned(x, w, top, scale, codes)
    flat = codes.swapaxes(1, 2).reshape(-1, n)[:m]
    return scale.reshape(-1)[:m], flat.astype(np.uint8)


def search_levels(tiles: Tiles, levels: F32) -> F32:
    """Scales (count,) of groups whose codes index ascending `levels`."""
    from quantkit.qtypes.search import codebook

    scale = np.empty((len(tiles.x), tiles.x.shape[2]), np.float32)
    codebook.search_levels(tiles.x, tiles.weight, levels, middles(levels), scale)
    return scale.reshape(-1)[: tiles.count]


def middles(levels: F32) -> F32:
    """Half-way points between ascending levels (k,), (k - 1,): from one on, the upper level is nearest."""
    return (levels[1:] + levels[:-1]) / np.float32(2)


def nearest_levels(groups: F32, inverse: F32, levels: F32) -> Codes:
    """Index int16 (m, n) of the level nearest to inverse * x, for groups (m, n) and inverse scales (m,)."""
    from quantkit.qtypes.search import codebook

    codes = np.empty(groups.shape, np.int16)
    codebook.nearest_levels(groups, inverse, middles(levels), codes)
    return codes


def extremes(groups: F32) -> tuple[F32, F32, F32]:
    """Element of largest magnitude, minimum and maximum of groups (m, n), each (m,); the first of equals."""
    from quantkit.qtypes.search.tiles import group_extremes

    x = in_tiles(groups, groups.shape[1], len(groups))
    found = np.empty((3, len(x), x.shape[2]), np.float32)
    group_extremes(x, found)
    peak, minimum, maximum = found.reshape(3, -1)[:, : len(groups)]
    return peak, minimum, maximum


def proportional_codes(values: F32, top: int) -> tuple[F32, U8]:
    """Rows of `values` (m, n) as codes of largest / top: that unit (m,), and the codes' low bytes uint8 (m, n).

    A row without a positive value has unit 0 and codes 0. Negative values wrap around, as in the reference.
    """
    from quantkit.qtypes.search import rounding

    unit = np.empty(len(values), np.float32)
    codes = np.empty(values.shape, np.uint8)
    rounding.proportional_codes(values, top, unit, codes)
    return unit, codes


def signed_peaks(values: F32) -> F32:
    """The element of largest magnitude of each row (m, n), the first of equals; 0 where all are 0 or NaN."""
    from quantkit.qtypes.search import rounding

    peaks = np.empty(len(values), np.float32)
    rounding.signed_peaks(values, peaks)
    return peaks


def nearest_codes(values: F32, factor: F32, low: int, high: int) -> Codes:
    """clip(nearest(factor * value), low, high) as int16, for values (m, n) and factors (m,)."""
    from quantkit.qtypes.search import rounding

    codes = np.empty(values.shape, np.int16)
    rounding.nearest_codes(values, factor, low, high, codes)
    return codes


def inverse(values: F32) -> F32:
    """1 / value, and 0 where the value is 0; infinite where float32 has no number that large."""
    with np.errstate(all="ignore"):
        return np.divide(np.float32(1), values, out=np.zeros_like(values), where=values != 0)


def with_weights(values: F32, weight: F32) -> Tiles:
    """Tiles of rows `values` (m, n) whose weights (m, n) are given: the scales of a block, searched in turn."""
    m, n = values.shape
    return Tiles(in_tiles(values, n, m), in_tiles(weight, n, m), np.empty(0, np.float32), m)


def groups_of(tiles: F32, which: NDArray[np.intp]) -> F32:
    """Some groups (k, n), by number, of tiles (tiles, n, WIDTH)."""
    width = tiles.shape[2]
    return tiles[which // width, :, which % width]


def truncated_codes(groups: F32, origin: F32, inverse: F32, shift: float, limits: tuple[int, int]) -> Codes:
    """min(trunc((x - origin) * inverse + shift) + low, high) as int16 (m, n), limits = (low, high)."""
    from quantkit.qtypes.search import rounding

    codes = np.empty(groups.shape, np.int16)
    rounding.truncate(groups, origin, inverse, np.float32(shift), *limits, codes)
    return codes
