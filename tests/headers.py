"""Checkpoints and models made of shapes alone: what a plan sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from quantkit.families.model import Constant, Model, ModelTensor, Rows, Shape
from quantkit.families.roles import role_of
from quantkit.metadata import KeyValue
from quantkit.source.memory import MemoryCheckpoint

METADATA = (
    KeyValue("general.architecture", "string", "llama"),
    KeyValue("general.name", "string", "Test"),
    KeyValue("llama.block_count", "u32", 2),
)


def checkpoint_of(shapes: Mapping[str, tuple[int, ...]], dtype: str = "float16", **facts: Any) -> MemoryCheckpoint:
    """A checkpoint of zeros that take no memory, whatever their shape."""
    zero = np.zeros((), dtype)
    return MemoryCheckpoint({}, {name: np.broadcast_to(zero, shape) for name, shape in shapes.items()}, **facts)


def model_of(shapes: Mapping[str, tuple[int, ...]], shape: Shape | None = None, architecture: str = "llama") -> Model:
    """A model that takes every tensor as it is; vectors stay f32, as converters store them."""
    tensors = tuple(tensor_of(name, size) for name, size in shapes.items())
    return Model("test", "Test", architecture, shape or Shape(2, 256, 8, 8, 32), tensors, METADATA, None, {})


def tensor_of(name: str, shape: tuple[int, ...]) -> ModelTensor:
    layer = name.split(".")[1] if name.startswith("blk.") else None
    rows = int(np.prod(shape[:-1])) if len(shape) > 1 else shape[0]
    stored = "f32" if len(shape) == 1 else None
    return ModelTensor(
        name, role_of(name), shape, (Rows(name, 0, rows),), None if layer is None else int(layer), stored=stored
    )


def llama_shapes(shape: Shape, ffn: int) -> dict[str, tuple[int, ...]]:
    """The tensors of an untied Llama of this shape."""
    kv = shape.kv_heads * shape.head_dim
    sizes = {
        "attn_norm": (shape.hidden,), "ffn_norm": (shape.hidden,), "attn_q": (shape.hidden, shape.hidden),
        "attn_k": (kv, shape.hidden), "attn_v": (kv, shape.hidden), "attn_output": (shape.hidden, shape.hidden),
        "ffn_gate": (ffn, shape.hidden), "ffn_up": (ffn, shape.hidden), "ffn_down": (shape.hidden, ffn),
    }  # fmt: skip
    blocks = {f"blk.{i}.{part}.weight": size for i in range(shape.layers) for part, size in sizes.items()}
    outside = {"token_embd.weight": (shape.vocab, shape.hidden), "output.weight": (shape.vocab, shape.hidden)}
    return {**outside, "output_norm.weight": (shape.hidden,), **blocks}


LLAMA_8B = Shape(layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, vocab=128256, context=131072)
LLAMA_70B = Shape(layers=80, hidden=8192, heads=64, kv_heads=8, head_dim=128, vocab=128256, context=131072)
LLAMA_405B = Shape(layers=126, hidden=16384, heads=128, kv_heads=8, head_dim=128, vocab=128256, context=131072)
LLAMA_FFN = {LLAMA_8B: 14336, LLAMA_70B: 28672, LLAMA_405B: 53248}


def llama(shape: Shape) -> tuple[Model, MemoryCheckpoint]:
    """A published Llama 3.1: its model (with rope factors from the configuration) and its headers."""
    shapes = llama_shapes(shape, LLAMA_FFN[shape])
    model = model_of(shapes, shape)
    factors = replace(tensor_of("rope_freqs.weight", (64,)), parts=(Constant((1.0,) * 64),))
    return replace(model, tensors=(*model.tensors, factors)), checkpoint_of(shapes, name="Llama-3.1")


def blocks(layers: int, *parts: str, size: tuple[int, ...] = (8, 256)) -> dict[str, tuple[int, ...]]:
    """Tensors of one size, for every layer and part."""
    return {f"blk.{i}.{part}.weight": size for i in range(layers) for part in parts}


def keys(metadata: Sequence[KeyValue]) -> list[str]:
    return [kv.key for kv in metadata]
