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
from quantkit.filling.layers import Facts, ServerWork, put_module, require_scale, settings_of
from quantkit.formats.containers.compressed_tensors_kv import pack_kv_scales
from quantkit.formats.containers.packed import PackedTensor, packed, values_of
from quantkit.plan.base import PlannedModule, ServerTensor
from quantkit.plan.checkpoint import blocks, siblings
from quantkit.qtypes.schemes.base import ScaleDtype, joint

if TYPE_CHECKING:
    from quantkit.calibration.walk.block import Block
    from quantkit.filling.rounding import BlockRounded, RoundedLinear, Rounding
    from quantkit.filling.transforming import Moves
    from quantkit.storage import Scratch

PARAMETER = "parameter"  # fact of a journalled tensor: the parameter in memory that a transform has changed


def round_blocks(work: ServerWork, inputs: Inputs, scratch: Scratch | None = None) -> None:
    """Round every block that is not finished. Raises InterruptedRunError between blocks, and what calibration raises,
    naming block and module; the journal keeps what is finished."""
    by_block = blocks(work.plan)
    last = max((n for n, tensors in by_block.items() if n is not None and work.missing(tensors)), default=-1)
    if last < 0:
        return
    walker = _Walker(work, by_block)
    inputs.walk(open_calibration_model(work.checkpoint, inputs.spec, scratch), walker.visit, walker.hear, last)


@dataclass(frozen=True)
class _Walker:
    """What the walk asks at every block."""

    work: ServerWork
    by_block: Mapping[int | None, tuple[ServerTensor, ...]]

    def visit(self, index: int, block: Block) -> Mapping[str, Any]:
        """Round the block, or put in its place what an earlier run made of it."""
        if self.work.stop():
            raise self.work.interrupted()
        tensors = self.by_block.get(index, ())
        members = self._members(block)
        if self.work.missing(tensors):
            _Rounding(self.work, block, tensors, members).round()
        else:
            restore(self.work, block, tensors, members)
        self._report(index, block)
        return {}

    def hear(self, event: Event) -> None:
        """Pass on how far a block is; the end of a block is reported here, with the bytes of the source."""
        if isinstance(event, BlockProgress):
            self.work.emit(replace(event, stage="quantize", count=self.work.plan.outline.shape.layers))

    def _members(self, block: Block) -> dict[str, PlannedModule]:
        """The planned layers of a block by the names that their weights have in memory."""
        by_rows = {planned.module.source: planned for planned in self.work.plan.modules}
        found = {name: by_rows.get(linear.source) for name, linear in block.linears.items()}
        return {name: planned for name, planned in found.items() if planned is not None}

    def _report(self, index: int, block: Block) -> None:
        plan = self.work.plan
        done = plan.source_bytes * (index + 1) // plan.outline.shape.layers
        self.work.advance(done)
        kind = "+".join(sorted({p.layout.traits.word for p in plan.modules if p.module.layer == index}))
        self.work.emit(
            TensorProgress("quantize", block.name, kind, index + 1, plan.outline.shape.layers, done, plan.source_bytes)
        )


@dataclass(frozen=True)
class _Rounding:
    """A block that is to be rounded. `members` are its planned layers by the names of their weights in memory."""

    work: ServerWork
    block: Block
    tensors: tuple[ServerTensor, ...]
    members: Mapping[str, PlannedModule]

    def round(self) -> None:
        """Round and write all of the block: layers, parameters that a transform has changed, the cache, the rest."""
        from quantkit.filling.rounding import round_block

        method = self.work.plan.method
        rounded = round_block(self.block, self._roundings(), self.block.run, self._moves())
        for name, planned in self.members.items():
            linear = rounded.linears[name]
            facts = _facts(method.name, linear)
            put_module(self.work, planned, linear.quantized, self._input_peak(planned, linear, rounded), facts)
        changed = {self.block.source_name(name): (name, values) for name, values in rounded.changed.items()}
        cache = self._cache_scales()
        for tensor in self.tensors:
            if tensor.name in changed:
                name, values = changed[tensor.name]
                self.work.put(tensor, packed(tensor.entry, values.reshape(tensor.entry.shape)), {PARAMETER: name})
            elif tensor.copied:
                self.work.copy(tensor)
            elif tensor.module is None:
                self.work.put(tensor, cache[tensor.name])

    def _cache_scales(self) -> dict[str, PackedTensor]:
        """The scales of cached keys and values by the names of their tensors; none where the plan has none."""
        planned = [tensor for tensor in self.tensors if tensor.module is None and not tensor.copied]
        if not planned:
            return {}
        peaks, dtype = self.block.cache_peaks(), cast("ScaleDtype", planned[0].entry.dtype)
        assert peaks is not None, planned
        return {t.entry.name: t for t in pack_kv_scales(planned[0].name.rpartition(".")[0], peaks, dtype)}

    def _roundings(self) -> dict[str, Rounding]:
        """What becomes of each layer; layers that share a scale are fitted to one."""
        from quantkit.filling.rounding import Rounding

        name_of = {planned.name: name for name, planned in self.members.items()}
        settings = settings_of(self.work.plan.method)
        found = {}
        for group in siblings(self.members.values()):
            weights = [self.block.weight(name_of[planned.name]).cpu().numpy() for planned in group]
            for planned, weight in zip(group, weights, strict=True):
                require_scale(planned, weight)
            for planned, scheme in zip(group, joint([p.layout.scheme for p in group], weights), strict=True):
                found[name_of[planned.name]] = Rounding(scheme, self.work.plan.method.name, settings)
        return found

    def _moves(self) -> Moves | None:
        from quantkit.filling.transforming import Moves
        from quantkit.methods.transforms import base

        method = self.work.plan.method
        if method.transform is None:
            return None
        return Moves(base.get(method.transform), folds_of(self.work.plan.outline.family), method.alpha)

    def _input_peak(self, planned: PlannedModule, linear: RoundedLinear, rounded: BlockRounded) -> float:
        """The largest magnitude of a layer's inputs; of an expert that no token reached, that of all others."""
        if linear.input_peak is not None:
            return linear.input_peak
        others = [
            r.input_peak for n, r in rounded.linears.items() if self.members[n].module.role is planned.module.role
        ]
        return max((peak for peak in others if peak is not None), default=1.0)


def _facts(method: str, linear: RoundedLinear) -> Facts:
    """What the manifest says of a layer."""
    report = linear.report
    facts: Facts = {"method": method, "tokens": report.tokens or 0, "statistics": str(report.seen), "dead": report.dead}
    for key, value in (("loss", report.loss), ("rounding_loss", report.rounding_loss), ("damping", report.damping)):
        if value is not None:
            facts[key] = value
    return facts


def restore(
    work: ServerWork, block: Block, tensors: Sequence[ServerTensor], members: Mapping[str, PlannedModule]
) -> None:
    """Put the rounded weights of a finished block in their place, decoded from the job's files."""
    stored = {tensor.name: _stored(work, tensor) for tensor in tensors if not tensor.copied}
    values = {name: planned.layout.unpack(planned.name, stored).values() for name, planned in members.items()}
    for tensor in tensors:
        parameter = work.job.records[tensor.name].extra.get(PARAMETER)
        if parameter is not None:
            values[str(parameter)] = values_of(_stored(work, tensor))
    block.replace_values(values)


def _stored(work: ServerWork, tensor: ServerTensor) -> PackedTensor:
    raw = work.job.read(tensor.file, tensor.offset, tensor.entry.nbytes)
    return PackedTensor(tensor.entry, np.frombuffer(raw, np.uint8))
