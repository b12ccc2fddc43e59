"""Columns rounded one after the other on a grid, and the grid of a few of them found by what rounding costs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from quantkit.methods.base import Indices
from quantkit.methods.columns.grids import Lookup, Table, choose, lookup
from quantkit.methods.settings import Settings
from quantkit.qtypes.base import Codes, Grid
from quantkit.qtypes.search import entries
from quantkit.qtypes.target import Target
from quantkit.records import record
from quantkit.tensors import F32

SEGMENT = 128  # columns swept at once

NO_MIXING = np.zeros((0, 0), np.float32)


@record
class Piece:
    """The columns of a span in visited order: weights and targets (rows, n), the weights with what makes up for the
    errors so far, M (n, n) or (0, 0) for no feedback among them, D (n,), and where each is stored in the span (n,)."""

    weight: F32
    targets: F32
    compensated: F32
    mixing: F32
    pivots: F32
    inside: Indices

    def found(self, grid: Grid) -> tuple[Lookup, Indices]:
        """The span's grid for look-ups, and the group of each column."""
        found = lookup(grid, len(self.weight))
        return found, self.inside // (self.inside.size // found.scale.shape[1])

    def loss(self, grid: Grid) -> F32:
        """What rounding these columns on a grid costs each row, (rows,)."""
        found, groups = self.found(grid)
        own = np.ascontiguousarray(self.weight)
        return round_columns(own, self.targets, self.mixing, self.pivots, found.columns(groups))[2]


def fit_piece(columns: Piece, target: Target, settings: Settings) -> Grid:
    """The grid of a span: by the target's own search, or the share of its range that loses least."""
    w, importance = np.empty_like(columns.targets), np.empty_like(columns.pivots)
    w[:, columns.inside], importance[columns.inside] = columns.compensated, columns.pivots
    if target.search is not None:
        return target.search(w, importance)
    if target.weighs:
        return target.fit(w, importance)
    best = target.fit(w, None)
    if len(settings.shares) == 1:
        return best
    least = columns.loss(best)
    for share in settings.shares[1:]:
        grid = target.fit(w * np.float32(share), None)
        loss = columns.loss(grid)
        best = choose(loss < least, grid, best)
        least = np.minimum(loss, least)
    return best


def round_columns(weight: F32, targets: F32, mixing: F32, pivots: F32, grid: Table) -> tuple[Codes, F32, F32]:
    """Codes, errors (rows, n) and loss (rows,) of columns rounded one after the other: see feedback.sweep."""
    codes, errors, loss = np.empty(weight.shape, np.int16), np.empty_like(weight), np.empty(len(weight), np.float32)
    entries.sweep(weight, targets, mixing, pivots, grid, codes, errors, loss)
    return codes, errors, loss


def round_nearest(weight: F32, grid: Lookup) -> tuple[Codes, F32]:
    """Nearest codes of weight (rows, cols) on a grid, and their values."""
    codes, values = np.empty(weight.shape, np.int16), np.empty_like(weight)
    width = weight.shape[1] // grid.scale.shape[1]
    for start, stop in pieces(0, weight.shape[1], SEGMENT):
        own = np.ascontiguousarray(weight[:, start:stop])
        columns = grid.columns(np.arange(start, stop) // width)
        codes[:, start:stop], errors, _ = round_columns(own, own, NO_MIXING, np.ones(stop - start, np.float32), columns)
        values[:, start:stop] = own - errors
    return codes, values


def pieces(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """[start, stop) in pieces of `size`, the last one may be shorter."""
    for first in range(start, stop, size):
        yield first, min(first + size, stop)
