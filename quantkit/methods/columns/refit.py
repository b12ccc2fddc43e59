"""Scales and offsets of a type's blocks moved once codes are chosen, as far as the loss falls.

With the codes held, the weights that a group decodes to are linear in its scale and its offset, so that the loss is a
quadratic in both: its lowest point has a closed form. Integer counts take the best of the whole numbers around it,
float16 units are rounded, and a row keeps what it has where that is not better. The counts of a segment come first,
group by group, then its units. The loops are in qtypes/search/refitting.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from quantkit.qtypes.base import Grid
from quantkit.qtypes.search import entries
from quantkit.qtypes.search.units import Ladder, Units
from quantkit.records import record
from quantkit.tensors import F32


@record
class Segment:
    """Columns of some rows from `start` on: what their scales are multiplied with (codes, or entries of a codebook)
    and the slope (w - q) H, both (rows, n), and their block of H.

    The first two are changed in place.
    """

    start: int
    levels: F32
    slope: F32
    hessian: F32


def owned(grid: Grid) -> Grid:
    """A grid whose arrays may be changed in place."""
    return replace(
        grid,
        scale=grid.scale.copy(),
        offset=None if grid.offset is None else grid.offset.copy(),
        fields={key: values.copy() for key, values in grid.fields.items()},
    )


def refit(units: Units, grid: Grid, span: int, segment: Segment) -> F32:
    """Change the scales of the blocks in a segment, in place, and its slope; what each row gained, (rows,).

    `grid` is that of all blocks of the rows, each of `span` columns. The segment holds whole blocks.
    """
    return _Refit(units, grid, span, segment).run()


class _Refit:
    """The units and counts of a segment's blocks, float32 (rows, blocks) and (rows, groups); (rows, 0) for none."""

    def __init__(self, units: Units, grid: Grid, span: int, segment: Segment) -> None:
        rows, n = segment.levels.shape
        self.units, self.grid, self.segment = units, grid, segment
        self.blocks = slice(segment.start // span, (segment.start + n) // span)
        self.groups = grid.scale.shape[1]
        self.width = span // self.groups
        self.unit, self.count = self._ladder(units.scale)
        self.other_unit, self.other_count = (
            self._ladder(units.offset) if units.offset else (np.zeros((rows, 0), np.float32),) * 2
        )
        # what a count of one is worth, in units
        self.factors = np.float32(units.scale.factor), np.float32(units.offset.factor if units.offset else 1)

    def run(self) -> F32:
        segment, gained = self.segment, np.zeros(len(self.segment.levels), np.float32)
        rows, n = segment.levels.shape
        sums = segment.hessian.reshape(-1, self.width, n).sum(axis=1)
        factor, other_factor = self.factors
        if self.units.scale.count:
            squares = sums.reshape(len(sums), -1, self.width).sum(axis=2).diagonal()
            entries.refit_counts(
                segment.levels, segment.slope, segment.hessian, np.ascontiguousarray(squares), self.unit * factor,
                self.other_unit * other_factor, self.count, self.other_count, self._limits(), gained,
            )  # fmt: skip
        along = segment.levels * np.repeat(self.count * factor, self.width, axis=1)
        by_block = torch.from_numpy(along).reshape(rows, self.unit.shape[1], -1).transpose(0, 1)
        # torch: numpy's products would use threads of their own
        mixed = by_block @ torch.from_numpy(segment.hessian).reshape(self.unit.shape[1], -1, n)
        entries.refit_units(
            along,
            mixed.numpy(),
            segment.slope,
            sums,
            self.unit,
            self.other_unit,
            self.other_count * other_factor,
            gained,
        )
        self._store()
        return gained

    def _limits(self) -> tuple[np.float32, ...]:
        scale, offset = self.units.scale, self.units.offset or Ladder("")
        return tuple(np.float32(limit) for limit in (scale.low, scale.high, offset.low, offset.high))

    def _of_blocks(self, name: str) -> np.ndarray:
        """A view of a field: the entries of the segment's blocks, (rows, blocks, ...)."""
        values = self.grid.fields[name]
        return values.reshape(len(self.segment.levels), -1, *values.shape[1:])[:, self.blocks]

    def _ladder(self, ladder: Ladder) -> tuple[F32, F32]:
        unit = self._of_blocks(ladder.unit).astype(np.float32)
        rows, blocks = unit.shape
        count = np.ones((rows, blocks * self.groups), np.float32)
        if ladder.count:
            count[:] = self._of_blocks(ladder.count).reshape(rows, -1)
        return unit, count

    def _store(self) -> None:
        """Write units, counts, and the scales and offsets that decoding computes of them."""
        grid = self.grid
        found = [(self.units.scale, self.unit, self.count, grid.scale, self.factors[0])]
        if self.units.offset is not None and grid.offset is not None:
            found.append((self.units.offset, self.other_unit, self.other_count, grid.offset, self.factors[1]))
        for ladder, unit, count, decoded, factor in found:
            counts = count.reshape(*unit.shape, -1)
            self._of_blocks(ladder.unit)[:] = unit
            if ladder.count:
                self._of_blocks(ladder.count)[:] = counts
            whole = decoded.reshape(len(unit), -1, decoded.shape[1])
            whole[:, self.blocks] = (unit * factor)[:, :, None] * counts
