"""Sizes of an artifact, from its plan: codes, scales, header, padding; bits per weight; memory to make and serve it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import prod
from typing import Any

from quantkit.errors import UsageError, require_choice
from quantkit.families.cache import Cache, plain_cache
from quantkit.families.model import ModelTensor, Shape
from quantkit.families.roles import Role
from quantkit.plan.base import Plan, Unit
from quantkit.plan.reading import TABLE_WEIGHTS
from quantkit.records import record
from quantkit.report.predicted import predicted_words
from quantkit.report.text import count, size

# Resident memory of the interpreter, NumPy, numba and the compiled encoders, without any weight: a conversion of a
# model of 3.7 M weights peaks at up to 166 MB (Python 3.11 on Linux x86-64). The first conversion to a type on a
# machine compiles its encoder, which took 60 to 85 MB more.
PROGRAM_BYTES = 165_000_000 + 110_000_000
# Of the check of a finished file, and of its tokenizer as two readers have it: SmolLM2-135M (49,152 tokens) peaks at
# 364 MB, of which the program, headers and slabs are 214; a model of 2,048 tokens at 209, of which they are 185.
CHECK_BYTES, TOKEN_BYTES = 32_000_000, 3300


@record
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


@record
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


def size_report(plan: Plan) -> SizeReport:
    """Add up the plan's units by how they are stored, and the rest of its files; small files count as header."""
    members: defaultdict[str, list[Unit]] = defaultdict(list)
    for unit in plan.units:
        members[unit.word].append(unit)
    types = sorted((_type_size(word, units) for word, units in members.items()), key=lambda t: -t.nbytes)
    header_bytes = sum(len(file.header) for file in plan.files)
    return SizeReport(
        types=tuple(types),
        header_bytes=header_bytes,
        padding_bytes=plan.nbytes - header_bytes - sum(t.nbytes for t in types),
        nbytes=plan.nbytes,
        source_bytes=plan.source_bytes,
    )


def _type_size(word: str, units: Sequence[Unit]) -> TypeSize:
    return TypeSize(
        word,
        len(units),
        sum(prod(unit.tensor.shape) for unit in units),
        sum(unit.nbytes for unit in units),
        sum(unit.code_bytes for unit in units),
    )


def plan_line(plan: Plan) -> str:
    """A plan in one line: architecture, weights, size before and after, and what chosen types are predicted to lose."""
    report = size_report(plan)
    lost = f" · predicted KL {predicted_words(plan.allocation)}" if plan.allocation else ""
    return (
        f"{plan.architecture} · {count(report.weights)} weights · {size(report.source_bytes)} → "
        f"{plan.recipe} {size(report.nbytes)} ({report.bits_per_weight:.2f} bits per weight){lost}"
    )


# What keys and values are stored as: numbers of a block and its bytes. Those of llama.cpp's --cache-type-k, and the
# 8-bit floats of servers.
CACHE_TYPES: dict[str, tuple[int, int]] = {
    "f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "fp8": (1, 1), "q8_0": (32, 34), "q5_1": (32, 24), "q5_0": (32, 22),
    "q4_1": (32, 20), "q4_0": (32, 18), "iq4_nl": (32, 18),
}  # fmt: skip
BATCH_TOKENS = 512  # that engines read at once: a window keeps so many more (llama.cpp's --ubatch-size)


@record
class ServingMemory:
    """Bytes to hold the weights and the keys and values of `slots` texts of `context` tokens; buffers of the engine
    not counted."""

    context: int
    kv_type: str
    weight_bytes: int
    kv_bytes: int
    slots: int = 1

    @property
    def nbytes(self) -> int:
        return self.weight_bytes + self.kv_bytes


def cache_of(shape: Shape) -> Cache:
    """What the layers keep; all of them everything where no more than the shape is known."""
    return shape.cache or plain_cache(shape.layers, shape.kv_heads, shape.head_dim)


def require_cache_type(kv_type: str) -> tuple[int, int]:
    """The numbers and the bytes of a block. Raises UsageError for an unknown type."""
    require_choice("--kv", kv_type, CACHE_TYPES)
    return CACHE_TYPES[kv_type]


def kv_bytes_per_token(shape: Shape, kv_type: str = "f16") -> int:
    """Bytes that the layers keep of one token, those with a window included: it is one of the last ones.

    Raises UsageError for an unknown type, and for one whose block does not divide a row.
    """
    return sum(_row_bytes(layer.rows, kv_type) for layer in cache_of(shape).layers)


def kv_bytes(shape: Shape, context: int, kv_type: str = "f16", slots: int = 1) -> int:
    """Bytes of the cache of `slots` texts of `context` tokens each; a layer with a window keeps that and a batch."""
    return slots * sum(
        min(context, layer.window + BATCH_TOKENS if layer.window else context) * _row_bytes(layer.rows, kv_type)
        for layer in cache_of(shape).layers
    )


def _row_bytes(rows: Sequence[tuple[int, int]], kv_type: str) -> int:
    block, nbytes = require_cache_type(kv_type)
    for _, length in rows:
        if length % block:
            what = f"a cache of {kv_type} needs heads of a multiple of {block}, this model has {length}"
            raise UsageError(what, hint="use f16", key="kv")
    return sum(many * (length // block) * nbytes for many, length in rows)


def serving_memory(plan: Plan, context: int, kv_type: str = "f16", slots: int = 1) -> ServingMemory:
    """What an engine needs to serve the artifact with `context` tokens in the cache of each of `slots` texts."""
    report = size_report(plan)
    weights = sum(t.nbytes for t in report.types)
    return ServingMemory(context, kv_type, weights, kv_bytes(plan.shape, context, kv_type, slots), slots)


# Of a walk through a model, besides what is counted: torch and transformers, inner activations of chunks in flight.
WALK_BYTES = 1_000_000_000
LAYER_BYTES = 28  # measured: FP8 layers of 4.2 M weights on two cores peak at 514 MB


@record
class Workshop:
    """What making an artifact holds at once: `slabs` of up to `slab_weights` weights, layers of `threads` workers,
    `activation_bytes` of samples between blocks."""

    slabs: int
    slab_weights: int
    threads: int
    activation_bytes: int


def conversion_memory_bytes(plan: Plan, shop: Workshop) -> int:
    """Estimated peak resident memory of making the artifact, and of checking it."""
    ways = {"slabs": _slab_bytes, "layers": _layer_bytes, "blocks": _block_bytes}
    return ways[plan.way](plan, shop) + _check_bytes(plan)


def _check_bytes(plan: Plan) -> int:
    """The check of a finished file, and the tokenizer of a GGUF file: by the rows of its embedding."""
    tables = (unit.tensor.shape[0] for unit in plan.units if unit.tensor.role is Role.TOKEN_EMBD)
    return CHECK_BYTES + (0 if plan.is_checkpoint else TOKEN_BYTES * max(tables, default=0))


def _slab_bytes(plan: Plan, shop: Workshop) -> int:
    """The program, headers, importance weights and slabs.

    Each slab is held as stored in the source, as float32 and encoded (4 bytes each at most); none is shorter than one
    row, or one unit of the row order.
    """
    widest = max((_unit_weights(unit.tensor) for unit in plan.units), default=0)
    largest = max((prod(unit.tensor.shape) for unit in plan.units), default=0)
    per_slab = min(max(shop.slab_weights, widest), largest) * (4 + 4 + 4)
    importance = sum(unit.importance.nbytes for unit in plan.units if unit.importance is not None)
    headers = 2 * sum(len(file.header) for file in plan.files)
    return PROGRAM_BYTES + headers + importance + shop.slabs * per_slab


def _unit_weights(tensor: ModelTensor) -> int:
    return tensor.shape[-1] * tensor.unit


def _layer_bytes(plan: Plan, shop: Workshop) -> int:
    """A layer per thread and one that waits for the writer, LAYER_BYTES for each weight: float32, what rounding makes
    of it, codes, and packed."""
    largest = max((prod(unit.tensor.shape) for unit in plan.rounded), default=shop.slab_weights)
    return PROGRAM_BYTES + (shop.threads + 1) * LAYER_BYTES * largest


def _block_bytes(plan: Plan, shop: Workshop) -> int:
    """A block in float32, twice while it is replaced, the largest Hessian and its factors, activations where they stay
    in memory, and WALK_BYTES. A matrix over the vocabulary is there as it is stored, some of its rows are rounded."""
    blocks: defaultdict[int, int] = defaultdict(int)
    tables = [0]
    for unit in plan.rounded:
        if unit.tensor.layer is None:
            tables.append(prod(unit.tensor.shape))
        else:
            blocks[unit.tensor.layer] += prod(unit.tensor.shape)
    hessians = 4 * 4 * max(unit.tensor.cols for unit in plan.rounded) ** 2
    weights = max(
        2 * 4 * max(blocks.values(), default=0), 2 * max(tables) + LAYER_BYTES * min(max(tables), TABLE_WEIGHTS)
    )
    return WALK_BYTES + weights + hessians + shop.activation_bytes
