"""GPTQ: columns one after the other, each error made up for by the columns that follow (arXiv 2210.17323).

Differs from the reference implementation (IST-DASLab/gptq) in these points:

- The Hessian is factored once instead of inverted and factored (columns/factor.py): the same codes, a
  third of the work.
- A span's grid is fitted when the sweep comes to it, to the weights that feedback has made, and each column counts with
  its price D in the loss that is left after feedback: neither 1 nor the Hessian's diagonal.
- A column that never had an input keeps its weights, rounded to nearest, instead of becoming zero.
- The scales inside a type's blocks are refitted to the codes (columns/refit.py), and the columns rounded once more on
  what that gives.
- A row that plain rounding would serve better, or the encoder of its type, is rounded so: no row is ever worse.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from quantkit.errors import InputError, UnsupportedError
from quantkit.methods.base import Indices, Layer, Method, Prepared, Report, Rounded, naming, require_weight
from quantkit.methods.columns import factor
from quantkit.methods.columns.descent import descend_slab
from quantkit.methods.columns.grids import mapped
from quantkit.methods.columns.order import columns
from quantkit.methods.columns.pieces import pieces
from quantkit.methods.columns.sweeps import (
    ROWS,
    Slab,
    Sweep,
    better_of,
    nearest_slab,
    round_slab,
)
from quantkit.methods.settings import Order, Run, Settings, single_threaded
from quantkit.qtypes.target import Target
from quantkit.records import record
from quantkit.tensors import F32

VECTOR_PASSES = 2  # where all points of a lattice are tried: two more would take twice the time and gain 3 %


@record
class _Done:
    """A slab's result, and the loss of its rows when rounded to nearest."""

    slab: Slab
    nearest_loss: F32
    flips: int


def quantize(layer: Layer, target: Target, settings: Settings, run: Run) -> Rounded:
    """Round with feedback by the layer's Hessian, so that trace(E H E^T) of the errors E is small.

    Time: a matrix product of the weight with half of H, and about (cols / 3)^3 operations for the factor. Memory: a
    copy of H (two with PERMUTED and passes), a copy of the weight. Raises UnsupportedError for a target whose codes
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
        # few rows in two, so that a second thread has some
        rows = [slice(*piece) for piece in pieces(0, len(weight), ROWS if len(weight) > ROWS else ROWS // 2)]
        done = run(lambda part: _round(sweep, part), rows)
    return _collect(done, sweep, ready)


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


def _collect(done: list[_Done], sweep: Sweep, ready: Prepared) -> Rounded:
    grids = [one.slab.grid for one in done]
    grid = mapped(grids, lambda *parts: np.concatenate(parts)) if sweep.target.span else sweep.whole
    assert grid is not None
    found, order = ready.factor, ready.columns
    loss, nearest = (
        float(np.concatenate(parts).sum(dtype=np.float64)) * found.scale
        for parts in ([one.slab.loss for one in done], [one.nearest_loss for one in done])
    )
    report = Report(loss, nearest, found.damping, found.tried[:-1], len(found.dead), sum(one.flips for one in done))
    stored = order.stored.astype(np.int32) if order.permuted else None
    return Rounded(np.concatenate([one.slab.codes for one in done]), grid, stored, report)


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


METHOD = Method("gptq", quantize, needs_hessian=True, prepare=prepare)
