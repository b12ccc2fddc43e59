"""Coordinate descent: scales and codes changed one at a time, the others held, as long as the loss falls.

The loss of a row is e H e^T with e = w - q and H the damped Hessian. Its slope is kept as G = e H, for SEGMENT columns
at a time; what changes to the left of them is in the product that starts the segment.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from quantkit.methods.columns.grids import choose, lookup
from quantkit.methods.columns.pieces import SEGMENT, pieces
from quantkit.methods.columns.refit import Segment, owned, refit
from quantkit.methods.columns.sweeps import Slab, Sweep
from quantkit.qtypes.base import Grid
from quantkit.tensors import F32

LARGEST_CHANGE = 2.0  # of a scale in one step: the parabola is only as good as the codes


def descend_slab(sweep: Sweep, slab: Slab, rows: slice) -> Slab:
    """One pass over all columns: scales of groups that lie within a segment, then codes. No row gets worse."""
    from quantkit.qtypes.search.feedback import descend  # numba: only once weights are rounded

    assert sweep.damped is not None
    weight, cols = sweep.weight[rows], sweep.weight.shape[1]
    values, codes, grid, loss = slab.values.copy(), slab.codes.copy(), slab.grid, slab.loss.copy()
    gain = np.empty(len(weight), np.float32)
    width = cols // lookup(grid, len(weight)).scale.shape[1]
    units, span = sweep.target.units, sweep.target.span
    if units is not None:
        grid = owned(grid)
    for start, stop in pieces(0, cols, SEGMENT if units is None else max(SEGMENT, span)):
        segment = Segment(
            start,
            np.ascontiguousarray(values[:, start:stop]),
            sweep.damped.product(torch.from_numpy(weight - values), start, stop).numpy(),
            sweep.damped.corner(start, stop),
        )
        if sweep.target.rescale is not None and SEGMENT % width == 0:
            grid, segment, gained = _rescale(sweep, grid, segment, width)
            loss -= gained
        if units is not None:
            own = codes[:, start:stop]
            levels = own.astype(np.float32) if grid.levels is None else grid.levels[own]
            loss -= refit(units, grid, span, levels, segment)
        table = lookup(grid, len(weight)).columns(np.arange(start, stop) // width)
        part = np.empty(segment.values.shape, np.int16)
        descend(segment.values, segment.slope, segment.hessian, table, part, gain)
        values[:, start:stop], codes[:, start:stop] = segment.values, part
        loss -= gain
    return Slab(codes, values, grid, loss)


def _rescale(sweep: Sweep, grid: Grid, segment: Segment, width: int) -> tuple[Grid, Segment, F32]:
    """Move the scale of every group to the bottom of its parabola, row by row where that helps after rounding it.

    With a group's codes held, its values q_g are proportional to its scale, and the loss is a parabola in it.
    """
    assert sweep.target.rescale is not None
    total = np.zeros(len(segment.values), np.float32)
    for first, last in pieces(0, segment.values.shape[1], width):
        group = (segment.start + first) // width
        own = segment.values[:, first:last]
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
        values = segment.values.copy()
        values[:, first:last] += own * share
        segment = replace(segment, values=values, slope=segment.slope - mixed.numpy() * share)
        total += np.where(better, gain, 0)
    return grid, segment, total
