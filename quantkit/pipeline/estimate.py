"""What a plan will cost here: disk, memory and time to make it, memory to serve it."""

from __future__ import annotations

from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any

from quantkit.calibration.inputs import JUDGED_TOKENS
from quantkit.calibration.text.asked import SAMPLES, SEQLEN
from quantkit.calibration.text.spec import REFIT_KEPT_BYTES, REFIT_STEP_TOKENS, REFIT_STEPS, fisher_tokens
from quantkit.families.roles import Role
from quantkit.filling.slabs import QUEUED_SLABS
from quantkit.machine import core_count, memory_limit_bytes
from quantkit.pipeline.consumers import consumer_verdicts, verdict_json
from quantkit.pipeline.outputs import require_writable_names
from quantkit.plan.base import Plan, PlannedTensor, Unit
from quantkit.plan.reading import SLAB_WEIGHTS
from quantkit.plan.sizes import (
    ServingMemory,
    SizeReport,
    Workshop,
    conversion_memory_bytes,
    serving_memory,
    size_report,
)
from quantkit.qtypes import base
from quantkit.records import record
from quantkit.report.text import size
from quantkit.storage import free_bytes

LAYER_NS = 12.0  # to round, pack and check one weight of a layer with numpy
FLOPS_PER_NS = 40.0  # of float32 products on one core
BACKWARD_PASSES = 4  # forward, forward again, and back, which costs two
WALK_PASSES = 4  # forward passes through a block: three for statistics of its sites, one to move on
WALK_START_SECONDS = 5.0
READ_NS_PER_BYTE = 1.0  # reading, widening, hashing and checking a source byte
START_SECONDS = 1.0


@record
class Estimate:
    """Costs of one plan. `fits_disk` and `fits_memory` compare with what this machine has now."""

    size: SizeReport
    disk_free_bytes: int
    memory_bytes: int
    memory_limit_bytes: int
    seconds: float
    serving: ServingMemory

    def __repr__(self) -> str:
        made, served = size(self.memory_bytes), size(self.serving.nbytes)
        return f"Estimate({size(self.size.nbytes)}, {made} of memory to make, {served} to serve, {self.seconds:.0f} s)"

    @property
    def fits_disk(self) -> bool:
        return self.size.nbytes <= self.disk_free_bytes

    @property
    def fits_memory(self) -> bool:
        return self.memory_bytes <= self.memory_limit_bytes

    def served_with(self, nbytes: int) -> Estimate:
        """The same with another file of this size that is served with it: an encoder's."""
        return replace(self, serving=replace(self.serving, weight_bytes=self.serving.weight_bytes + nbytes))

    def fits_serving(self, budget_bytes: int) -> bool:
        return self.serving.nbytes <= budget_bytes


def estimate(
    plan: Plan,
    folder: Path | str = ".",
    *,
    context: int = 8192,
    kv_type: str = "f16",
    threads: int | None = None,
    tokens: int = 0,
) -> Estimate:
    """Estimate a plan whose files would go to `folder`, served with `context` tokens in the cache.

    `tokens` are those of the calibration, 0 for as many as there are by default.
    """
    folder, workers = Path(folder), threads or core_count()
    tokens = tokens or SAMPLES * SEQLEN
    require_writable_names((folder,))
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    return Estimate(
        size=size_report(plan),
        disk_free_bytes=free_bytes(existing),
        memory_bytes=making_bytes(plan, workers, tokens),
        memory_limit_bytes=memory_limit_bytes(),
        seconds=making_seconds(plan, workers, tokens),
        serving=serving_memory(plan, context, kv_type),
    )


def making_bytes(plan: Plan, workers: int, tokens: int) -> int:
    """Estimated peak memory of making a plan's files with so many threads, and tokens of text where it needs any."""
    back = plan.shape.row * _backward_tokens(plan, tokens) * (plan.shape.steps + 2)
    walked = 4 * max(plan.shape.walked * tokens, back)
    held = max(walked, _refit_bytes(plan, tokens))
    return conversion_memory_bytes(plan, Workshop(workers * (1 + QUEUED_SLABS) + 1, SLAB_WEIGHTS, workers, held))


def _refit_bytes(plan: Plan, tokens: int) -> int:
    """What fitting norms holds: the activations of both models, what blocks read in a step, blocks in float32 where
    all of them fit, the file's head in float32 and the original's as it is stored."""
    if not plan.refits:
        return 0
    blocks = 4 * sum(prod(unit.tensor.shape) for unit in plan.rounded if unit.tensor.layer is not None)
    activations = 2 * _refit_tokens(tokens) + REFIT_STEP_TOKENS * (plan.shape.steps + 2)
    heads = (4 + 2) * plan.shape.vocab * plan.shape.hidden
    return 4 * plan.shape.row * activations + heads + (blocks if blocks <= REFIT_KEPT_BYTES else 0)


def _refit_tokens(tokens: int) -> int:
    """The tokens that norms are fitted to, of so many."""
    return min(tokens, REFIT_STEPS * REFIT_STEP_TOKENS + JUDGED_TOKENS)


def making_seconds(plan: Plan, workers: int, tokens: int) -> float:
    """Estimated time of the same."""
    read = 2 * plan.source_bytes * READ_NS_PER_BYTE
    if plan.way == "slabs":
        encode = sum(prod(unit.tensor.shape) * base.get(unit.word).encode_ns for unit in plan.units)
        return START_SECONDS + (encode + read) * 1e-9 / workers
    weights = sum(prod(unit.tensor.shape) for unit in plan.rounded)
    if plan.way == "layers":
        return START_SECONDS + (weights * LAYER_NS + read) * 1e-9 / workers
    square = sum(unit.tensor.cols**2 for unit in plan.rounded)  # of each Hessian: a product with all tokens
    sweep = sum(unit.tensor.rows * unit.tensor.cols**2 for unit in plan.rounded)
    passes = WALK_PASSES * tokens + BACKWARD_PASSES * _backward_tokens(plan, tokens)
    if plan.refits:
        passes += BACKWARD_PASSES * REFIT_STEPS * REFIT_STEP_TOKENS + _refit_tokens(tokens)
    flops = passes * 2 * weights + square * tokens + sweep
    return WALK_START_SECONDS + flops * 1e-9 / (FLOPS_PER_NS * workers)


def _backward_tokens(plan: Plan, tokens: int) -> int:
    """The tokens whose gradients are taken, each with the inputs of all blocks: where the embedding is rounded."""
    widths = [unit.tensor.cols for unit in plan.rounded if unit.tensor.role is Role.TOKEN_EMBD]
    tied = all(unit.tensor.role is not Role.OUTPUT for unit in plan.units)
    return min(tokens, fisher_tokens(widths[0], tied=tied)) if widths else 0


def plan_json(plan: Plan, found: Estimate, tp: int = 1) -> dict[str, Any]:
    """A plan, its costs and what its consumers say, served by `tp` devices, as plain data."""
    return {
        "recipe": plan.recipe,
        "kind": plan.kind,
        "digest": plan.digest,
        "files": [{"name": f.name, "bytes": f.nbytes} for f in plan.files],
        "size": found.size.as_json(),
        "disk": {"needed_bytes": found.size.nbytes, "free_bytes": found.disk_free_bytes, "fits": found.fits_disk},
        "memory": {
            "peak_bytes": found.memory_bytes,
            "limit_bytes": found.memory_limit_bytes,
            "fits": found.fits_memory,
        },
        "seconds": round(found.seconds, 1),
        "serving": {
            "context": found.serving.context,
            "kv_type": found.serving.kv_type,
            "weight_bytes": found.serving.weight_bytes,
            "kv_bytes": found.serving.kv_bytes,
            "bytes": found.serving.nbytes,
        },
        "consumers": [verdict_json(verdict) for verdict in consumer_verdicts(plan, tp)],
        "warnings": [{"code": code, "message": message} for code, message in plan.warnings],
        "container": plan.container,
        "fallbacks": [
            {"tensor": unit.name, "wanted": unit.wanted, "type": unit.word} for unit in plan.units if unit.wanted
        ],
        "tensors": [_tensor_json(unit, tensor) for unit in plan.units for tensor in unit.outputs],
        **_layers_json(plan),
        **({"allocation": dict(plan.allocation)} if plan.allocation else {}),
    }


def _tensor_json(unit: Unit, tensor: PlannedTensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "type": tensor.dtype.lower(),
        **({"bits_per_weight": 8 * unit.nbytes / prod(unit.tensor.shape)} if unit.reason else {}),
        "shape": list(tensor.shape),
        "bytes": tensor.nbytes,
        "offset": tensor.offset,
        "file": tensor.file,
        **({"reason": unit.reason} if unit.reason else {}),
    }


def _layers_json(plan: Plan) -> dict[str, Any]:
    """How layers are rounded, and which are not, where the container tells them from other tensors."""
    if plan.method is None:
        return {}
    return {
        "method": asdict(plan.method),
        "calibrated": plan.calibrated,
        "plain": list(plan.plain),
        **({"refits": list(plan.refits)} if plan.refits else {}),
        "layers": [
            {"name": name, "type": unit.word, "shape": list(unit.tensor.shape), "bytes": unit.nbytes}
            for name, unit in _layers(plan)
        ],
    }


def _layers(plan: Plan) -> list[tuple[str, Unit]]:
    """The layers by their names: those that are rounded, of a plain checkpoint all."""
    if plan.rounded:
        return [(unit.name, unit) for unit in plan.rounded]
    units = {unit.name: unit for unit in plan.units}
    return [(linear.name, units[name]) for linear in plan.linears if (name := f"{linear.name}.weight") in units]
