"""Matrices over the vocabulary rounded with feedback, some rows in memory at a time: the head, the embedding."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from quantkit.events import TensorProgress
from quantkit.filling.layers import as_planned, layout_of, settings_of
from quantkit.filling.reports import facts_of
from quantkit.filling.work import Work
from quantkit.formats.containers.packed import Entry, PackedTensor
from quantkit.plan.base import PlannedTensor, Unit
from quantkit.plan.reading import TABLE_WEIGHTS, cut, read_slab, require_finite
from quantkit.qtypes.schemes.base import Quantized
from quantkit.records import record
from quantkit.tensors import F32

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from quantkit.calibration.walk.block import Block
    from quantkit.calibration.walk.fisher import Downstream
    from quantkit.methods.base import Layer, Report
    from quantkit.methods.settings import Run

EMBEDDING_DAMPING = 0.06  # of the mean diagonal: half as much costs a tenth more, where gradients are few
TIED_DAMPING = 0.01  # where there are more, and the inputs of the head: ten times as much costs a quarter more


@record
class TableInputs:
    """What is known of a table's columns: a Hessian, float32 (cols, cols), the mean squares of their inputs for
    encoders that weigh columns, float32 (cols,), and the number of tokens that both are of."""

    hessian: Tensor
    importance: F32 | None
    tokens: int


def round_head(work: Work, block: Block, unit: Unit) -> None:
    """Round the output head with the Hessian of what the final norm gives, and write it."""
    from quantkit.filling.rounding import importance_of

    (name,) = block.linears
    sums = block.statistics([name], hessian=True).total(name)
    assert sums.gram is not None
    weighed = importance_of(sums) if layout_of(unit).traits.weighed else None
    round_table(work, unit, TableInputs(sums.gram.full(), weighed, sums.tokens), block.run)
    done, count = work.plan.source_bytes, work.plan.shape.blocks
    work.emit(TensorProgress("quantize", block.name, unit.word, count, count, done, done))


def round_embedding(work: Work, unit: Unit, found: Downstream, *, tied: bool) -> None:
    """Round the embedding by what its errors cost downstream, a `tied` one by what the head costs, too; write it."""
    from quantkit.calibration.walk.threads import workers

    hessian = found.tied() if tied else found.embedding.full()
    with workers(work.threads, hessian.device) as pool:
        round_table(work, unit, TableInputs(hessian, None, found.tokens), pool.map, embedding_damping(tied))
    work.emit(TensorProgress("quantize", unit.name, unit.word, 0, work.plan.shape.blocks, 0, work.plan.source_bytes))


def embedding_damping(tied: bool) -> float:
    return TIED_DAMPING if tied else EMBEDDING_DAMPING


def embedding_rows(work: Work, unit: Unit, rows: NDArray[np.int64]) -> Tensor:
    """Rows of the finished embedding, float32 (n, hidden), decoded from the job's files."""
    import torch

    [planned], cols = unit.outputs, unit.tensor.cols
    row_bytes = planned.nbytes // unit.tensor.rows
    out = np.empty((len(rows), cols), np.float32)
    for slab in cut(unit.tensor, TABLE_WEIGHTS):
        wanted = (rows >= slab.start) & (rows < slab.stop)
        if wanted.any():
            start = planned.offset + slab.start * row_bytes
            read = work.job.read(planned.file, start, (slab.stop - slab.start) * row_bytes)
            raw = np.frombuffer(read, np.uint8).reshape(-1, row_bytes)[rows[wanted] - slab.start]
            entry = Entry(unit.name, planned.dtype, (len(raw), cols))
            stored = {unit.name: PackedTensor(entry, np.ascontiguousarray(raw).reshape(-1))}
            out[wanted] = layout_of(unit).unpack(unit.name, stored).values()
    return torch.from_numpy(out)


def round_table(work: Work, unit: Unit, known: TableInputs, run: Run, damping: float | None = None) -> None:
    """Round rows by a Hessian that all of them share, write and journal them. Raises what the method raises."""
    from quantkit.methods import base
    from quantkit.methods.base import Layer

    assert work.plan.method is not None
    method, settings = base.get(work.plan.method.name), settings_of(work.plan.method)
    settings = settings if damping is None else replace(settings, damping=damping)
    target = layout_of(unit).scheme.target(unit.tensor.cols)
    layer = Layer(unit.name, np.zeros((0, unit.tensor.cols), np.float32), known.hessian, known.importance)
    if method.prepare and target.feeds:
        layer = replace(layer, prepared=method.prepare(layer, target, settings, run))

    def rounded(layer: Layer) -> tuple[Quantized, Report]:
        if not target.feeds:
            return layout_of(unit).scheme.encode(layer.weight, layer.importance), base.Report(encoded=True)
        found = method.quantize(layer, target, settings, run)
        return Quantized(found.codes, found.grid), found.report

    [planned], written = unit.outputs, 0
    digest, reports = hashlib.sha256(), []
    for slab in cut(unit.tensor, TABLE_WEIGHTS):
        values = read_slab(work.checkpoint, unit.tensor, slab.start, slab.stop)
        require_finite(unit.tensor, values, slab.start)
        quantized, report = rounded(replace(layer, weight=values))
        reports.append(replace(report, tokens=known.tokens))
        data = _packed(unit, planned, quantized)
        work.job.write(planned.file, planned.offset + written, data.data)
        digest.update(data.data.data)
        written += data.data.nbytes
    assert written == planned.nbytes, (planned, written)
    work.record(planned, digest.hexdigest(), facts_of(method.name, reports))


def _packed(unit: Unit, planned: PlannedTensor, quantized: Quantized) -> PackedTensor:
    (made,) = layout_of(unit).pack(unit.name, quantized)
    return made if unit.tensor.row_order is None else as_planned(unit, planned, made)
