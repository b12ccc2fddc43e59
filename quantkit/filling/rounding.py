"""One block rounded: statistics, transform and method for all of its linears, site by site.

    fold transforms -> for each stage: statistics -> round -> put the rounded weights in place -> next stage

A stage is a site, or the same site of all experts. Its statistics are taken with the rounded weights of the stages
before it, so that each stage makes up for what it really reads.

Experts that few tokens reached share what the others saw (`_experts`): the Hessian of an expert with n tokens of its
own and `cols` columns counts cols tokens of the mean over all experts of its layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from quantkit.calibration.statistics.sums import Statistics, Sums
from quantkit.calibration.walk.block import Block
from quantkit.errors import InputError, did_you_mean
from quantkit.families.names import any_expert, expert_of
from quantkit.filling.shares import Share, whole
from quantkit.filling.transforming import Moves, transform_block
from quantkit.methods import base
from quantkit.methods.base import Layer, Method, Prepared, Report, Seen
from quantkit.methods.settings import DEFAULTS, Run, Settings
from quantkit.methods.transforms.awq import clip_weights
from quantkit.qtypes.schemes.base import Quantized, Scheme
from quantkit.records import record
from quantkit.tensors import F32


class Decoded(Protocol):
    """What holds the values of a matrix."""

    def values(self) -> F32: ...


@record
class Rounding:
    """What becomes of one linear, or of those of its rows that `share` names."""

    scheme: Scheme
    method: str = "gptq"
    settings: Settings = DEFAULTS
    share: Share | None = None


@record
class RoundedLinear:
    """A linear with its codes. `input_peak` is the largest magnitude that it read, None where no token reached it."""

    name: str
    quantized: Quantized
    report: Report
    input_peak: float | None


@record
class BlockRounded:
    """A block with its linears rounded.

    `changed` holds the parameters that a transform has changed and that are not rounded (norms, biases, routers),
    float32 with values that the type they are stored in holds exactly. Names are those of `walk_blocks`.
    """

    linears: Mapping[str, RoundedLinear]
    changed: Mapping[str, F32] = field(default_factory=dict)


def round_block(
    block: Block,
    plan: Mapping[str, Rounding],
    run: Run,
    moves: Moves | None = None,
) -> BlockRounded:
    """Round the linears of a block that `plan` names, and leave the rounded values in the block.

    Where only some rows of a linear have a rounding, its key is that of the rows: their share's. `run` is `block.run`;
    `moves` are the scales that a transform moves before. Raises InputError for a name that is no linear of the block,
    and what statistics, transforms and methods raise; all name the module.
    """
    unknown = next((name for name in (_linear(plan, key) for key in plan) if name not in block.linears), None)
    if unknown is not None:
        message = f'block {block.name} has no linear "{unknown}"{did_you_mean(unknown, block.linears)}'
        raise InputError(message, tensor=unknown)
    schemes = {_linear(plan, key): rounding.scheme for key, rounding in plan.items()}
    changed = transform_block(block, schemes, run, moves) if moves else {}
    clipping = moves is not None and moves.transform.clips
    linears: dict[str, RoundedLinear] = {}
    for stage in _stages(block, plan):
        needs_hessian = clipping or any(base.get(plan[name].method).needs_hessian for name in stage)
        read = list(dict.fromkeys(_linear(plan, key) for key in stage))
        outputs = any(base.get(plan[name].method).feeds_rows for name in stage)
        statistics = block.statistics(read, hessian=needs_hessian, outputs=outputs)
        work = _Stage(block, plan, run, statistics, mean_hessian(statistics, read), clipping)
        rounded = work.round(stage)
        put_values(block, {(plan[key].share or whole(block, key)): one.quantized for key, one in rounded.items()})
        linears |= rounded
    return BlockRounded(linears, changed)


def _linear(plan: Mapping[str, Rounding], key: str) -> str:
    share = plan[key].share
    return key if share is None else share.linear


def put_values(block: Block, rounded: Mapping[Share, Decoded]) -> None:
    """Put the values of linears, or of some of their rows, in their place."""
    changed: dict[str, Tensor] = {}
    for share, one in rounded.items():
        values = torch.from_numpy(one.values())
        if share == whole(block, share.linear):
            changed[share.linear] = values
        else:
            new = changed.setdefault(share.linear, block.weight(share.linear).clone())
            new[share.start : share.stop] = values.to(new.device)
    block.replace(changed)


def importance_of(sums: Sums) -> F32:
    """Mean squares as llama-imatrix gives them, float32 (cols,); ones where no token was seen."""
    if not sums.tokens:
        return np.ones(sums.cols, np.float32)
    found: F32 = sums.squares.numpy().astype(np.float32) / np.float32(sums.tokens)
    return found


def _stages(block: Block, plan: Mapping[str, Rounding]) -> list[list[str]]:
    """The planned linears by stage, in the order in which the block reads them."""
    stages: dict[str, list[str]] = {}
    keys: dict[str, list[str]] = {}
    for key in plan:
        keys.setdefault(_linear(plan, key), []).append(key)
    for site in block.sites:
        planned = [key for name in site.linears for key in keys.get(name, ())]
        if planned:
            stages.setdefault(any_expert(site.name), []).extend(planned)
    return list(stages.values())


def mean_hessian(statistics: Statistics, stage: Sequence[str]) -> Tensor | None:
    """The mean of x x^T over all tokens of all experts of a stage; None where there are no experts, or no tokens."""
    sites = {statistics.site_of(name).name for name in stage if expert_of(name) is not None}
    sums = [statistics.total(name) for name in sorted(sites)]
    seen = [one for one in sums if one.tokens and one.gram is not None]
    if not seen:
        return None
    total = seen[0]
    for one in seen[1:]:
        total = total + one
    assert total.gram is not None
    return total.gram.full().div_(total.tokens)


def seen_hessian(name: str, sums: Sums, mean: Tensor | None) -> tuple[Tensor | None, Seen]:
    """The Hessian of a site, of experts with the `mean` of all of a stage."""
    if sums.gram is None:
        return None, Seen.OWN if sums.tokens else Seen.NOTHING
    if expert_of(name) is None:
        return sums.gram.full(), Seen.OWN
    if mean is None:
        return None, Seen.NOTHING
    if not sums.tokens:
        return mean, Seen.MEAN
    return sums.gram.full().add_(mean, alpha=sums.cols), Seen.SHRUNK


@record
class _Stage:
    """What the linears of a stage share. `mean` is that of `mean_hessian`."""

    block: Block
    plan: Mapping[str, Rounding]
    run: Run
    statistics: Statistics
    mean: Tensor | None
    clipping: bool

    def round(self, stage: Sequence[str]) -> dict[str, RoundedLinear]:
        """Round linears that read the same tensor together, so that they share a factor."""
        by_site: dict[str, list[str]] = {}
        for key in stage:
            by_site.setdefault(self.statistics.site_of(_linear(self.plan, key)).name, []).append(key)
        return {name: one for names in by_site.values() for name, one in self._round_site(names).items()}

    def _round_site(self, keys: Sequence[str]) -> dict[str, RoundedLinear]:
        sums = self.statistics.total(_linear(self.plan, keys[0]))
        hessian, seen = seen_hessian(_linear(self.plan, keys[0]), sums, self.mean)
        peak = float(sums.peaks.max()) if sums.tokens else None
        shared: dict[tuple[Settings, int, int], Prepared] = {}
        rounded = {}
        for name in keys:
            rounding = self.plan[name]
            share = rounding.share or whole(self.block, name)
            weight = self.block.weight(share.linear).cpu().numpy()[share.start : share.stop]
            weighed = importance_of(sums) if rounding.scheme.traits.weighed else None
            given = self.statistics.outputs.get(share.linear)
            outputs = given.blocks(share.start, share.stop) if given is not None else ()
            layer = Layer(name, weight, hessian, weighed, outputs=outputs)
            method = base.get(rounding.method)
            feeds = rounding.scheme.target(sums.cols).feeds
            if method.encodes or (method.needs_hessian and (hessian is None or not feeds)):
                quantized, report = self._nearest(layer, rounding)
            else:
                quantized, report = self._by_method(method, layer, rounding, shared)
            report = replace(report, seen=seen, tokens=sums.tokens)
            rounded[name] = RoundedLinear(name, quantized, report, peak)
        return rounded

    def _by_method(
        self, method: Method, layer: Layer, rounding: Rounding, shared: dict[tuple[Settings, int, int], Prepared]
    ) -> tuple[Quantized, Report]:
        target = rounding.scheme.target(layer.weight.shape[1])
        key = (rounding.settings, *target.runs)
        if method.prepare and key not in shared:
            shared[key] = method.prepare(layer, target, rounding.settings, self.run)
        layer = replace(layer, prepared=shared.get(key))
        found = method.quantize(layer, target, rounding.settings, self.run)
        return Quantized(found.codes, found.grid, found.order), found.report

    def _nearest(self, layer: Layer, rounding: Rounding) -> tuple[Quantized, Report]:
        """Rounded as the loader's own quantizer would; after AWQ with each span clipped to where it rounds best."""
        plain = rounding.scheme.encode(layer.weight, layer.importance)
        if layer.hessian is None:
            return plain, Report(encoded=True)
        loss = rounding_loss = self._loss(layer, plain)
        if self.clipping:
            target = rounding.scheme.target(layer.weight.shape[1])
            clipped = rounding.scheme.encode(clip_weights(layer.weight, layer.hessian, target, self.run))
            loss = self._loss(layer, clipped)
            if loss < rounding_loss:
                return clipped, Report(loss, rounding_loss, encoded=True)
        return plain, Report(rounding_loss, rounding_loss, encoded=True)

    def _loss(self, layer: Layer, quantized: Quantized) -> float:
        assert layer.hessian is not None
        hessian = layer.hessian
        error = torch.from_numpy(quantized.values() - layer.weight).to(hessian.device)
        return self.run(lambda e: float(((e @ hessian) * e).sum(dtype=torch.float64)), [error])[0]
