"""A complete checkpoint of a one-layer Llama in a few lines, for tests that damage one."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

TOKENIZER = Path(__file__).parent / "data" / "docs-llama-tiny"
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 2048, "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip
UP = "model.layers.0.mlp.up_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Stored:
    """A tensor as safetensors stores it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


Tensors = Mapping[str, Stored]


def shapes(config: Mapping[str, Any] = CONFIG) -> dict[str, tuple[int, ...]]:
    """The tensors of a tied Llama with this configuration, by source name."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    block = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    layers = range(config["num_hidden_layers"])
    blocks = {f"model.layers.{i}.{name}.weight": size for i in layers for name, size in block.items()}
    return {EMBEDDING: (config["vocab_size"], hidden), **blocks, "model.norm.weight": (hidden,)}


def weights(dtype: str = "BF16") -> dict[str, Stored]:
    """Random tensors of CONFIG, the same in every run."""
    rng = np.random.default_rng(4)
    return {name: store(rng.normal(0, 0.05, shape), dtype) for name, shape in shapes().items()}


def store(values: Any, dtype: str) -> Stored:
    """An array as F32, F16 or BF16 (rounded towards zero)."""
    array = np.asarray(values, np.float32)
    if dtype == "F16":
        return Stored(dtype, array.shape, array.astype(np.float16).tobytes())
    patterns = array.view(np.uint32)
    return Stored(dtype, array.shape, ((patterns >> 16).astype(np.uint16) if dtype == "BF16" else patterns).tobytes())


def replaced(tensors: Tensors, name: str, index: int, value: float) -> dict[str, Stored]:
    """The same tensors with one weight changed, `index` counting row by row."""
    old = tensors[name]
    [size] = {len(old.data) // prod(old.shape)}
    new = store([value], old.dtype).data
    return {
        **tensors,
        name: Stored(old.dtype, old.shape, old.data[: index * size] + new + old.data[(index + 1) * size :]),
    }


def header(tensors: Tensors) -> dict[str, dict[str, Any]]:
    """The JSON header of a file that holds these tensors in this order."""
    entries, start = {}, 0
    for name, tensor in tensors.items():
        stop = start + len(tensor.data)
        entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    return entries


def encode(tensors: Tensors, text: bytes | None = None, length: int | None = None) -> bytes:
    """A safetensors file. `text` and `length` replace the header and its claimed length."""
    text = json.dumps(header(tensors)).encode() if text is None else text
    data = b"".join(tensor.data for tensor in tensors.values())
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def write(folder: Path, tensors: Tensors | None = None, **config: Any) -> Path:
    """A checkpoint folder: one file of weights, configuration, SentencePiece tokenizer."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "model.safetensors").write_bytes(encode(weights() if tensors is None else tensors))
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)
    return folder
