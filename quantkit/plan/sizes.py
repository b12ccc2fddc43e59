"""Sizes of an artifact, from its plan: codes, scales, header, padding; bits per weight; memory to make and serve it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import Any

from quantkit.errors import UsageError
from quantkit.families.model import Shape
from quantkit.plan.checkpoint import AnyPlan, ServerPlan
from quantkit.plan.gguf import Plan, PlannedTensor
from quantkit.qtypes import base
from quantkit.report.text import count, size

# Resident memory of the interpreter, NumPy, numba and the compiled encoders, without any weight: a conversion of a
# model of 3.7 M weights peaks at 170 MB (Python 3.11 on Linux x86-64).
PROGRAM_BYTES = 160_000_000


@dataclass(frozen=True)
class TypeSize:
    """The tensors of one type. `code_bytes` hold codes (or floats), `scale_bytes` scales and offsets."""

    qtype: str
    tensors: int
    weights: int
    nbytes: int
    code_bytes: int

    @property
    def scale_bytes(self) -> int:
        return self.nbytes - self.code_bytes


@dataclass(frozen=True)
class SizeReport:
    """Where the bytes of an artifact are. `types` is ordered by size, largest first.

    `header_bytes` covers metadata and tensor infos of all files, with their padding; `padding_bytes` the gaps
    after tensors. All parts add up to `nbytes`.
    """

    types: tuple[TypeSize, ...]
    header_bytes: int
    padding_bytes: int
    nbytes: int
    source_bytes: int

    @property
    def weights(self) -> int:
        return sum(t.weights for t in self.types)

    @property
    def code_bytes(self) -> int:
        return sum(t.code_bytes for t in self.types)

    @property
    def scale_bytes(self) -> int:
        return sum(t.scale_bytes for t in self.types)

    @property
    def bits_per_weight(self) -> float:
        """Bits of the whole artifact per weight, header included."""
        return 8 * self.nbytes / max(self.weights, 1)

    @property
    def ratio(self) -> float:
        """Size relative to the weights of the source."""
        return self.nbytes / max(self.source_bytes, 1)

    def as_json(self) -> dict[str, Any]:
        return {
            "bytes": self.nbytes,
            "code_bytes": self.code_bytes,
            "scale_bytes": self.scale_bytes,
            "header_bytes": self.header_bytes,
            "padding_bytes": self.padding_bytes,
            "weights": self.weights,
            "bits_per_weight": round(self.bits_per_weight, 4),
            "source_bytes": self.source_bytes,
            "ratio": round(self.ratio, 4),
            "types": [
                {
                    "type": t.qtype,
                    "tensors": t.tensors,
                    "weights": t.weights,
                    "bytes": t.nbytes,
                    "code_bytes": t.code_bytes,
                    "scale_bytes": t.scale_bytes,
                }
                for t in self.types
            ],
        }


def size_report(plan: AnyPlan) -> SizeReport:
    """Add up the plan's tensors by type and the rest of its files."""
    return _server_report(plan) if isinstance(plan, ServerPlan) else _gguf_report(plan)


def _gguf_report(plan: Plan) -> SizeReport:
    members: defaultdict[str, list[PlannedTensor]] = defaultdict(list)
    for planned in plan.tensors:
        members[planned.qtype].append(planned)
    types = sorted((_type_size(name, planned) for name, planned in members.items()), key=lambda t: -t.nbytes)
    header_bytes = sum(len(file.header) for file in plan.files)
    return SizeReport(
        types=tuple(types),
        header_bytes=header_bytes,
        padding_bytes=plan.nbytes - header_bytes - sum(t.nbytes for t in types),
        nbytes=plan.nbytes,
        source_bytes=plan.source_bytes,
    )


def _type_size(name: str, tensors: list[PlannedTensor]) -> TypeSize:
    qtype = base.get(name)
    nbytes = sum(t.nbytes for t in tensors)
    blocks = nbytes // qtype.nbytes
    code_bytes = nbytes if qtype.code_bytes is None else blocks * qtype.code_bytes
    return TypeSize(name, len(tensors), blocks * qtype.block, nbytes, code_bytes)


def _server_report(plan: ServerPlan) -> SizeReport:
    """Rounded layers by their layout, everything else by its dtype; small files count as header."""
    found: defaultdict[str, list[TypeSize]] = defaultdict(list)
    for planned in plan.modules:
        name, nbytes = planned.layout.traits.word, sum(entry.nbytes for entry in planned.entries)
        weights = planned.module.rows * planned.module.cols
        found[name].append(TypeSize(name, 1, weights, nbytes, planned.entries[0].nbytes))
    for tensor in plan.tensors:
        if tensor.module is None:
            entry = tensor.entry
            found[entry.dtype.lower()].append(
                TypeSize(entry.dtype.lower(), 1, prod(entry.shape), entry.nbytes, entry.nbytes)
            )
    types = [_added(name, members) for name, members in found.items()]
    header_bytes = sum(len(file.header) for file in plan.files)
    return SizeReport(tuple(sorted(types, key=lambda t: -t.nbytes)), header_bytes, 0, plan.nbytes, plan.source_bytes)


def _added(name: str, members: list[TypeSize]) -> TypeSize:
    return TypeSize(
        name,
        len(members),
        sum(m.weights for m in members),
        sum(m.nbytes for m in members),
        sum(m.code_bytes for m in members),
    )


def architecture(plan: AnyPlan) -> str:
    """What config.json calls the model."""
    return plan.outline.architecture if isinstance(plan, ServerPlan) else plan.model.architecture


def plan_line(plan: AnyPlan) -> str:
    """A plan in one line: architecture, weights, and size before and after."""
    report = size_report(plan)
    return (
        f"{architecture(plan)} · {count(report.weights)} weights · {size(report.source_bytes)} → "
        f"{plan.recipe} {size(report.nbytes)} ({report.bits_per_weight:.2f} bits per weight)"
    )


@dataclass(frozen=True)
class ServingMemory:
    """Bytes to hold the weights and the keys and values of `context` tokens; buffers of the engine not counted."""

    context: int
    kv_type: str
    weight_bytes: int
    kv_bytes: int

    @property
    def nbytes(self) -> int:
        return self.weight_bytes + self.kv_bytes


def kv_bytes_per_token(shape: Shape, kv_type: str = "f16") -> int:
    """Bytes of keys and values of one token: 2 * layers * kv_heads * head_dim weights of `kv_type`.

    An upper bound where layers share a cache or attend to a window only. Raises UsageError for a type whose block
    does not divide head_dim.
    """
    qtype = base.get(kv_type)
    if shape.head_dim % qtype.block:
        raise UsageError(
            f"a cache of {kv_type} needs heads of a multiple of {qtype.block}, this model has {shape.head_dim}",
            hint="use f16",
        )
    return 2 * shape.layers * shape.kv_heads * qtype.row_bytes(shape.head_dim)


def serving_memory(plan: AnyPlan, context: int, kv_type: str = "f16") -> ServingMemory:
    """What an engine needs to serve the artifact with `context` tokens in its cache."""
    report = size_report(plan)
    weights = sum(t.nbytes for t in report.types)
    shape = plan.outline.shape if isinstance(plan, ServerPlan) else plan.model.shape
    return ServingMemory(context, kv_type, weights, context * kv_bytes_per_token(shape, kv_type))


def conversion_memory_bytes(plan: Plan, *, slabs: int, slab_weights: int) -> int:
    """Estimated peak resident memory of making the artifact: the program, headers, importance weights and slabs.

    At most `slabs` of up to `slab_weights` weights are held at once, each as stored in the source, as float32 and
    encoded (4 bytes each at most); a slab is never shorter than one row, or one unit of the row order.
    """
    widest = max((_unit_weights(t) for t in plan.tensors), default=0)
    largest = max((prod(t.tensor.shape) for t in plan.tensors), default=0)
    per_slab = min(max(slab_weights, widest), largest) * (4 + 4 + 4)
    importance = sum(weights.nbytes for weights in plan.importance.values())
    headers = 2 * sum(len(file.header) for file in plan.files)
    return PROGRAM_BYTES + headers + importance + slabs * per_slab


def _unit_weights(planned: PlannedTensor) -> int:
    order = planned.tensor.row_order
    return planned.tensor.shape[-1] * (len(order.order) if order else 1)


# Of a walk through a model, besides what is counted: torch and transformers, inner activations of chunks in flight.
WALK_BYTES = 1_000_000_000
LAYER_BYTES = 28  # measured: FP8 layers of 4.2 M weights on two cores peak at 514 MB


def server_memory_bytes(plan: ServerPlan, *, threads: int, activation_bytes: int) -> int:
    """Estimated peak resident memory of making a checkpoint: the layers at hand, or a block and its statistics.

    Without calibration a layer per thread and one that waits for the writer, LAYER_BYTES for each weight: float32,
    what rounding makes of it, codes, and packed. With it a block in float32, twice while it is replaced, the largest
    Hessian and its factors, `activation_bytes` where they stay in memory, and WALK_BYTES.
    """
    weights = [p.module.rows * p.module.cols for p in plan.modules]
    if not plan.needs_calibration:
        return PROGRAM_BYTES + (threads + 1) * LAYER_BYTES * max(weights)
    blocks: defaultdict[int, int] = defaultdict(int)
    for planned, count_of in zip(plan.modules, weights, strict=True):
        blocks[planned.module.layer] += count_of
    hessians = 4 * 4 * max(p.module.cols for p in plan.modules) ** 2
    return WALK_BYTES + 2 * 4 * max(blocks.values()) + hessians + activation_bytes
