"""Coordinate descent: scales and codes changed one at a time, the others held, as long as the loss falls.

The loss of a row is e H e^T with e = w - q and H the damped Hessian. Its slope is kept as G = e H, for SEGMENT columns
at a time; what changes to the left of them is in the product that starts the segment.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from quantkit.methods.base import Indices
from quantkit.methods.columns.grids import Lookup, choose, lookup
from quantkit.methods.columns.pieces import SEGMENT, pieces
from quantkit.methods.columns.refit import Segment, owned, refit
from quantkit.methods.columns.sweeps import Slab, Sweep
from quantkit.methods.columns.vectors import descend_vectors
from quantkit.qtypes.base import Codes, Grid
from quantkit.qtypes.search import entries
from quantkit.qtypes.target import Target
from quantkit.tensors import F32

LARGEST_CHANGE = 2.0  # of a scale in one step: the parabola is only as good as the codes


def descend_slab(sweep: Sweep, slab: Slab, rows: slice) -> Slab:
    """One pass over all columns: scales of groups that lie within a segment, then codes. No row gets worse."""
    assert sweep.damped is not None
    weight, cols = sweep.weight[rows], sweep.weight.shape[1]
    codes, grid, loss = slab.codes.copy(), slab.grid, slab.loss.copy()
    values = values_of(grid, codes)  # a sweep's are the weight less its error, which is a last bit away
    errors = weight - values
    width = cols // lookup(grid, len(weight)).scale.shape[1]
    units, span = sweep.target.units, sweep.target.span
    if units is not None:
        grid = owned(grid)
    for start, stop in pieces(0, cols, SEGMENT if units is None else max(SEGMENT, span)):
        own = np.ascontiguousarray(codes[:, start:stop])
        segment = Segment(
            start,
            own.astype(np.float32) if grid.levels is None else grid.levels[own],
            sweep.damped.product(torch.from_numpy(errors), start, stop).numpy(),
            sweep.damped.corner(start, stop),
        )
        if sweep.target.rescale is not None and SEGMENT % width == 0:
            grid, segment, gained = _rescale(sweep, grid, segment, np.ascontiguousarray(values[:, start:stop]))
            loss -= gained
        if units is not None:
            loss -= refit(units, grid, span, segment)
        decoded, gain = _chosen(
            sweep.target, (lookup(grid, len(weight)), np.arange(start, stop) // width), segment, own
        )
        values[:, start:stop], codes[:, start:stop] = decoded, own
        np.subtract(weight[:, start:stop], decoded, out=errors[:, start:stop])
        loss -= gain
    return Slab(codes, values, grid, loss)


def _chosen(target: Target, on: tuple[Lookup, Indices], segment: Segment, codes: Codes) -> tuple[F32, F32]:
    """Better codes for a segment, in place; what they decode to, and what each row gained. `on` is the grid and the
    group of each column."""
    if target.vectors is not None:
        return descend_vectors(segment, on, target.vectors, codes)
    grid, groups = on
    decoded, gain = np.empty(codes.shape, np.float32), np.empty(len(codes), np.float32)
    entries.descend(segment.levels, segment.slope, segment.hessian, grid.columns(groups), decoded, codes, gain)
    return decoded, gain


def values_of(grid: Grid, codes: Codes) -> F32:
    """What codes (rows, cols) mean, float32."""
    rows = len(codes)
    found = lookup(grid, rows)
    grouped = codes.reshape(rows, found.scale.shape[1], -1)
    level = grouped.astype(np.float32) if grid.levels is None else grid.levels[grouped]
    value = level * found.scale[:, :, None]
    if found.offset.size:
        value += found.offset[:, :, None]
    return value.reshape(codes.shape)


def _rescale(sweep: Sweep, grid: Grid, segment: Segment, values: F32) -> tuple[Grid, Segment, F32]:
    """Move the scale of every group to the bottom of its parabola, row by row where that helps after rounding it.

    With a group's codes held, its `values` q_g are proportional to its scale, and the loss is a parabola in it.
    """
    assert sweep.target.rescale is not None
    rows, n = values.shape
    total, width = np.zeros(rows, np.float32), sweep.weight.shape[1] // lookup(grid, rows).scale.shape[1]
    for first, last in pieces(0, n, width):
        group = (segment.start + first) // width
        own = values[:, first:last]
        # torch: numpy's products would use threads of their own
        mixed = torch.from_numpy(own) @ torch.from_numpy(segment.hessian[first:last])
        curve = (mixed[:, first:last].numpy() * own).sum(axis=1)
        slope = (segment.slope[:, first:last] * own).sum(axis=1)
        step = np.divide(slope, curve, out=np.zeros_like(slope), where=curve > 0)
        factor = np.ones_like(grid.scale)
        factor[:, group] = np.clip(1 + step, 1 / LARGEST_CHANGE, LARGEST_CHANGE)
        moved = sweep.target.rescale(grid, factor)
        change = moved.scale[:, group] / grid.scale[:, group] - 1
        gain = change * (2 * slope - change * curve)
        better = gain > 0
        grid = choose(better, moved, grid)
        share = np.where(better, change, np.float32(0))[:, None]
        segment = replace(segment, slope=segment.slope - mixed.numpy() * share)
        total += np.where(better, gain, 0)
    return grid, segment, total
