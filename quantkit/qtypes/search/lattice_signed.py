"""From super-blocks of 256 weights to points, signs and scales, for the types IQ2 and IQ3, and back to codes.

Code top + l is level l with a positive sign, top - 1 - l with a negative one: codes ascend with their values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantkit.qtypes.base import Codes, Grid
from quantkit.qtypes.search import entries, scales
from quantkit.qtypes.search.blocks import F16, half, widened
from quantkit.qtypes.search.groups import Redo, Weighting, frozen
from quantkit.qtypes.search.lattice import U16, Lattice, lattice, nearest_points
from quantkit.qtypes.search.lattice_types import BLOCK, Parts, odd_units, weighted_blocks
from quantkit.qtypes.search.units import Ladder, Units
from quantkit.qtypes.search.vectors import Vectors
from quantkit.records import record
from quantkit.tensors import F32, U8

SCALE_TOP = 15


@record
class Signed:
    """How one type searches its points, scales and signs.

    `points` and `rings` name the lattice. Each group of `group` weights has a scale, an odd multiple of `unit` * d.
    `magnitudes` are the levels. Candidates are `steps` on either side, `step` half-steps apart. A group whose peak is
    below `eps` counts as zero. `weighting` is that without importance; where it is IMPORTANCE, all columns then count
    alike. sigma2 of the weights is `sigma_factor` times the mean square of the super-block. With `parity` the eighth
    sign follows from seven that are stored. `fudge` times the unit found is stored. `fit_first`: the peak comes from
    the scale that suits codes 0..top. `closes_up`: the low bytes and signs of later groups take the place of a group
    that counts as zero.
    """

    points: str
    rings: int
    group: int
    magnitudes: tuple[int, ...]
    unit: float
    steps: int
    step: float
    eps: float
    weighting: Weighting
    sigma_factor: int
    redo: Redo
    parity: bool
    fudge: float = 1.0
    fit_first: bool = False
    closes_up: bool = False

    @property
    def lattice(self) -> Lattice:
        return lattice(self.points, self.rings)

    @property
    def vectors(self) -> Vectors:
        return Vectors(self.points, self.magnitudes, self.parity)

    @property
    def units(self) -> Units:
        """Scales are d times twice the unit times a whole number and a half, exactly: no product is rounded."""
        return Units(Ladder("d", "halves", low=0.5, high=SCALE_TOP + 0.5, factor=2 * self.unit))

    @property
    def levels(self) -> F32:
        """The value of each code in units of the scale of its group."""
        up = np.array(self.magnitudes, np.float32)
        return np.concatenate([-up[::-1], up])

    def search(self, rows: F32, importance: F32 | None) -> Parts:
        """The parts of rows (r, cols) of super-blocks."""
        weighted = weighted_blocks(rows, importance, self.weighting, self.sigma_factor)
        signs = np.empty((len(weighted.x), 32), np.uint8)
        magnitudes = np.empty_like(weighted.x)
        entries.magnitudes(frozen(weighted.x), weighted.weight, self.parity, magnitudes, signs)
        mask = 127 if self.parity else 255
        signs &= np.uint8(mask)
        group_signs = signs.reshape(-1, self.group // 8)
        x, weight = magnitudes.reshape(-1, self.group), weighted.weight.reshape(-1, self.group)
        peak, scale = _first_guess(x, weight, self)
        group_signs[peak == 0] = 0
        numbers = np.zeros((len(x), self.group // self.lattice.dims), np.uint16)
        settings = (self.lattice.top, self.lattice.bits, self.steps, int(self.redo), mask)
        tables = self.lattice.tables
        entries.search_points(x, weight, peak, scale, settings, np.float32(self.step), tables, group_signs, numbers)
        unit, sc = odd_units(scale.reshape(-1, BLOCK // self.group), SCALE_TOP)
        if self.closes_up:
            _close_up(numbers, group_signs, peak.reshape(sc.shape) == 0)
        numbers = numbers.reshape(len(unit), BLOCK // self.lattice.dims)
        if self.parity:  # zeros all over; the other types keep the points and signs of a block without scale
            numbers[unit == 0] = 0
            signs[unit == 0] = 0
        return Parts(numbers, signs, half(unit * np.float32(self.fudge)), sc)

    def grid(self, d: F16, sc: U8) -> Grid:
        """The grid of d (b,) and scale codes (b, groups)."""
        halves = sc.astype(np.float32) + np.float32(0.5)
        with np.errstate(invalid="ignore"):
            scale = widened(d)[:, None] * (halves * np.float32(2 * self.unit))
        levels = self.levels
        return Grid(scale, None, 0, len(levels) - 1, levels=levels, fields={"d": d, "halves": halves})

    def codes(self, parts: Parts) -> Codes:
        """The codes (b, 256) of stored points and signs."""
        level = self.lattice.points[parts.numbers].reshape(-1, BLOCK).astype(np.int16)
        negative = np.unpackbits(_eight_signs(parts.marks) if self.parity else parts.marks, axis=1, bitorder="little")
        top = np.int16(len(self.magnitudes))
        return np.where(negative, top - 1 - level, top + level).astype(np.int16)

    def parts(self, chosen: Codes, on: Grid) -> Parts:
        """The parts that store codes (b, 256) on their grid.

        A vector of codes that the type does not have gives way to the nearest one that it has.
        """
        top = len(self.magnitudes)
        negative = chosen < top
        level = np.where(negative, top - 1 - chosen, chosen - top).astype(np.uint8)
        if self.parity:
            runs, eight = level.reshape(-1, 8), negative.reshape(-1, 8)  # views
            odd = np.flatnonzero(eight.sum(axis=1) % 2)
            eight[odd, runs[odd].argmin(axis=1)] ^= True
        numbers = nearest_points(self.lattice, level.reshape(-1, self.lattice.dims), self.magnitudes)
        signs = np.packbits(negative, axis=1, bitorder="little") & np.uint8(127 if self.parity else 255)
        return Parts(
            numbers.reshape(len(chosen), BLOCK // self.lattice.dims),
            signs,
            on.fields["d"],
            on.fields["halves"].astype(np.uint8),  # the fraction goes
        )


def _close_up(numbers: U16, signs: U8, empty: NDArray[np.bool_]) -> None:
    """Where groups are `empty` (b, groups), move the following ones forward, but for the high bits of numbers."""
    order = np.argsort(empty, axis=1, kind="stable") + np.arange(len(empty))[:, None] * empty.shape[1]
    numbers[:] = numbers[order.reshape(-1)] & 255 | numbers & ~np.uint16(255)
    signs[:] = signs[order.reshape(-1)]


def _first_guess(x: F32, weight: F32, how: Signed) -> tuple[F32, F32]:
    """What the top level stands for and the scale to begin with, of groups (g, n), each (g,); peak 0 ends a search."""
    peak = x.max(axis=1)
    peak[peak < np.float32(how.eps)] = 0
    top = len(how.magnitudes)
    if not how.fit_first:
        return peak, peak / np.float32(2 * top - 1)
    scale, _ = scales.search_unsigned(x, weight, top + 1)
    scale[peak == 0] = 0
    peak = scale * np.float32(top)
    peak[peak <= 0] = 0
    scale[peak == 0] = 0
    return peak, scale


def _eight_signs(seven: U8) -> U8:
    """Seven signs with the eighth that makes their number even."""
    folded = seven ^ seven >> 4
    folded ^= folded >> 2
    folded ^= folded >> 1
    return (seven | (folded & 1) << 7).astype(np.uint8)
