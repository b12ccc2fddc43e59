"""Layers rounded on all cores, a layer per core in memory: without inputs every one is independent."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from quantkit.errors import NumericError
from quantkit.events import Resumed, TensorProgress
from quantkit.families.linears import in_block
from quantkit.filling.work import Facts, Turns, Work, by_layer
from quantkit.formats.containers.base import WriteLayout
from quantkit.formats.containers.packed import PackedTensor
from quantkit.methods import encodes
from quantkit.methods.settings import DEFAULTS, Order, Settings, in_turn
from quantkit.plan.base import PlannedTensor, Unit
from quantkit.plan.reading import order_rows, read_weight
from quantkit.plan.together import siblings
from quantkit.qtypes.schemes.base import Quantized, joint
from quantkit.recipes.recipe import MethodChoice
from quantkit.source import Checkpoint
from quantkit.tensors import F32

SMALLEST_F16_SCALE = 2.0**-20  # below, its subnormal numbers have less than four bits


def announce_resume(work: Work) -> None:
    kept = [t for t in work.plan.tensors if t.name in work.job.records]
    if kept:
        work.emit(Resumed(len(kept), sum(t.nbytes for t in kept)))


def round_plainly(work: Work) -> None:
    """Round every layer that is not finished, in the order of the plan, as its loader's own quantizer would."""
    rounded_units = by_layer(work.plan.rounded) if work.beside.active else work.plan.rounded
    groups = [group for group in siblings(rounded_units) if work.missing(group)]
    finished = len(work.plan.rounded) - sum(map(len, groups))
    waiting: deque[tuple[tuple[Unit, ...], Future[list[Quantized]]]] = deque()
    turns = Turns(work.beside, (unit for group in groups for unit in group), partial(_copy_with, work))

    def write_next() -> None:
        nonlocal finished
        group, future = waiting.popleft()
        for unit, quantized in zip(group, future.result(), strict=True):
            finished += 1
            put_layer(work, unit, quantized)
            _report(work, unit, finished)
            turns.done(unit)

    with ThreadPoolExecutor(work.threads, thread_name_prefix="round") as pool:
        try:
            for group in groups:
                if work.stop():
                    break
                turns.begin(group[0])
                waiting.append((group, pool.submit(_rounded, work, group)))
                if len(waiting) > work.threads:
                    write_next()
            while waiting:
                write_next()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if finished < len(work.plan.rounded):
        raise work.interrupted()


def _rounded(work: Work, group: Sequence[Unit]) -> list[Quantized]:
    with work.beside.reading(group[0].tensor.layer):
        return rounded(work.checkpoint, group, work.plan.method)


def _copy_with(work: Work, layer: int | None) -> None:
    """What is copied of a layer, where another goes through the source beside."""
    if work.beside.active and layer is not None:
        for unit in work.plan.units:
            if unit.copy and unit.tensor.layer == layer and work.missing([unit]):
                work.copy(unit)


def settings_of(method: MethodChoice) -> Settings:
    """What a recipe says of its method; the rest is the method's own."""
    given = {"damping": method.damping, "passes": method.passes, "order": method.order and Order(method.order)}
    return replace(DEFAULTS, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]


def rounded(checkpoint: Checkpoint, group: Sequence[Unit], method: MethodChoice | None) -> list[Quantized]:
    """Layers that share their scales, if any do, rounded without text: as their encoders do, or by another method."""
    weights = [read_weight(checkpoint, unit.tensor) for unit in group]
    for unit, weight in zip(group, weights, strict=True):
        require_scale(unit, weight)
    schemes = joint([layout_of(unit).scheme for unit in group], weights)
    if method is None or encodes(method.name):
        return [scheme.encode(weight) for scheme, weight in zip(schemes, weights, strict=True)]
    from quantkit.methods.base import Layer, get

    found = []
    for unit, scheme, weight in zip(group, schemes, weights, strict=True):
        layer, target = Layer(unit.name, weight), scheme.target(weight.shape[1])
        one = get(method.name).quantize(layer, target, settings_of(method), in_turn)
        found.append(Quantized(one.codes, one.grid, one.order))
    return found


def layout_of(unit: Unit) -> WriteLayout:
    """The layout of a rounded layer."""
    assert unit.layout is not None, unit.name
    return unit.layout


def require_scale(unit: Unit, weight: F32) -> None:
    """Raise NumericError for a layer whose largest weight needs a scale below what float16 holds in four bits or more.

    The layer would become zeros, or close to it, and the layers that read it would get the blame.
    """
    traits = layout_of(unit).traits
    if not traits.top or traits.scale_dtype != "F16":
        return
    largest = float(np.abs(weight).max())
    scale = largest / traits.top
    if 0 < scale < SMALLEST_F16_SCALE:
        what = f"its largest weight is {largest:.3g}, so that scales are {scale:.3g} at most, too small for float16"
        hint = f"keep the layer as it is: --keep {in_block(unit.name)}=bf16"
        raise NumericError(f"{unit.name}: {what}", tensor=unit.name, hint=hint)


def put_layer(
    work: Work,
    unit: Unit,
    quantized: Quantized,
    input_peak: float | None = None,
    facts: Facts | None = None,
) -> None:
    """Write the tensors of a layer; `facts` go with the first one into the journal."""
    for number, made in enumerate(layout_of(unit).pack(unit.name, quantized, input_peak)):
        planned = work.plan.by_name[made.entry.name]
        work.put(planned, as_planned(unit, planned, made), facts if number == 0 else None)


def as_planned(unit: Unit, planned: PlannedTensor, made: PackedTensor) -> PackedTensor:
    """The tensor of a matrix with its rows in the order of the file, and as a stack where it is one."""
    if unit.tensor.row_order is None and made.entry == planned.entry:
        return made
    rows = made.data.reshape(unit.tensor.rows, -1)
    return PackedTensor(planned.entry, order_rows(unit.tensor, rows).reshape(-1))


def copy_the_rest(work: Work) -> None:
    """Copy what no layer and no block has written, one tensor at a time."""
    units = [unit for unit in work.plan.units if unit.copy and work.missing([unit])]
    turns = Turns(work.beside, units)
    for unit in by_layer(units) if work.beside.active else units:
        if work.stop():
            raise work.interrupted()
        turns.begin(unit)
        work.copy(unit)
        turns.done(unit)


def _report(work: Work, unit: Unit, finished: int) -> None:
    count = len(work.plan.rounded)
    done = work.plan.source_bytes * finished // count
    work.advance(done)
    work.emit(TensorProgress("quantize", unit.name, unit.word, finished, count, done, work.plan.source_bytes))
