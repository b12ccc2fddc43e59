"""GPTQ: columns one after the other, each error made up for by the columns that follow (arXiv 2210.17323).

Differs from the reference implementation (IST-DASLab/gptq) in these points:

- The Hessian is factored once instead of inverted and factored (columns/factor.py): the same codes, a
  third of the work.
- A span's grid is fitted when the sweep comes to it, to the weights that feedback has made, and each column counts with
  its price D in the loss that is left after feedback: neither 1 nor the Hessian's diagonal.
- A column that never had an input keeps its weights, rounded to nearest, instead of becoming zero.
- The scales inside a type's blocks are refitted to the codes (columns/refit.py), and the columns rounded once more on
  what that gives.
- A row that plain rounding would serve better, or the encoder of its type, is rounded so: no row is ever worse
  (and no block of rows where these are fed back).
- Where it is known how errors of rows add up in what reads them, rows are fed back, too (columns/steps.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantkit.errors import InputError, UnsupportedError
from quantkit.methods.base import Indices, Layer, Method, Prepared, Report, Rounded, naming, require_weight
from quantkit.methods.columns import factor
from quantkit.methods.columns.descent import descend_slab, values_of
from quantkit.methods.columns.grids import choose, mapped, rows_of
from quantkit.methods.columns.order import columns
from quantkit.methods.columns.pieces import pieces
from quantkit.methods.columns.steps import TASK, Block, RowOrder, row_order
from quantkit.methods.columns.sweeps import ROWS, Slab, Sweep, better_of, mixed_errors, nearest_slab, round_slab
from quantkit.methods.settings import Order, Run, Settings, single_threaded
from quantkit.qtypes.base import Codes, Grid
from quantkit.qtypes.target import Target
from quantkit.records import record
from quantkit.tensors import F32

FARTHEST = 0.5  # of the squares of weights, what errors that rows make up for may have: signal to noise of 3 dB
VECTOR_PASSES = 2  # where all points of a lattice are tried: two more would take twice the time and gain 3 %


@record
class _Done:
    """A slab's result, and the loss of its rows when rounded to nearest."""

    slab: Slab
    nearest_loss: F32
    flips: int


@record
class _All:
    """All rows: their codes and grid, what they cost and what rounding to nearest would, in units of the factored
    matrix, and the codes that descent changed."""

    codes: Codes
    grid: Grid
    loss: float
    nearest_loss: float
    flips: int


def quantize(layer: Layer, target: Target, settings: Settings, run: Run) -> Rounded:
    """Round with feedback by the layer's Hessian, so that trace(E H E^T) of the errors E is small.

    Time: a matrix product of the weight with half of H, and about (cols / 3)^3 operations for the factor. Memory: a
    copy of H (two with PERMUTED and passes), a copy of the weight, six where rows are fed back. Raises
    UnsupportedError for a target whose codes
    only its own encoder can choose, InputError for a Hessian of another size, and what `factor` raises.
    """
    require_weight(layer, target)
    ready = layer.prepared or prepare(layer, target, settings, run)
    stored = ready.columns.stored
    weight = np.ascontiguousarray(layer.weight[:, stored]) if ready.columns.permuted else layer.weight
    with naming(layer.name), single_threaded():
        sweep = Sweep(
            weight, target, settings, ready.factor, ready.columns.visited,
            whole=None if target.span else target.fit(weight, None),
            static=settings.static or visiting(settings, target) is Order.ACTIVATION,
            damped=ready.damped,
            importance=_importance(layer, stored),
        )  # fmt: skip
        # a grid of the whole matrix is not fitted anew to what becomes of its rows
        order = row_order(layer.outputs, run, layer.name) if layer.outputs and target.span else None
        found = None if order is None else _in_steps(sweep, order, run)
        if found is not None:
            return _report(found, ready, fed=True)
        # few rows in two, so that a second thread has some
        rows = [slice(*piece) for piece in pieces(0, len(weight), ROWS if len(weight) > ROWS else ROWS // 2)]
        done = run(lambda part: _round(sweep, part), rows)
    return _report(_collected(done, sweep), ready)


def prepare(layer: Layer, target: Target, settings: Settings, run: Run) -> Prepared:
    """Order and factor the layer's Hessian, for all layers with the same inputs, target and settings."""
    hessian = _hessian(layer, target)
    with single_threaded():
        diagonal = hessian.diagonal().to("cpu", torch.float32).numpy()
        order = columns(visiting(settings, target), diagonal, *target.runs)
        return factor.prepare(hessian, order, settings, run, layer.name)


def visiting(settings: Settings, target: Target) -> Order:
    """The order that is set, or the one that loses least: a type whose blocks hold float16 units and codes of single
    columns is fitted block by block, to the weights that feedback has made, all others at once."""
    if settings.order is not None:
        return settings.order
    return Order.WITHIN if target.units is not None and target.vectors is None else Order.ACTIVATION


def _importance(layer: Layer, stored: Indices) -> F32:
    """What a target's own encoder would be given: mean squares of the inputs, in stored order."""
    assert layer.hessian is not None
    squares = layer.importance
    if squares is None:
        squares = layer.hessian.diagonal().to("cpu", torch.float32).numpy()
    return np.ascontiguousarray(squares[stored], np.float32)


def _round(sweep: Sweep, rows: slice) -> _Done:
    nearest = nearest_slab(sweep, rows)
    best = better_of(round_slab(sweep, rows), nearest)
    before = best.codes
    best = _descend(sweep, best, rows)
    if sweep.target.units is not None and sweep.settings.passes:
        for _ in range(sweep.settings.rounds):
            best = better_of(_descend(sweep, round_slab(sweep, rows, best.grid), rows), best)
    return _Done(best, nearest.loss, int(np.count_nonzero(best.codes != before)))


def _descend(sweep: Sweep, slab: Slab, rows: slice) -> Slab:
    passes = sweep.settings.passes
    for _ in range(passes if sweep.target.vectors is None else min(passes, VECTOR_PASSES)):
        slab = descend_slab(sweep, slab, rows)
    return slab


def _in_steps(sweep: Sweep, order: RowOrder, run: Run) -> _All | None:
    """Round rows a few at a time, and feed their errors to those that follow; a block of rows as the type's encoder
    does, or to nearest, where that costs less. None where so little is left of the weights that nobody would take them
    for those of the source: types of one and two bits have errors that are too large to make up for."""
    own = np.ascontiguousarray(sweep.weight[order.order])
    fed = replace(sweep, weight=own.copy())
    errors = np.zeros_like(own)
    done: dict[int, _Done] = {}
    dead = sweep.visited[list(sweep.factor.dead)]

    def make_up(turn: tuple[Block, slice]) -> list[slice]:
        block, step = turn
        rows = slice(block.start + step.start, block.start + step.stop)
        added = block.made_up(errors[block.rows], step)
        added[:, dead] = 0  # a column that never had an input keeps its weights
        fed.weight[rows] += added
        return [slice(*piece) for piece in pieces(rows.start, rows.stop, TASK)]

    for turn in order.turns():
        tasks = [rows for each in run(make_up, turn) for rows in each]
        for rows, one in zip(tasks, run(lambda rows: _round(fed, rows), tasks), strict=True):
            done[rows.start] = one
            errors[rows] = own[rows] - one.slab.values
    if np.square(errors, dtype=np.float64).sum() > FARTHEST * np.square(own, dtype=np.float64).sum():
        return None
    found = _collected([done[start] for start in sorted(done)], sweep)
    done.clear()
    return _back(_cheaper(found, replace(sweep, weight=own), order.blocks, run), order.order)


def _cheaper(found: _All, sweep: Sweep, blocks: Sequence[Block], run: Run) -> _All:
    """Blocks as they were found, or each rounded as the type's encoder does where that costs less; with what that is.
    Weights of the sweep are those that were asked for, in the order of the blocks."""

    def costs(block: Block) -> tuple[float, float, Slab]:
        nearest = nearest_slab(sweep, block.rows)
        values = values_of(rows_of(found.grid, len(sweep.weight), block.rows), found.codes[block.rows])
        fed, plain = (block.cost(mixed_errors(sweep.weight[block.rows] - v, sweep)) for v in (values, nearest.values))
        return fed, plain, nearest

    each = run(costs, blocks)
    better = np.concatenate(
        [np.full(len(one.gram), fed <= plain) for one, (fed, plain, _) in zip(blocks, each, strict=True)]
    )
    grid = mapped([nearest.grid for _, _, nearest in each], lambda *parts: np.concatenate(parts))
    entries = len(grid.scale) // len(better)
    codes = np.concatenate([nearest.codes for _, _, nearest in each])
    return _All(
        np.where(better[:, None], found.codes, codes),
        choose(np.repeat(better, entries), found.grid, grid),
        sum(min(fed, plain) for fed, plain, _ in each),
        sum(plain for _, plain, _ in each),
        found.flips,
    )


def _back(found: _All, order: Indices) -> _All:
    """With rows in the order of the weight."""
    back = np.argsort(order)

    def placed(values: NDArray[Any]) -> NDArray[Any]:
        return values.reshape(len(back), -1, *values.shape[1:])[back].reshape(values.shape)

    return replace(found, codes=found.codes[back], grid=mapped([found.grid], placed))


def _collected(done: list[_Done], sweep: Sweep) -> _All:
    grid = (
        mapped([one.slab.grid for one in done], lambda *parts: np.concatenate(parts))
        if sweep.target.span
        else sweep.whole
    )
    assert grid is not None
    loss, nearest = (
        float(np.concatenate(parts).sum(dtype=np.float64))
        for parts in ([one.slab.loss for one in done], [one.nearest_loss for one in done])
    )
    return _All(np.concatenate([one.slab.codes for one in done]), grid, loss, nearest, sum(one.flips for one in done))


def _report(found: _All, ready: Prepared, *, fed: bool = False) -> Rounded:
    known, order = ready.factor, ready.columns
    loss, nearest = found.loss * known.scale, found.nearest_loss * known.scale
    report = Report(loss, nearest, known.damping, known.tried[:-1], len(known.dead), found.flips, fed=fed)
    stored = order.stored.astype(np.int32) if order.permuted else None
    return Rounded(found.codes, found.grid, stored, report)


def _hessian(layer: Layer, target: Target) -> Tensor:
    if not target.feeds:
        message = f"{layer.name}: only its type's own encoder can choose its codes"
        raise UnsupportedError(message, tensor=layer.name, hint="use the method rtn, or a type with codes of its own")
    if layer.hessian is None:
        message = f"gptq needs the Hessian of {layer.name}"
        raise InputError(message, tensor=layer.name, hint="calibrate with hessian statistics")
    cols = layer.weight.shape[1]
    if layer.hessian.shape != (cols, cols):
        message = f"the Hessian of {layer.name} is {list(layer.hessian.shape)}, its weight has {cols} columns"
        raise InputError(message, tensor=layer.name, hint="calibrate this checkpoint")
    return layer.hessian


METHOD = Method("gptq", quantize, needs_hessian=True, prepare=prepare, feeds_rows=True)
