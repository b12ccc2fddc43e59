"""Scales and offsets of a type's blocks moved once codes are chosen, as far as the loss falls.

With the codes held, the weights that a group decodes to are linear in its scale and its offset, so that the loss is a
quadratic in both: its lowest point has a closed form. Integer counts take the best of the whole numbers around it,
float16 units are rounded, and a row keeps what it has where that is not better. The counts of a block come first, group
by group, then its units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from quantkit.methods.base import Indices
from quantkit.qtypes.base import Grid
from quantkit.qtypes.search.blocks import half
from quantkit.qtypes.search.units import Ladder, Units
from quantkit.tensors import F32

AROUND = (-1.0, 0.0, 1.0)  # counts of the scale that are tried around the lowest point
LARGEST_CHANGE = 2.0  # of a unit in one step: the quadratic is only as good as the codes
APART = 1e-4  # of the product of two curves: less, and the two directions cannot be told apart


@dataclass(frozen=True)
class Segment:
    """Columns of some rows from `start` on: rounded weights and slope (w - q) H, (rows, n), and their block of H.

    The first two are changed in place.
    """

    start: int
    values: F32
    slope: F32
    hessian: F32

    def move(self, columns: slice, change: F32) -> None:
        """Add `change` (rows, width) to the weights of some columns."""
        self.values[:, columns] += change
        self.slope[:] -= _product(change, self.hessian[columns])


def owned(grid: Grid) -> Grid:
    """A grid whose arrays may be changed in place."""
    return replace(
        grid,
        scale=grid.scale.copy(),
        offset=None if grid.offset is None else grid.offset.copy(),
        fields={key: values.copy() for key, values in grid.fields.items()},
    )


def refit(units: Units, grid: Grid, span: int, levels: F32, segment: Segment) -> F32:
    """Change the scales of the blocks in a segment, in place; what each row gained, (rows,).

    `grid` is that of all blocks of the rows, each of `span` columns; `levels` (rows, n) is what its scales are
    multiplied with: codes, or entries of a codebook. The segment holds whole blocks.
    """
    rows, n = levels.shape
    gained = np.zeros(rows, np.float32)
    for first in range(0, n, span):
        entries = np.arange(rows) * (len(grid.scale) // rows) + (segment.start + first) // span
        gained += _Block(units, grid, entries, slice(first, first + span), levels, segment).refit()
    return gained


@dataclass(frozen=True)
class _Block:
    """One block of every row: its entries in the grid (rows,), its columns in the segment."""

    units: Units
    grid: Grid
    entries: Indices
    columns: slice
    levels: F32
    segment: Segment

    def refit(self) -> F32:
        gained = np.zeros(len(self.entries), np.float32)
        if self.units.scale.count:
            for group in range(self.grid.scale.shape[1]):
                gained += self._counts(group)
        return gained + self._units()

    def _counts(self, group: int) -> F32:
        """Move a group's count of the scale, and that of the offset with it."""
        width = self.levels[:, self.columns].shape[1] // self.grid.scale.shape[1]
        first = self.columns.start + group * width
        columns = slice(first, first + width)
        scale, offset = self.units.scale, self.units.offset
        along = self.levels[:, columns] * self._unit(scale)[:, None]
        beside = np.zeros_like(along) if offset is None else np.repeat(self._unit(offset)[:, None], width, axis=1)
        loss = _quadratic(self.segment, columns, along, beside)
        counts, others = self._counts_of(scale)[:, group], None if offset is None else self._counts_of(offset)[:, group]
        lowest = np.rint(loss.lowest())
        best, steps = np.zeros(len(counts), np.float32), np.zeros((2, len(counts)), np.float32)
        for around in AROUND:
            step = np.clip(lowest + np.float32(around), scale.low - counts, scale.high - counts)
            other = np.zeros_like(step)
            if offset is not None and others is not None:
                other = np.clip(np.rint(loss.second(step)), offset.low - others, offset.high - others)
            gain = loss.gain(step, other)
            better = gain > best
            best = np.where(better, gain, best)
            steps = np.where(better, np.stack([step, other]), steps)
        self._store(scale, group, counts + steps[0])
        if offset is not None and others is not None:
            self._store(offset, group, others + steps[1])
        self._decode(slice(group, group + 1), columns)
        return best

    def _units(self) -> F32:
        """Move the units of the scales and of the offsets, together."""
        scale, offset = self.units.scale, self.units.offset
        levels = self.levels[:, self.columns]
        width = levels.shape[1] // self.grid.scale.shape[1]
        along = levels * self._per_column(scale, width)
        beside = np.zeros_like(along) if offset is None else self._per_column(offset, width)
        loss = _quadratic(self.segment, self.columns, along, beside)
        old = self._stored(scale)
        limits = np.sort(np.stack([old / LARGEST_CHANGE, old * LARGEST_CHANGE]), axis=0)
        new = half(np.clip(old + loss.lowest(), *limits))
        step = new.astype(np.float32) - old
        moved, beside_step = {scale.unit: new}, np.zeros_like(step)
        if offset is not None:
            other = half(self._stored(offset) + loss.second(step))
            beside_step = other.astype(np.float32) - self._stored(offset)
            moved[offset.unit] = other
        gain = loss.gain(step, beside_step)
        better = gain > 0
        for name, found in moved.items():
            field = self.grid.fields[name]
            field[self.entries] = np.where(better, found, field[self.entries])
        self._decode(slice(None), self.columns)
        return np.where(better, gain, np.float32(0))

    def _stored(self, ladder: Ladder) -> F32:
        """The unit as it is stored, (rows,)."""
        unit: F32 = self.grid.fields[ladder.unit][self.entries].astype(np.float32)
        return unit

    def _per_column(self, ladder: Ladder, width: int) -> F32:
        """How a change of the unit shows in every column, (rows, columns of the block)."""
        return np.repeat(self._counts_of(ladder) * np.float32(ladder.sign), width, axis=1)

    def _unit(self, ladder: Ladder) -> F32:
        """What a count of one is worth, with its sign, (rows,)."""
        return self._stored(ladder) * np.float32(ladder.sign)

    def _counts_of(self, ladder: Ladder) -> F32:
        """(rows, groups)"""
        if not ladder.count:
            return np.ones((len(self.entries), 1), np.float32)
        counts: F32 = self.grid.fields[ladder.count][self.entries].astype(np.float32)
        return counts

    def _store(self, ladder: Ladder, group: int, counts: F32) -> None:
        field = self.grid.fields[ladder.count]
        field[self.entries, group] = counts.astype(field.dtype)

    def _decode(self, groups: slice, columns: slice) -> None:
        """Write scales and offsets as decoding computes them, and move the weights to where they decode to."""
        grid, units = self.grid, self.units
        grid.scale[self.entries, groups] = self._unit(units.scale)[:, None] * self._counts_of(units.scale)[:, groups]
        if units.offset is not None and grid.offset is not None:
            grid.offset[self.entries, groups] = (
                self._unit(units.offset)[:, None] * self._counts_of(units.offset)[:, groups]
            )
        scale, levels = grid.scale[self.entries, groups], self.levels[:, columns]
        width = levels.shape[1] // scale.shape[1]
        values = levels * np.repeat(scale, width, axis=1)
        if grid.offset is not None:
            values += np.repeat(grid.offset[self.entries, groups], width, axis=1)
        self.segment.move(columns, values - self.segment.values[:, columns])


@dataclass(frozen=True)
class _Quadratic:
    """What a step (s, o) along two directions gains a row: 2 (s a + o b) - (s s A + 2 s o C + o o B), each (rows,)."""

    a: F32
    b: F32
    curve_a: F32
    curve_b: F32
    cross: F32

    def gain(self, s: F32, o: F32) -> F32:
        curve = s * s * self.curve_a + 2 * s * o * self.cross + o * o * self.curve_b
        found: F32 = 2 * (s * self.a + o * self.b) - curve
        return found

    def lowest(self) -> F32:
        """The step along the first direction where the gain is largest, the second following it."""
        product = self.curve_a * self.curve_b
        determinant = product - self.cross * self.cross
        apart = determinant > np.float32(APART) * product
        both = _ratio(self.a * self.curve_b - self.b * self.cross, np.where(apart, determinant, np.float32(0)))
        found: F32 = np.where(apart, both, _ratio(self.a, self.curve_a))
        return found

    def second(self, s: F32) -> F32:
        """The best step along the second direction after s along the first."""
        return _ratio(self.b - s * self.cross, self.curve_b)


def _quadratic(segment: Segment, columns: slice, along: F32, beside: F32) -> _Quadratic:
    own = segment.hessian[columns, columns]
    slope = segment.slope[:, columns]
    mixed, other = _product(along, own), _product(beside, own)

    def dot(x: F32, y: F32) -> F32:
        found: F32 = (x * y).sum(axis=1)
        return found

    return _Quadratic(dot(slope, along), dot(slope, beside), dot(mixed, along), dot(other, beside), dot(mixed, beside))


def _ratio(x: F32, y: F32) -> F32:
    found: F32 = np.divide(x, y, out=np.zeros_like(x), where=y > 0)
    return found


def _product(x: F32, y: F32) -> F32:
    """x @ y on torch's thread: numpy's products would use threads of their own."""
    found: F32 = (torch.from_numpy(np.ascontiguousarray(x)) @ torch.from_numpy(np.ascontiguousarray(y))).numpy()
    return found
