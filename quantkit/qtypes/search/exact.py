"""Blocks whose weights lie on a grid already: the scale and the codes that give them back.

A block lies on the grid of levels L and a scale d where every weight is d * L[c], rounded to the type in which the
source stores it. The largest weight belongs to some level, which gives d up to that rounding; for every such level the
others have one nearest level each, and each narrows the interval of d. A scale of the interval that the type can store
is an answer. Scales are tried from the coarsest on.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quantkit.qtypes.kept import kept
from quantkit.qtypes.search.compilation import called
from quantkit.records import record
from quantkit.tensors import F32

F64 = NDArray[np.float64]
I16 = NDArray[np.int16]


@record
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
TRIED = 64  # scales of an interval
SURE = 32.0  # levels up to here are told apart by a scale that was found from a rounded weight
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


@kept
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
    even = True
    for k in range(levels.shape[0] - 1):
        even = even and levels[k + 1] - levels[k] == 1.0
    weights, halves = np.empty(blocks.shape[1], np.float64), np.empty(blocks.shape[1], np.float64)
    for i in range(blocks.shape[0]):
        largest, smallest = _prepare(blocks[i], weights, halves, kind)
        if weights[largest] == 0.0:
            place = _nearest(levels, 0.0, even)
            places[i, :] = place
            found[i] = levels[place] == 0.0
            continue
        for number in order:
            level = levels[number]
            near = weights[largest] / level if level != 0.0 else 0.0
            if near == 0.0 or (near < 0.0 and limits[1] == 0.0):
                continue
            # The smallest weight tells most: its level is known best. Few grids that are none pass it.
            other = levels[_nearest(levels, weights[smallest] / near, even)]
            apart = abs(weights[smallest] - other * near)
            if apart > halves[smallest] + abs(other / level) * halves[largest]:
                continue
            scale[i] = _scale(weights, halves, levels, near, kind, limits[0], places[i], even)
            if scale[i] != 0.0:
                found[i] = 1
                break


@called
def _prepare(block: F32, weights: F64, halves: F64, kind: NDArray[np.int64]) -> tuple[int, int]:
    """Fill the weights and half a step of the source's type at each; the places of the largest, and of the smallest
    that is no zero."""
    largest = smallest = 0
    for j in range(block.shape[0]):
        weights[j] = block[j]
        halves[j] = math.ldexp(1.0, max(math.frexp(weights[j])[1] - 1, kind[3]) - kind[2] - 1)
        if abs(weights[j]) > abs(weights[largest]):
            largest = j
        if weights[j] != 0.0 and (weights[smallest] == 0.0 or abs(weights[j]) < abs(weights[smallest])):
            smallest = j
    return largest, smallest


@called
def _scale(
    weights: F64,
    halves: F64,
    levels: F64,
    near: float,
    kind: NDArray[np.int64],
    largest: float,
    places: I16,
    even: bool,
) -> float:
    """The scale near `near` that gives the weights, 0 where there is none that can be stored."""
    low, high = _interval(weights, halves, levels, near, places, even)
    if low > high:
        return 0.0
    step = math.ldexp(1.0, max(math.frexp(high)[1] - 1, kind[1]) - kind[0])
    first = math.ceil(low / step)
    for number in range(TRIED):
        stored: float = (first + number) * step
        if stored > high or stored > largest:
            return 0.0
        stored = stored if near > 0.0 else -stored
        if stored != 0.0 and _gives(weights, levels, stored, kind, places):
            return stored
    return 0.0


@called
def _interval(weights: F64, halves: F64, levels: F64, near: float, places: I16, even: bool) -> tuple[float, float]:
    """The magnitudes of scales near `near` for which every weight is its nearest level; nothing where low > high.

    What is known so far of the scale decides which level the next weight belongs to; small ones come first, whose
    levels are sure.
    """
    low, high, rough = 0.0, math.inf, near
    for turn in range(2):
        for j in range(weights.shape[0]):
            x = weights[j]
            if (abs(x / rough) > SURE) != (turn == 1):
                continue
            place = _nearest(levels, x / near, even)
            places[j] = place
            level = levels[place]
            if x == 0.0 and level == 0.0:
                continue
            if x == 0.0 or level == 0.0 or x / level * near < 0.0:
                return 1.0, 0.0
            low = max(low, (abs(x) - halves[j]) / abs(level))
            high = min(high, (abs(x) + halves[j]) / abs(level))
            if low > high:
                return 1.0, 0.0
            near = (low + high) / 2 if near > 0.0 else -(low + high) / 2
    return low, high


@called
def _nearest(levels: F64, x: float, even: bool) -> int:
    """The place of the level nearest to x; levels of an `even` grid are a step of 1 apart."""
    last = levels.shape[0] - 1
    if even:
        nearest: int = min(max(int(np.rint(x - levels[0])), 0), last)
        return nearest
    place = int(np.searchsorted(levels, x))
    if place > last:
        return int(last)
    if place > 0 and x - levels[place - 1] < levels[place] - x:
        return place - 1
    return place


@called
def _gives(weights: F64, levels: F64, scale: float, kind: NDArray[np.int64], places: I16) -> bool:
    """Whether levels times the scale are the weights, rounded to the source's type, half to even."""
    for j in range(weights.shape[0]):
        value = levels[places[j]] * scale
        step = math.ldexp(1.0, max(math.frexp(value)[1] - 1, kind[3]) - kind[2])
        if np.rint(value / step) * step != weights[j]:
            return False
    return True
