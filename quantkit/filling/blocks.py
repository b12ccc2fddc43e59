"""Calibrated rounding of a checkpoint for servers: one block in memory, each finished block journalled.

Samples run through the blocks that are rounded already, so that later layers see the error of earlier ones. A block
whose tensors are all in the journal is decoded from the job's own files instead, which gives the samples the same
bits; one that is not complete is done again as a whole, with the same result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from quantkit.calibration.inputs import Inputs, open_calibration_model
from quantkit.events import BlockProgress, Event, TensorProgress
from quantkit.families.known import folds_of
from quantkit.filling.layers import layout_of, put_layer, require_scale, settings_of
from quantkit.filling.work import Facts, Work
from quantkit.formats.containers.compressed_tensors_kv import pack_kv_scales
from quantkit.formats.containers.packed import PackedTensor, packed, values_of
from quantkit.plan.base import PlannedTensor, Unit
from quantkit.plan.together import blocks, siblings
from quantkit.qtypes.schemes.base import ScaleDtype, joint
from quantkit.recipes.recipe import MethodChoice

if TYPE_CHECKING:
    from quantkit.calibration.walk.block import Block
    from quantkit.filling.rounding import BlockRounded, RoundedLinear, Rounding
    from quantkit.filling.transforming import Moves
    from quantkit.storage import Scratch

PARAMETER = "parameter"  # fact of a journalled tensor: the parameter in memory that a transform has changed


def round_blocks(work: Work, inputs: Inputs, scratch: Scratch | None = None) -> None:
    """Round every block that is not finished. Raises InterruptedRunError between blocks, and what calibration raises,
    naming block and module; the journal keeps what is finished."""
    by_block = blocks(work.plan)
    layers = range(work.plan.shape.layers)  # a vision tower may have more: its tensors are copied afterwards
    last = max((number for number in layers if work.missing(by_block.get(number, ()))), default=-1)
    if last < 0:
        return
    walker = _Walker(work, by_block)
    inputs.walk(open_calibration_model(work.checkpoint, inputs.spec, scratch), walker.visit, walker.hear, last)


@dataclass(frozen=True)
class _Walker:
    """What the walk asks at every block."""

    work: Work
    by_block: Mapping[int | None, tuple[Unit, ...]]

    def visit(self, index: int, block: Block) -> Mapping[str, Any]:
        """Round the block, or put in its place what an earlier run made of it."""
        if self.work.stop():
            raise self.work.interrupted()
        units = self.by_block.get(index, ())
        members = self._members(block)
        if self.work.missing(units):
            _Rounding(self.work, block, units, members).round()
        else:
            restore(self.work, block, units, members)
        self._report(index, block)
        return {}

    def hear(self, event: Event) -> None:
        """Pass on how far a block is; the end of a block is reported here, with the bytes of the source."""
        if isinstance(event, BlockProgress):
            self.work.emit(replace(event, stage="quantize", count=self.work.plan.shape.layers))

    def _members(self, block: Block) -> dict[str, Unit]:
        """The planned layers of a block by the names that their weights have in memory."""
        by_rows = {unit.source: unit for unit in self.work.plan.rounded}
        found = {name: by_rows.get(linear.source) for name, linear in block.linears.items()}
        return {name: unit for name, unit in found.items() if unit is not None}

    def _report(self, index: int, block: Block) -> None:
        plan = self.work.plan
        done = plan.source_bytes * (index + 1) // plan.shape.layers
        self.work.advance(done)
        kind = "+".join(sorted({unit.word for unit in plan.rounded if unit.tensor.layer == index}))
        self.work.emit(
            TensorProgress("quantize", block.name, kind, index + 1, plan.shape.layers, done, plan.source_bytes)
        )


@dataclass(frozen=True)
class _Rounding:
    """A block that is to be rounded. `members` are its planned layers by the names of their weights in memory."""

    work: Work
    block: Block
    units: tuple[Unit, ...]
    members: Mapping[str, Unit]

    def round(self) -> None:
        """Round and write all of the block: layers, parameters that a transform has changed, the cache, the rest."""
        from quantkit.filling.rounding import round_block

        method = self._method
        rounded = round_block(self.block, self._roundings(), self.block.run, self._moves())
        for name, unit in self.members.items():
            linear = rounded.linears[name]
            put_layer(
                self.work, unit, linear.quantized, self._input_peak(unit, linear, rounded), _facts(method.name, linear)
            )
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

        name_of = {unit.name: name for name, unit in self.members.items()}
        settings = settings_of(self._method)
        found = {}
        for group in siblings(self.members.values()):
            weights = [self.block.weight(name_of[unit.name]).cpu().numpy() for unit in group]
            for unit, weight in zip(group, weights, strict=True):
                require_scale(unit, weight)
            for unit, scheme in zip(group, joint([layout_of(u).scheme for u in group], weights), strict=True):
                found[name_of[unit.name]] = Rounding(scheme, self._method.name, settings)
        return found

    def _moves(self) -> Moves | None:
        from quantkit.filling.transforming import Moves
        from quantkit.methods.transforms import base

        method = self._method
        if method.transform is None:
            return None
        return Moves(base.get(method.transform), folds_of(self.work.plan.family), method.alpha)

    def _input_peak(self, unit: Unit, linear: RoundedLinear, rounded: BlockRounded) -> float:
        """The largest magnitude of a layer's inputs; of an expert that no token reached, that of all others."""
        if linear.input_peak is not None:
            return linear.input_peak
        role = unit.tensor.role
        others = [r.input_peak for n, r in rounded.linears.items() if self.members[n].tensor.role is role]
        return max((peak for peak in others if peak is not None), default=1.0)


def _facts(method: str, linear: RoundedLinear) -> Facts:
    """What the manifest says of a layer."""
    report = linear.report
    facts: Facts = {"method": method, "tokens": report.tokens or 0, "statistics": str(report.seen), "dead": report.dead}
    for key, value in (("loss", report.loss), ("rounding_loss", report.rounding_loss), ("damping", report.damping)):
        if value is not None:
            facts[key] = value
    return facts


def restore(work: Work, block: Block, units: Sequence[Unit], members: Mapping[str, Unit]) -> None:
    """Put the rounded weights of a finished block in their place, decoded from the job's files."""
    stored = {tensor.name: _stored(work, tensor) for unit in units if not unit.copy for tensor in unit.outputs}
    values = {name: layout_of(unit).unpack(unit.name, stored).values() for name, unit in members.items()}
    for tensor in (tensor for unit in units for tensor in unit.outputs):
        parameter = work.job.records[tensor.name].extra.get(PARAMETER)
        if parameter is not None:
            values[str(parameter)] = values_of(_stored(work, tensor))
    block.replace_values(values)


def _stored(work: Work, tensor: PlannedTensor) -> PackedTensor:
    raw = work.job.read(tensor.file, tensor.offset, tensor.nbytes)
    return PackedTensor(tensor.entry, np.frombuffer(raw, np.uint8))
