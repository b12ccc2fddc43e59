"""Grids taken apart and put together: rows of one, the better of two, many spans as the grid of a matrix.

Arrays of a grid have one entry per block, so that all of this is indexing. A grid whose fields are shared by rows
belongs to a Target with span 0, and is never taken apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.qtypes.base import Grid
from quantkit.records import record
from quantkit.tensors import F32

Table = tuple[F32, F32, NDArray[np.int64], np.float32, np.float32, F32, F32, NDArray[np.int16]]

NONE = np.zeros(0, np.float32)


def mapped(grids: Sequence[Grid], combine: Callable[..., NDArray[Any]]) -> Grid:
    """The grid whose arrays are combine(arrays of the grids)."""
    first = grids[0]
    offsets = [grid.offset for grid in grids if grid.offset is not None]
    return replace(
        first,
        scale=combine(*(grid.scale for grid in grids)),
        offset=combine(*offsets) if offsets else None,
        fields={key: combine(*(grid.fields[key] for grid in grids)) for key in first.fields},
    )


def rows_of(grid: Grid, rows: int, part: slice) -> Grid:
    """Some rows of a grid of so many."""

    def cut(values: NDArray[Any]) -> NDArray[Any]:
        entries = len(values) // rows
        return values[part.start * entries : part.stop * entries]

    return mapped([grid], cut)


def choose(better: NDArray[np.bool_], a: Grid, b: Grid) -> Grid:
    """Entry by entry a where `better` (n,), else b."""

    def pick(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        return np.where(better.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return mapped([a, b], pick)


def joined(slabs: Sequence[Sequence[Grid]], *, by_row: bool) -> Grid:
    """The grid of a matrix from slabs of rows, each a list of the grids of its spans (entries: rows of the slab).

    With `by_row` the spans of a row lie side by side in one entry, otherwise every span is an entry.
    """

    def side_by_side(*spans: NDArray[Any]) -> NDArray[Any]:
        stacked = np.stack(spans, axis=1)  # (rows, spans, ...)
        rows, count = stacked.shape[:2]
        if by_row:
            return stacked.reshape(rows, count * stacked.shape[2])
        return stacked.reshape(rows * count, *stacked.shape[2:])

    return mapped([mapped(spans, side_by_side) for spans in slabs], lambda *rows: np.concatenate(rows))


@record
class Lookup:
    """A grid as the column sweep reads it: float32 scale and offset (rows, groups); offset (0, 0) without one."""

    scale: F32
    offset: F32
    low: np.float32
    high: np.float32
    middles: F32
    levels: F32
    codes: NDArray[np.int16]

    def rows(self, start: int, stop: int) -> Lookup:
        return replace(self, scale=self.scale[start:stop], offset=self.offset[start:stop])

    def columns(self, group: NDArray[np.int64]) -> Table:
        """The tuple that `sweep` takes, for columns that belong to these groups."""
        return (
            np.ascontiguousarray(self.scale),
            np.ascontiguousarray(self.offset),
            group,
            self.low,
            self.high,
            self.middles,
            self.levels,
            self.codes,
        )


def lookup(grid: Grid, rows: int) -> Lookup:
    """A grid of `rows` rows, however its entries count."""
    scale = grid.scale.reshape(rows, -1)
    offset = np.zeros((0, 0), np.float32) if grid.offset is None else grid.offset.reshape(rows, -1)
    low, high = np.float32(grid.qmin), np.float32(grid.qmax)
    if grid.levels is None:
        return Lookup(scale, offset, low, high, NONE, NONE, np.zeros(0, np.int16))
    levels, codes = np.unique(grid.levels[grid.qmin : grid.qmax + 1], return_index=True)
    middles = (levels[:-1] + levels[1:]) / np.float32(2)
    return Lookup(scale, offset, low, high, middles, levels, (codes + grid.qmin).astype(np.int16))
