"""From super-blocks of 256 weights to points, shifts and scales, for the types IQ1, and back to codes.

Code 2 * t + 1 is level t = 0, 1, 2 shifted up: t - 1 + 1/8, and code 2 * t is the level shifted down: codes ascend with
their values. The three codes of one shift are all that a group, or eight weights of it, can use.
"""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Codes, Grid
from quantkit.qtypes.search import entries
from quantkit.qtypes.search.blocks import F16, half, widened
from quantkit.qtypes.search.groups import Weighting, frozen
from quantkit.qtypes.search.lattice import Lattice, lattice, nearest_points
from quantkit.qtypes.search.lattice_types import BLOCK, Parts, odd_units, weighted_blocks
from quantkit.records import record
from quantkit.tensors import F32, U8

LEVELS = np.array([-1.125, -0.875, -0.125, 0.125, 0.875, 1.125], np.float32)
SCALE_TOP = 7
SIGMA_FACTOR = 2


@record
class Ternary:
    """How one type searches: groups of `group` weights with a scale, an odd multiple of d, below `eps` counted as zero.

    A shift holds for the group, or with `halves` for eight weights; then d is fitted to all points at the end.
    `weighting` is that without importance. `fudge` times the unit found is stored.
    """

    group: int
    eps: float
    weighting: Weighting
    halves: bool
    fudge: float
    units: None = None  # a shift is chosen with the points of eight or more columns: only by this search
    vectors: None = None

    @property
    def lattice(self) -> Lattice:
        return lattice("iq1_s", rings=3)

    def search(self, rows: F32, importance: F32 | None) -> Parts:
        """The parts of rows (r, cols) of super-blocks."""
        weighted = weighted_blocks(rows, importance, self.weighting, SIGMA_FACTOR)
        x, weight = frozen(weighted.x).reshape(-1, self.group), weighted.weight.reshape(-1, self.group)
        scale, shifts = np.zeros(len(x), np.float32), np.zeros((len(x), self.group // 8), np.uint8)
        numbers = np.zeros(shifts.shape, np.uint16)
        entries.search_ternary(
            x, weight, np.float32(self.eps), self.halves, self.lattice.tables, scale, shifts, numbers
        )
        per_block = BLOCK // self.group
        unit, sc = odd_units(scale.reshape(-1, per_block), SCALE_TOP)
        if self.halves:
            entries.best_units(x, weight, sc.reshape(-1), shifts, numbers, self.lattice.points, unit)
        marks = shifts.reshape(len(unit), 32)
        marks[unit == 0] = 0
        return Parts(numbers.reshape(len(unit), 32), marks, half(unit * np.float32(self.fudge)), sc)

    def grid(self, d: F16, sc: U8) -> Grid:
        """The grid of d (b,) and scale codes (b, groups)."""
        with np.errstate(invalid="ignore"):
            scale = widened(d)[:, None] * (2 * sc.astype(np.float32) + 1)
        return Grid(scale, None, 0, len(LEVELS) - 1, levels=LEVELS, fields={"d": d, "sc": sc})

    def codes(self, parts: Parts) -> Codes:
        """The codes (b, 256) of stored points and shifts."""
        level = self.lattice.points[parts.numbers].astype(np.int16)  # (b, 32, 8)
        return (2 * level + 1 - parts.marks[:, :, None]).reshape(-1, BLOCK).astype(np.int16)

    def parts(self, chosen: Codes, on: Grid) -> Parts:
        """The parts that store codes (b, 256) on their grid.

        The shift that most weights have is that of all; then vectors that are no points give way to the nearest.
        """
        shared = 8 if self.halves else self.group
        down = (chosen % 2 == 0).reshape(len(chosen), BLOCK // shared, shared).mean(axis=2) > 0.5
        numbers = nearest_points(self.lattice, (chosen // 2).astype(np.uint8).reshape(-1, 8), (-1, 0, 1))
        marks = np.repeat(down, shared // 8, axis=1).astype(np.uint8)
        return Parts(numbers.reshape(len(chosen), 32), marks, on.fields["d"], on.fields["sc"].astype(np.uint8))
