"""Groups of weights as a scale search takes them: how they are weighted, the steps it tries, what it finds."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from quantkit.records import record
from quantkit.tensors import F32

WIDTH = 32  # groups side by side
SWEPT = 64  # groups that are swept at once
SUPER = 256  # codes of a super-block: no other has planes of 32 bytes and more


class Weighting(IntEnum):
    """How much the error of a weight x counts in a search; qw is its importance."""

    SQUARE = 0  # x*x
    MAGNITUDE = 1  # |x|
    RMS_MAGNITUDE = 2  # root mean square of the group + |x|
    IMPORTANCE = 3  # qw * sqrt(sigma2 + x*x)
    PURE_IMPORTANCE = 4  # qw
    SPREAD_SQUARE = 5  # sigma2 / 4 + x*x


class Redo(IntEnum):
    """Which vectors of a group are rounded to points of a lattice once more, to the best scale that was found."""

    THOSE_OUTSIDE = 0  # that were not in the set
    ALL_IF_OUTSIDE = 1  # all, where one was not in the set
    ALL = 2


@record
class Groups:
    """Groups of weights x (m, n), and how their errors count.

    `importance` is flat and starts over where it ends, as rows of a matrix do; `sigma2` (m,). Either is needed
    only where `how` uses it.
    """

    x: F32
    how: Weighting
    importance: F32 | None = None
    sigma2: F32 | None = None


@record
class Steps:
    """The candidates of an offset search: (first + size * k + top) / range for k = 0..last."""

    first: float
    size: float
    last: int


@record
class OffsetScales:
    """What an offset search finds for every group, each (count,).

    A group's values are scale * code + minimum, minimum <= 0. The codes of the search itself are
    clip(nearest(iscale * (x - origin)), 0, top); iscale 0 marks a group whose codes are all 0. `sums` are sums of
    weights.
    """

    scale: F32
    minimum: F32
    iscale: F32
    origin: F32
    sums: F32


def frozen(array: F32) -> F32:
    """A read-only view: compiled loops take their sources read-only, whatever the caller has."""
    view = array.view()
    view.flags.writeable = False
    return view


def whole_numbers(low: int, high: int) -> F32:
    """All levels from `low` to `high`, as searches take them: the ends alone."""
    return np.array([low, high], np.float32)


def lanes(groups: int, width: int = WIDTH) -> int:
    """Lanes of the tiles of `width` that hold so many groups."""
    return -(-groups // width) * width


NEAR = 8  # points of a lattice that are compared at once

MAGNITUDE = int(Weighting.MAGNITUDE)

RMS_MAGNITUDE = int(Weighting.RMS_MAGNITUDE)

IMPORTANCE = int(Weighting.IMPORTANCE)

PURE_IMPORTANCE = int(Weighting.PURE_IMPORTANCE)
