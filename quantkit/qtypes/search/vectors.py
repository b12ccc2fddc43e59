"""Types that choose the codes of neighbouring columns together, as the searches with feedback read them."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from quantkit.qtypes.search.lattice import points
from quantkit.records import record
from quantkit.tensors import F32

RUN = 8  # columns whose signs are chosen together
LANES = 16  # points that are looked at together


@record
class Vectors:
    """The vectors of levels that a type can store for its columns, `dims` of them at a time.

    `name` is that of the set of points, `magnitudes` the value of each level. A code counts values in ascending order:
    magnitude l is code top + l, its negative top - 1 - l, with top = len(magnitudes). With `parity` an even number of
    each RUN of signs is negative.
    """

    name: str
    magnitudes: tuple[int, ...]
    parity: bool

    @property
    def dims(self) -> int:
        """Columns of one vector, a divisor of RUN."""
        return int(points(self.name).shape[1])

    @property
    def tables(self) -> tuple[F32, NDArray[np.int16], bool]:
        """What compiled loops take: the points' magnitudes (dims, m), m a multiple of LANES, their levels (m, dims),
        and `parity`. The first point fills up what is missing."""
        return (*_tables(self.name, self.magnitudes), self.parity)


@cache
def _tables(name: str, magnitudes: tuple[int, ...]) -> tuple[F32, NDArray[np.int16]]:
    levels = points(name)
    missing = -len(levels) % LANES
    levels = np.concatenate([levels, np.repeat(levels[:1], missing, axis=0)])
    values = np.array(magnitudes, np.float32)[levels]
    return np.ascontiguousarray(values.T), levels.astype(np.int16)
