"""Calibrated rounding of a model: one block in memory, each finished block journalled.

Samples run through the blocks that are rounded already, so that later layers see the error of earlier ones. A block
whose tensors are all in the journal is decoded from the job's own files instead, which gives the samples the same
bits; one that is not complete is done again as a whole, with the same result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from quantkit.calibration.inputs import Going, Inputs, open_calibration_model
from quantkit.events import BlockProgress, Event, Sink, TensorProgress, Warned
from quantkit.families.known import folds_of
from quantkit.families.roles import Role
from quantkit.filling.layers import layout_of, put_layer, require_scale, settings_of
from quantkit.filling.reports import facts_of
from quantkit.filling.shares import Share, key_of, shares_of
from quantkit.filling.slabs import fill_the_rest_of
from quantkit.filling.tables import embedding_rows, round_embedding, round_head
from quantkit.filling.work import Work
from quantkit.formats.containers.compressed_tensors_kv import pack_kv_scales
from quantkit.formats.containers.packed import PackedTensor, packed, values_of
from quantkit.plan.base import PlannedTensor, Unit
from quantkit.plan.reading import read_rows, source_order
from quantkit.plan.together import blocks, siblings
from quantkit.qtypes.schemes.base import Quantized, ScaleDtype, joint, stacked
from quantkit.recipes.recipe import MethodChoice
from quantkit.records import record
from quantkit.tensors import F32
from quantkit.units import counted
from quantkit.untrusted import listed

if TYPE_CHECKING:
    from quantkit.calibration.inputs import Rows
    from quantkit.calibration.walk.block import Block
    from quantkit.calibration.walk.model import BlockModel
    from quantkit.filling.rounding import BlockRounded, RoundedLinear, Rounding
    from quantkit.filling.transforming import Moves
    from quantkit.storage import Scratch

PARAMETER = "parameter"  # fact of a journalled tensor: the parameter in memory that a transform has changed


def round_blocks(work: Work, inputs: Inputs, scratch: Scratch | None = None) -> None:
    """Round every block that is not finished. Raises InterruptedRunError between blocks, and what calibration raises,
    naming block and module; the journal keeps what is finished."""
    by_block = blocks(work.plan)
    layers = range(work.plan.shape.blocks)  # a vision tower may have more: its tensors are copied afterwards
    unfinished = (n for n, units in by_block.items() if n is not None and n in layers and work.missing(units))
    last: int | None = max(unfinished, default=-1)
    outside = [unit for unit in by_block.get(None, ()) if unit.layout is not None]
    if work.missing(unit for unit in outside if unit.tensor.role is Role.OUTPUT):
        last = None  # the head comes after all blocks
    embedding = next((unit for unit in outside if unit.tensor.role is Role.TOKEN_EMBD), None)
    if last == -1 and not (embedding and work.missing([embedding])):
        return
    walker = _Walker(work, by_block)
    model = open_calibration_model(work.checkpoint, inputs.spec, scratch)
    rows = _round_embedding(work, inputs, model, embedding, walker.hear) if embedding else None
    if last != -1:
        work.beside.expect(None)
        inputs.walk(model, walker.visit, walker.hear, Going(last, work.plan.widened, rows))
        walker.say_without()


def _round_embedding(work: Work, inputs: Inputs, model: BlockModel, unit: Unit, emit: Sink) -> Rows | None:
    """Round the embedding before anything that reads it, if inputs say what its errors cost; its rows are then read
    from where it is written."""
    if work.missing([unit]):
        if work.stop():
            raise work.interrupted()
        found = inputs.downstream(model, emit)
        if found is None:
            return None
        tied = all(other.tensor.role is not Role.OUTPUT for other in work.plan.units)
        round_embedding(work, unit, found, tied=tied)
    return partial(embedding_rows, work, unit)


@record
class _Walker:
    """What the walk asks at every block. `without` fills with tensors that are no linears in
    memory."""

    work: Work
    by_block: Mapping[int | None, tuple[Unit, ...]]
    without: list[str] = field(default_factory=list)

    def visit(self, index: int, block: Block) -> Mapping[str, Any]:
        """Round the block, or put in its place what an earlier run made of it."""
        if self.work.stop():
            raise self.work.interrupted()
        units = self.by_block.get(None if block.is_head else index, ())
        if block.is_head:
            for unit in units:
                if unit.layout and unit.tensor.role is Role.OUTPUT and self.work.missing([unit]):
                    round_head(self.work, block, unit)
            return {}
        self.work.beside.enter(index)
        shares = {u.name: found for u in units if u.layout and (found := shares_of(u, block.linears))}
        self.without.extend(u.name for u in units if u.layout and u.name not in shares)
        if self.work.missing(units):
            _Rounding(self.work, block, units, shares).round()
        else:
            restore(self.work, block, units, shares)
        if self.work.beside.active and self.work.plan.rest == "slabs":
            fill_the_rest_of(self.work, index)
        self._report(index, block)
        self.work.beside.leave(index)
        self.work.beside.expect(index + 1)
        return {}

    def say_without(self) -> None:
        """Tell of tensors that text does not reach, such as keys where a block takes those of one before it."""
        if self.without:
            what = counted(len(self.without), "tensor", "is no linear of its block", "are no linears of their blocks")
            self.work.emit(Warned("no-inputs", f"{what}: rounded without text ({listed(self.without, 3)})"))

    def hear(self, event: Event) -> None:
        """Pass on how far a block is; the end of a block is reported here, with the bytes of the source."""
        if isinstance(event, BlockProgress):
            self.work.emit(replace(event, stage="quantize", count=self.work.plan.shape.blocks))

    def _report(self, index: int, block: Block) -> None:
        plan = self.work.plan
        done = plan.source_bytes * (index + 1) // plan.shape.blocks
        self.work.advance(done)
        kind = "+".join(sorted({unit.word for unit in plan.rounded if unit.tensor.layer == index}))
        self.work.emit(
            TensorProgress("quantize", block.name, kind, index + 1, plan.shape.blocks, done, plan.source_bytes)
        )


@record
class _Rounding:
    """A block that is to be rounded. `shares` are the rows in memory that its planned layers are made of, by name."""

    work: Work
    block: Block
    units: tuple[Unit, ...]
    shares: Mapping[str, tuple[Share, ...]]

    def round(self) -> None:
        """Round and write all of the block: layers, parameters that a transform has changed, the cache, the rest."""
        from quantkit.filling.rounding import round_block

        rounded = round_block(self.block, self._roundings(), self.block.run, self._moves())
        for unit in self.units:
            if unit.layout is not None:
                self._put(unit, rounded)
        changed = {self.block.source_name(name): (name, values) for name, values in rounded.changed.items()}
        cache = self._cache_scales()
        for unit in self.units:
            if unit.name in changed:
                name, values = changed[unit.name]
                [tensor] = unit.outputs
                self.work.put(tensor, packed(tensor.entry, values.reshape(tensor.shape)), {PARAMETER: name})
            elif unit.copy:
                self.work.copy(unit)
            elif unit.layout is None:
                self.work.put(unit.outputs[0], cache[unit.name])

    def _put(self, unit: Unit, rounded: BlockRounded) -> None:
        """Write a layer; one that is no linear of the block's in memory as its encoder rounds it."""
        shares = self.shares.get(unit.name)
        if shares is None:
            put_layer(self.work, unit, layout_of(unit).scheme.encode(read_rows(self.work.checkpoint, unit.tensor)))
            return
        linears = [rounded.linears[key_of(self.block, share)] for share in shares]
        peak = max(self._input_peak(unit, linear, rounded) for linear in linears)
        facts = facts_of(self._method.name, [linear.report for linear in linears])
        put_layer(self.work, unit, stacked([one.quantized for one in linears]), peak, facts)

    @property
    def _method(self) -> MethodChoice:
        assert self.work.plan.method is not None, self.work.plan
        return self.work.plan.method

    def _cache_scales(self) -> dict[str, PackedTensor]:
        """The scales of cached keys and values by the names of their tensors; none where the plan has none."""
        scales = [unit for unit in self.units if unit.layout is None and not unit.copy]
        if not scales:
            return {}
        peaks, dtype = self.block.cache_peaks(), cast("ScaleDtype", scales[0].outputs[0].dtype)
        assert peaks is not None, scales
        return {t.entry.name: t for t in pack_kv_scales(scales[0].name.rpartition(".")[0], peaks, dtype)}

    def _roundings(self) -> dict[str, Rounding]:
        """What becomes of each layer; layers that share a scale are fitted to one."""
        from quantkit.filling.rounding import Rounding

        settings = settings_of(self._method)
        found = {}
        for group in siblings(unit for unit in self.units if unit.name in self.shares):
            weights = []
            for unit in group:
                for share in self.shares[unit.name]:
                    weights.append(self.block.weight(share.linear).cpu().numpy()[share.start : share.stop])
                    require_scale(unit, weights[-1])
            for unit, scheme in zip(group, joint([layout_of(u).scheme for u in group], weights), strict=True):
                for share in self.shares[unit.name]:
                    found[key_of(self.block, share)] = Rounding(scheme, self._method.name, settings, share)
        return found

    def _moves(self) -> Moves | None:
        from quantkit.filling.transforming import Moves
        from quantkit.methods.transforms import base

        method = self._method
        if method.transform is None:
            return None
        folds = folds_of(self.work.plan.family, self.work.checkpoint.config)
        return Moves(base.get(method.transform), folds, method.alpha)

    def _input_peak(self, unit: Unit, linear: RoundedLinear, rounded: BlockRounded) -> float:
        """The largest magnitude of a layer's inputs; of an expert that no token reached, that of all others."""
        if linear.input_peak is not None:
            return linear.input_peak
        same = (other for other in self.units if other.name in self.shares and other.tensor.role is unit.tensor.role)
        keys = [key_of(self.block, share) for other in same for share in self.shares[other.name]]
        others = [rounded.linears[key].input_peak for key in keys]
        return max((peak for peak in others if peak is not None), default=1.0)


def restore(work: Work, block: Block, units: Sequence[Unit], shares: Mapping[str, tuple[Share, ...]]) -> None:
    """Put the rounded weights of a finished block in their place, decoded from the job's files."""
    from quantkit.filling.rounding import put_values

    stored = {tensor.name: _stored(work, tensor) for unit in units if not unit.copy for tensor in unit.outputs}
    for unit in units:
        if unit.name in shares:
            put_values(block, _decoded(unit, layout_of(unit).unpack(unit.name, stored), shares[unit.name]))
    values = {}
    for tensor in (tensor for unit in units for tensor in unit.outputs):
        parameter = work.job.records[tensor.name].extra.get(PARAMETER)
        if parameter is not None:
            values[str(parameter)] = values_of(_stored(work, tensor))
    block.replace_values(values)


def _decoded(unit: Unit, quantized: Quantized, shares: Sequence[Share]) -> dict[Share, Values]:
    """The values of a layer by the rows in memory that they belong to."""
    rows, start, found = source_order(unit.tensor, quantized.values()), 0, {}
    for share in shares:
        found[share] = Values(rows[start : start + share.rows])
        start += share.rows
    return found


@record
class Values:
    """Values that are decoded already."""

    decoded: F32

    def values(self) -> F32:
        return self.decoded


def _stored(work: Work, tensor: PlannedTensor) -> PackedTensor:
    raw = work.job.read(tensor.file, tensor.offset, tensor.nbytes)
    return PackedTensor(tensor.entry, np.frombuffer(raw, np.uint8))
