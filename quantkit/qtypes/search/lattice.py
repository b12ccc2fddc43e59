"""Types that store small vectors of weights as numbers of points: IQ1, IQ2 and IQ3 of ggml.

A lattice is a chosen set of vectors of 4 or 8 levels. An encoder rounds every weight to its level; where the vector is
not in the set, the best of the points around it takes its place. `lattice_points.py` has the sets, `lattice_loops.py`
the compiled search for types with a scale and signs (IQ2, IQ3), `ternary.py` that of IQ1.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from quantkit.qtypes.search import entries
from quantkit.qtypes.search.groups import NEAR
from quantkit.qtypes.search.lattice_points import POINTS
from quantkit.records import record
from quantkit.tensors import F32, U8

I32 = NDArray[np.int32]
U16 = NDArray[np.uint16]


@record
class Lattice:
    """A set of vectors of levels 0..top - 1.

    `points` uint8 (m, dims). A vector v is looked up at key = sum(v[i] << bits * i): `number` (keys,) has the number
    of its point, or -1 - s for a vector outside the set. Its slot s leads to the points nearby, at `starts[s]` to
    `starts[s + 1]` of `near` (their numbers), nearest first, then by number; the first one fills up to NEAR.
    """

    top: int
    bits: int
    points: U8
    number: I32
    starts: I32
    near: U16

    @property
    def dims(self) -> int:
        return int(self.points.shape[1])

    @cached_property
    def tables(self) -> tuple[I32, I32, U16, F32, F32]:
        """What compiled loops take: number, starts, near, and the half-steps 2 * level + 1 of points.

        Those in `near` are (entries // NEAR, dims, NEAR), all of them (m, dims).
        """
        halves = self.points * np.float32(2) + np.float32(1)
        near = halves[self.near].reshape(-1, NEAR, self.dims).swapaxes(1, 2)
        return self.number, self.starts, self.near, np.ascontiguousarray(near), halves


@cache
def points(name: str) -> U8:
    """The points of the set called `name`, uint8 (m, dims) levels, in the order of their numbers."""
    top, dims, text = POINTS[name]
    packed = np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8)
    sums = np.flatnonzero(np.unpackbits(packed, bitorder="little", count=top**dims))
    levels = (sums[:, None] // top ** np.arange(dims) % top).astype(np.uint8)
    levels.flags.writeable = False
    return levels


@cache
def lattice(name: str, rings: int) -> Lattice:
    """The set called `name`; near a vector outside are all points at the `rings` smallest distances that occur.

    Takes a tenth of a second and a few megabytes at most (iq2xs_init_impl, iq3xs_init_impl of ggml-quants.c).
    """
    levels = points(name)
    dims, top = levels.shape[1], POINTS[name][0]
    bits = 2 if top == 3 else 3
    number = np.zeros(1 << bits * dims, np.int32)
    number[keys(levels, bits)] = np.arange(1, len(levels) + 1)
    every = np.stack([column.reshape(-1) for column in np.meshgrid(*[np.arange(top)] * dims)], axis=1).astype(np.uint8)
    outside = every[number[keys(every, bits)] == 0]
    number -= 1
    number[keys(outside, bits)] = -1 - np.arange(len(outside))
    starts = np.zeros(len(outside) + 1, np.int32)
    entries.neighbours(levels, outside, rings, starts, np.empty(0, np.uint16))
    starts = np.cumsum(-(-starts // NEAR) * NEAR, dtype=np.int32)
    near = np.empty(starts[-1], np.uint16)
    entries.neighbours(levels, outside, rings, starts, near)
    return Lattice(top, bits, levels, number, starts, near)


def keys(levels: U8, bits: int) -> NDArray[np.int64]:
    """Where vectors of levels (m, dims) are looked up, (m,)."""
    shifted: NDArray[np.int64] = levels.astype(np.int64) << bits * np.arange(levels.shape[1])
    return np.asarray(shifted.sum(axis=1), np.int64)


def nearest_points(found: Lattice, levels: U8, values: Sequence[float]) -> U16:
    """Numbers (m,) of the points nearest to vectors of levels (m, dims); level l has the value values[l]."""
    numbers = found.number[keys(levels, found.bits)]
    scale = np.array(values, np.float32)
    targets = scale[found.points]
    for i in np.flatnonzero(numbers < 0):
        numbers[i] = np.square(targets - scale[levels[i]]).sum(axis=1).argmin()
    return numbers.astype(np.uint16)
