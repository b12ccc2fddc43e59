"""Blocks whose weights lie on a grid already: the scale and the codes that give them back.

A block lies on the grid of levels L and a scale d where every weight is d * L[c], rounded to the type in which the
source stores it. The largest weight belongs to some level, which gives d up to that rounding; for every such level the
others have one nearest level each, and each narrows the interval of d. A scale of the interval that the type can store
is an answer. Scales are tried from the coarsest on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from quantkit.qtypes.kept import kept
from quantkit.tensors import F32

F64 = NDArray[np.float64]
I16 = NDArray[np.int16]


@dataclass(frozen=True)
class Floats:
    """Positive numbers that a scale can be: `digits` bits of mantissa, exponents from `lowest` on, up to `largest`.

    With `signed` also their opposites.
    """

    digits: int
    lowest: int
    largest: float
    signed: bool = False


F16 = Floats(10, -14, 65504.0, signed=True)
E8M0 = Floats(0, -127, 2.0**127)
E4M3 = Floats(3, -6, 448.0)

# Bits of mantissa of the types in which sources store weights, and their smallest normal exponent.
SOURCES = {"BF16": (7, -126), "F16": (10, -14), "F32": (23, -126)}


def find_grids(blocks: F32, levels: F64, scales: Floats, source: str) -> tuple[I16, F64, NDArray[np.bool_]]:
    """For blocks (n, size) on the grid of `levels` (in rising order): places of levels (n, size), scales (n,), and
    whether there is one (n,).

    `source` is the type whose rounding is allowed for; whoever packs the result decodes it and compares. A block of
    zeros has the scale 0 where a level is 0.
    """
    places = np.zeros(blocks.shape, np.int16)
    scale = np.zeros(len(blocks), np.float64)
    found = np.zeros(len(blocks), np.uint8)
    numbers = np.ascontiguousarray(levels, np.float64)
    # the levels in the order in which the largest weight is tried on them: small ones make coarse grids
    order = np.argsort(np.abs(numbers), kind="stable").astype(np.int64)
    kind = np.array([scales.digits, scales.lowest, *SOURCES[source]], np.int64)
    _find(blocks, numbers, order, kind, np.array([scales.largest, scales.signed], np.float64), places, scale, found)
    return places, scale, found.astype(np.bool_)


@kept(error_model="numpy")
def _find(
    blocks: F32,
    levels: F64,
    order: NDArray[np.int64],
    kind: NDArray[np.int64],
    limits: F64,
    places: I16,
    scale: F64,
    found: NDArray[np.uint8],
) -> None:
    """Fill what `find_grids` returns."""
    size = blocks.shape[1]
    even = levels.shape[0] > 1
    for k in range(levels.shape[0] - 1):
        even = even and levels[k + 1] - levels[k] == 1.0
    weights, halves = np.empty(size, np.float64), np.empty(size, np.float64)
    for i in range(blocks.shape[0]):
        largest = smallest = 0
        for j in range(size):
            weights[j] = blocks[i, j]
            # half a step of the source's type
            halves[j] = math.ldexp(1.0, max(math.frexp(weights[j])[1] - 1, kind[3]) - kind[2] - 1)
            largest = j if abs(weights[j]) > abs(weights[largest]) else largest
            if weights[j] != 0.0 and (weights[smallest] == 0.0 or abs(weights[j]) < abs(weights[smallest])):
                smallest = j
        if weights[largest] == 0.0:
            place = _nearest(levels, 0.0, even)
            places[i, :] = place
            found[i] = levels[place] == 0.0
            continue
        for number in order:
            if levels[number] == 0.0:
                continue
            near = weights[largest] / levels[number]
            if near < 0.0 and limits[1] == 0.0:
                continue
            # The smallest weight tells most: its level is known best. Few grids that are none pass it.
            level = levels[_nearest(levels, weights[smallest] / near, even)]
            apart = abs(weights[smallest] - level * near)
            if apart > halves[smallest] + abs(level / levels[number]) * halves[largest]:
                continue
            low, high = _interval(weights, halves, levels, near, places[i], even)
            stored = _stored(low, high, kind, limits[0])
            stored = stored if near > 0.0 else -stored
            if stored != 0.0 and _gives(weights, levels, stored, kind, places[i]):
                scale[i] = stored
                found[i] = 1
                break


@njit(nogil=True)
def _interval(
    weights: F64, halves: F64, levels: F64, near: np.float64, places: I16, even: np.bool_
) -> tuple[np.float64, np.float64]:
    """The magnitudes of scales near `near` for which every weight is its nearest level; nothing where low > high.

    What is known so far of the scale decides which level the next weight belongs to.
    """
    low, high = np.float64(0), np.inf
    for j in range(weights.shape[0]):
        x = weights[j]
        place = _nearest(levels, x / near, even)
        places[j] = place
        level = levels[place]
        if x == 0.0 and level == 0.0:
            continue
        if x == 0.0 or level == 0.0 or x / level * near < 0.0:
            return np.float64(1), np.float64(0)
        low = max(low, (abs(x) - halves[j]) / abs(level))
        high = min(high, (abs(x) + halves[j]) / abs(level))
        if low > high:
            return np.float64(1), np.float64(0)
        near = (low + high) / 2 if near > 0.0 else -(low + high) / 2
    return low, high


@njit(nogil=True)
def _nearest(levels: F64, x: np.float64, even: np.bool_) -> int:
    """The place of the level nearest to x; levels of an `even` grid are a step of 1 apart."""
    last = levels.shape[0] - 1
    if even:
        return int(min(max(np.rint(x - levels[0]), 0), last))
    place = np.searchsorted(levels, x)
    if place > last:
        return last
    if place > 0 and x - levels[place - 1] < levels[place] - x:
        return place - 1
    return place


@njit(nogil=True)
def _stored(low: np.float64, high: np.float64, kind: NDArray[np.int64], largest: np.float64) -> np.float64:
    """A number of a float type in [low, high], the middle one of those that are tried; 0 where there is none."""
    if low > high or high <= 0.0:
        return np.float64(0)
    middle = (low + high) / 2
    step = math.ldexp(1.0, max(math.frexp(middle)[1] - 1, kind[1]) - kind[0])
    for candidate in (np.rint(middle / step) * step, math.ceil(low / step) * step, math.floor(high / step) * step):
        if low <= candidate <= high and 0.0 < candidate <= largest:
            return candidate
    return np.float64(0)


@njit(nogil=True)
def _gives(weights: F64, levels: F64, scale: np.float64, kind: NDArray[np.int64], places: I16) -> bool:
    """Whether levels times the scale are the weights, rounded to the source's type, half to even."""
    for j in range(weights.shape[0]):
        value = levels[places[j]] * scale
        step = math.ldexp(1.0, max(math.frexp(value)[1] - 1, kind[3]) - kind[2])
        if np.rint(value / step) * step != weights[j]:
            return False
    return True
