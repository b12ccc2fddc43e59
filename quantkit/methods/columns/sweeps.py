"""Slabs of rows rounded column by column: where grids are fitted, what is fed back, what it costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from quantkit.methods.base import Damped, Factor, Indices
from quantkit.methods.columns.grids import Lookup, choose, joined, lookup
from quantkit.methods.columns.pieces import NO_MIXING, SEGMENT, Piece, fit_piece, pieces, round_columns, round_nearest
from quantkit.methods.columns.vectors import round_vectors
from quantkit.methods.settings import Settings
from quantkit.qtypes.base import Codes, Grid
from quantkit.qtypes.target import Target
from quantkit.records import record
from quantkit.tensors import F32

ROWS = 256  # of a slab: the unit of work of a thread
WIDEST = 256  # span whose candidates are swept with feedback; of wider ones the columns count by themselves


@record
class Sweep:
    """What all slabs share. `weight` (rows, cols) is in stored order; `factor` is of the Hessian in visited order.

    `whole` is the grid of a target whose grids span the whole matrix, else None. `static` says that spans are fitted
    to the original weights, and not as the sweep comes to them. `damped` is the factored matrix, for coordinate
    descent; None for none. `importance` (cols,), in stored order, is what the target's own encoder weighs columns with.
    """

    weight: F32
    target: Target
    settings: Settings
    factor: Factor
    visited: Indices
    whole: Grid | None = None
    static: bool = False
    damped: Damped | None = None
    importance: F32 | None = None


@record
class Slab:
    """Codes int16 and rounded weights float32 (rows, cols) of some rows, their grid, the loss of each row in units of
    the factored matrix, (rows,)."""

    codes: Codes
    values: F32
    grid: Grid
    loss: F32


def round_slab(sweep: Sweep, rows: slice, grid: Grid | None = None) -> Slab:
    """Round with feedback, spans in the visited order; on `grid` where there is one, that of an earlier sweep."""
    return _Walk(sweep, rows).walk(grid)


def nearest_slab(sweep: Sweep, rows: slice) -> Slab:
    """Round as the target's own encoder does, else to nearest on the plain grid (the static one, where a grid spans the
    whole matrix): what feedback has to beat."""
    weight = np.ascontiguousarray(sweep.weight[rows])
    if sweep.target.encode is not None:
        encoded, found = sweep.target.encode(weight, sweep.importance)
        decoded = found.values(encoded.reshape(len(found.scale), -1)).reshape(weight.shape)
        return Slab(encoded, decoded, found, _quadratic_loss(weight - decoded, sweep))
    grid = sweep.target.fit(weight, None) if sweep.target.span else _part(sweep, rows)
    codes, values = round_nearest(weight, lookup(grid, len(weight)))
    return Slab(codes, values, grid, _quadratic_loss(weight - values, sweep))


def better_of(a: Slab, b: Slab) -> Slab:
    """Row by row the one with the smaller loss, a where they are equal. Their grids may differ."""
    first = a.loss <= b.loss
    codes, values = (np.where(first[:, None], x, y) for x, y in ((a.codes, b.codes), (a.values, b.values)))
    entries = len(a.grid.scale) // len(first)
    return Slab(codes, values, choose(np.repeat(first, entries), a.grid, b.grid), np.where(first, a.loss, b.loss))


def _part(sweep: Sweep, rows: slice) -> Grid:
    """Some rows of the grid of the whole matrix, without fields: rows share them."""
    whole = sweep.whole
    assert whole is not None
    entries = len(whole.scale) // len(sweep.weight)
    part = slice(rows.start * entries, rows.stop * entries)
    return replace(
        whole, scale=whole.scale[part], offset=None if whole.offset is None else whole.offset[part], fields={}
    )


def _quadratic_loss(errors: F32, sweep: Sweep) -> F32:
    """|e R|^2 of each row of errors (rows, cols) in stored order, float32 (rows,)."""
    visited = torch.from_numpy(errors[:, sweep.visited])
    loss = torch.zeros(len(errors))
    pivots = torch.from_numpy(sweep.factor.pivots)
    mixing = sweep.factor.mixing
    for start, stop in pieces(0, errors.shape[1], SEGMENT):
        mixed = visited[:, start:stop] @ mixing[start:stop, start:stop].triu()
        mixed.addmm_(visited[:, :start], mixing[:start, start:stop])
        loss += mixed.square_() @ pivots[start:stop]
    row_loss: F32 = loss.numpy()
    return row_loss


def mixed_errors(errors: F32, sweep: Sweep) -> Tensor:
    """e R of each row of errors (rows, cols) in stored order, columns in visited order, float32."""
    visited = torch.from_numpy(errors[:, sweep.visited])
    mixed = torch.empty_like(visited)
    for start, stop in pieces(0, errors.shape[1], SEGMENT):
        own = visited[:, start:stop] @ sweep.factor.mixing[start:stop, start:stop].triu()
        mixed[:, start:stop] = own.addmm_(visited[:, :start], sweep.factor.mixing[:start, start:stop])
    return mixed.mul_(torch.from_numpy(sweep.factor.pivots).sqrt())


class _Walk:
    """The state of one slab's sweep, columns in visited order: errors so far, and what was found."""

    def __init__(self, sweep: Sweep, rows: slice) -> None:
        self.plan = sweep
        self.slab = rows
        self.weight = np.ascontiguousarray(sweep.weight[rows][:, sweep.visited])
        self.errors = np.zeros_like(self.weight)
        self.codes = np.empty(self.weight.shape, np.int16)
        self.loss = np.zeros(len(self.weight), np.float32)

    def walk(self, grid: Grid | None = None) -> Slab:
        """Visit all columns, on this grid if there is one."""
        if grid is None and not self.plan.static and self.plan.whole is None:
            grid = self._span_by_span()
        else:
            grid = self._on_static_grids(grid)
        codes, values = np.empty_like(self.codes), np.empty_like(self.errors)
        codes[:, self.plan.visited], values[:, self.plan.visited] = self.codes, self.weight - self.errors
        return Slab(codes, values, grid, self.loss)

    def _on_static_grids(self, grid: Grid | None) -> Grid:
        if grid is None:
            grid = _part(self.plan, self.slab) if self.plan.whole is not None else self._fit_static()
        found = lookup(grid, len(self.weight))
        self._round(found, self.plan.visited // (self.weight.shape[1] // found.scale.shape[1]), 0)
        return grid

    def _span_by_span(self) -> Grid:
        """Fit the grid of a span to what feedback has made of it, then round its columns."""
        span, grids = self.plan.target.span, {}
        for start in range(0, self.weight.shape[1], span):
            stop = start + span
            visited = self.plan.visited[start:stop]
            targets = self._targets(start, stop)
            mixing = self._mixing(start, stop) if span <= WIDEST else NO_MIXING
            columns = Piece(
                self.weight[:, start:stop], targets, self._compensated(start, stop, targets), mixing,
                self.plan.factor.pivots[start:stop], visited % span,
            )  # fmt: skip
            grid = fit_piece(columns, self.plan.target, self.plan.settings)
            grids[int(visited[0]) // span] = grid
            self._round(*columns.found(grid), start)
        return joined([[grids[number] for number in sorted(grids)]], by_row=self.plan.target.by_row)

    def _fit_static(self) -> Grid:
        """The grids of the original weights, columns weighted by their price in the visited order."""
        span, inside = self.plan.target.span, np.arange(self.plan.target.span)
        weight, pivots = np.empty_like(self.weight), np.empty_like(self.plan.factor.pivots)
        weight[:, self.plan.visited], pivots[self.plan.visited] = self.weight, self.plan.factor.pivots
        grids = []
        for start, stop in pieces(0, weight.shape[1], span):
            own = np.ascontiguousarray(weight[:, start:stop])
            columns = Piece(own, own, own, NO_MIXING, pivots[start:stop], inside)
            grids.append(fit_piece(columns, self.plan.target, self.plan.settings))
        return joined([grids], by_row=self.plan.target.by_row)

    def _mixing(self, start: int, stop: int) -> F32:
        return np.ascontiguousarray(self.plan.factor.mixing[start:stop, start:stop].numpy())

    def _targets(self, start: int, stop: int) -> F32:
        """The columns with all feedback from the left."""
        own = np.ascontiguousarray(self.weight[:, start:stop])
        if start == 0:
            return own
        mixing = self.plan.factor.mixing[:start, start:stop]
        targets: F32 = torch.addmm(torch.from_numpy(own), torch.from_numpy(self.errors[:, :start]), mixing).numpy()
        return targets

    def _compensated(self, start: int, stop: int, targets: F32) -> F32:
        """The real numbers x that would make up best for the errors so far.

        A target counts on what later columns of the span will do when they are rounded: x is the solution of
        x[k] = target[k] + sum over j < k in the span of (w[j] - x[j]) M[j, k].
        """
        if start == 0:
            return targets
        own = torch.from_numpy(self.weight[:, start:stop])
        corner = self.plan.factor.mixing[start:stop, start:stop]
        feedback = torch.from_numpy(targets) - own
        solved = torch.linalg.solve_triangular(corner, feedback, upper=True, left=False, unitriangular=True)
        compensated: F32 = (own + solved).numpy()
        return compensated

    def _round(self, grid: Lookup, groups: Indices, start: int) -> None:
        """Round the columns from `start` on, whose groups are given, for good."""
        for first, last in pieces(start, start + groups.size, SEGMENT):
            own, targets = np.ascontiguousarray(self.weight[:, first:last]), self._targets(first, last)
            factor = self._mixing(first, last), self.plan.factor.pivots[first:last]
            inside, vectors = groups[first - start : last - start], self.plan.target.vectors
            if vectors is not None:
                codes, errors, loss = round_vectors(own, targets, factor, (grid, inside), vectors)
            else:
                codes, errors, loss = round_columns(own, targets, *factor, grid.columns(inside))
            self.codes[:, first:last], self.errors[:, first:last] = codes, errors
            self.loss += loss
