"""Checkpoints in the shapes of real ones: config, tokenizer and index files as published, weights made here.

The published files lie beside the project (third-party data, read where it lies, never copied into the project);
tests that need them are marked with `needs_reality` and skip where they are absent.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from row_headers import headers

from quantkit.errors import UnsupportedError
from quantkit.families.describe import find_family

REALITY = Path(__file__).parents[2] / "shared" / "reality"
needs_reality = pytest.mark.skipif(not REALITY.is_dir(), reason="the files of real checkpoints are not at hand")

Shape = tuple[int, ...]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json")
# Whose tokenizer stands in where a folder's own was too large to keep: a neighbour of the same family.
NEIGHBOURS = {
    "aic-deepseek-v3": "llama3-8b",
    "aic-llama-3.1-70b-instruct-fp8": "llama3-8b",
    "aic-llama-4-scout-17b-16e-instruct": "llama3-8b",
    "aic-qwen3-30b-a3b-fp8": "qwen3-0.6b-slow-files",
    "aic-qwen3-32b-fp8-static-pertensor": "qwen3-0.6b-slow-files",
    "aic-qwen3-coder-480b-a35b-instruct": "qwen3-0.6b-slow-files",
    "devstral-small-2507": "dolphin3-mistral-24b",
    "genz-70b-gptq": "llama2-7b-chat-nous",
    "llama31-8b-networks-nf4": "llama3-8b",
    "medgemma-27b-it": "gemma2-2b-mithoon",
    "orpheus-3b-nf4": "llama3-8b",
    "qwen3-14b-mlx-4bit": "qwen3-0.6b-slow-files",
    "qwen3-14b-yida-v5": "qwen3-0.6b-slow-files",
    "triangulum-falcon3": "llama3-8b",
    "wizard-mega-13b-gptq": "pygmalion-7b",
    "yarn-mistral-7b-128k": "llama2-7b-chat-nous",
}
# Of these the neighbour has another vocabulary, so that its other tokenizer files come along.
OTHER_VOCABULARY = (
    "aic-deepseek-v3", "aic-llama-4-scout-17b-16e-instruct", "medgemma-27b-it", "triangulum-falcon3",
)  # fmt: skip
OTHER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
NEEDS_NO_COPY = ("model.safetensors.index.json", "pytorch_model.bin.index.json", "config.json")


@dataclass(frozen=True)
class Size:
    """What a small copy of a model is cut down to. `head_dim` is kept at most; the vocabulary always stays."""

    hidden: int = 64
    ffn: int = 128
    layers: int = 2
    heads: int = 4
    experts: int = 8
    head_dim: int = 16


SMALL = Size()


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that describes the language model."""
    return config.get("text_config", config)


def claimed() -> list[str]:
    """Folders of families that quantkit claims, by name."""
    return [name for name in real_folders() if text_config(read_config(name)).get("model_type") in BLOCKS]


def unclaimed() -> list[str]:
    """Folders with a config.json of families that quantkit does not know, by name."""
    return [name for name in real_folders() if not _is_known(read_config(name))]


def _is_known(config: dict[str, Any]) -> bool:
    try:
        find_family(config)
    except UnsupportedError:
        return False
    return True


def real_folders() -> list[str]:
    """All folders with a config.json, by name; empty where the data is absent."""
    return sorted(path.parent.name for path in REALITY.glob("*/config.json"))


def read_config(name: str) -> dict[str, Any]:
    return json.loads((REALITY / name / "config.json").read_text("utf-8"))


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without its word on quantized weights."""
    return {k: v for k, v in config.items() if k not in ("quantization_config", "quantization")}


def small(config: dict[str, Any], to: Size = SMALL) -> dict[str, Any]:
    """The configuration of a model of the same kind, cut down; what has no size stays as published."""
    found = json.loads(json.dumps(config))
    text = text_config(found)
    heads, kv = text["num_attention_heads"], text.get("num_key_value_heads") or text["num_attention_heads"]
    head_dim = text.get("head_dim")
    text |= {"hidden_size": to.hidden, "intermediate_size": to.ffn, "num_hidden_layers": to.layers}
    text["num_attention_heads"] = to.heads
    if "num_key_value_heads" in text:
        text["num_key_value_heads"] = max(to.heads * kv // heads, min(kv, 2))
    if head_dim is not None:
        text["head_dim"] = min(head_dim, to.head_dim)
    if "query_pre_attn_scalar" in text:  # which llama.cpp knows by the number of layers
        text["query_pre_attn_scalar"] = text["head_dim"]
    if text.get("num_experts"):
        text |= {"num_experts": to.experts, "moe_intermediate_size": to.ffn}
        text["num_experts_per_tok"] = min(text["num_experts_per_tok"], to.experts)
    if text.get("num_local_experts"):
        text["num_local_experts"] = to.experts
    if isinstance(text.get("layer_types"), list):
        text["layer_types"] = text["layer_types"][: to.layers]
    return found


# The tensors of a model, from its configuration, written down from published indexes


def _attention(config: Mapping[str, Any]) -> dict[str, Shape]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    found: dict[str, Shape] = {
        "self_attn.q_proj.weight": (heads * head_dim, hidden),
        "self_attn.k_proj.weight": (kv * head_dim, hidden),
        "self_attn.v_proj.weight": (kv * head_dim, hidden),
        "self_attn.o_proj.weight": (hidden, heads * head_dim),
    }
    if config["model_type"] == "qwen2":
        found |= {f"self_attn.{n}_proj.bias": found[f"self_attn.{n}_proj.weight"][:1] for n in "qkv"}
    elif config.get("attention_bias"):
        found |= {f"self_attn.{n}_proj.bias": found[f"self_attn.{n}_proj.weight"][:1] for n in "qkvo"}
    if config["model_type"] in ("qwen3", "qwen3_moe", "gemma3_text"):
        found |= {f"self_attn.{n}_norm.weight": (head_dim,) for n in "qk"}
    return found


def _mlp(config: Mapping[str, Any]) -> dict[str, Shape]:
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    found: dict[str, Shape] = {f"mlp.{n}_proj.weight": (ffn, hidden) for n in ("gate", "up")}
    found["mlp.down_proj.weight"] = (hidden, ffn)
    if config.get("mlp_bias"):
        found |= {name.replace("weight", "bias"): shape[:1] for name, shape in found.items()}
    return found


def _norms(config: Mapping[str, Any], *more: str) -> dict[str, Shape]:
    names = ("input_layernorm", "post_attention_layernorm", *more)
    return {f"{name}.weight": (config["hidden_size"],) for name in names}


def _llama(config: Mapping[str, Any]) -> dict[str, Shape]:
    return _attention(config) | _mlp(config) | _norms(config)


def _gemma(config: Mapping[str, Any]) -> dict[str, Shape]:
    return _attention(config) | _mlp(config) | _norms(config, "pre_feedforward_layernorm", "post_feedforward_layernorm")


def _phi3(config: Mapping[str, Any]) -> dict[str, Shape]:
    hidden, ffn, q, k = config["hidden_size"], config["intermediate_size"], *_q_and_k(config)
    return _norms(config) | {
        "self_attn.qkv_proj.weight": (q + 2 * k, hidden),
        "self_attn.o_proj.weight": (hidden, q),
        "mlp.gate_up_proj.weight": (2 * ffn, hidden),
        "mlp.down_proj.weight": (hidden, ffn),
    }


def _q_and_k(config: Mapping[str, Any]) -> tuple[int, int]:
    found = _attention(config)
    return found["self_attn.q_proj.weight"][0], found["self_attn.k_proj.weight"][0]


def _mixtral(config: Mapping[str, Any]) -> dict[str, Shape]:
    hidden, ffn, experts = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    each = {"w1": (ffn, hidden), "w2": (hidden, ffn), "w3": (ffn, hidden)}
    found = {
        f"block_sparse_moe.experts.{i}.{name}.weight": shape for i in range(experts) for name, shape in each.items()
    }
    return _attention(config) | _norms(config) | {"block_sparse_moe.gate.weight": (experts, hidden)} | found


def _qwen3_moe(config: Mapping[str, Any]) -> dict[str, Shape]:
    hidden, ffn, experts = config["hidden_size"], config["moe_intermediate_size"], config["num_experts"]
    each = {"gate_proj": (ffn, hidden), "up_proj": (ffn, hidden), "down_proj": (hidden, ffn)}
    found = {f"mlp.experts.{i}.{name}.weight": shape for i in range(experts) for name, shape in each.items()}
    return _attention(config) | _norms(config) | {"mlp.gate.weight": (experts, hidden)} | found


BLOCKS: dict[str, Callable[[Mapping[str, Any]], dict[str, Shape]]] = {
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "qwen3_moe": _qwen3_moe,
    "mixtral": _mixtral,
    "gemma2": _gemma,
    "gemma3_text": _gemma,
    "phi3": _phi3,
}
TIED = ("gemma2", "gemma3_text")  # by transformers' defaults


def shapes(config: dict[str, Any]) -> dict[str, Shape]:
    """Every tensor of the language model, by its published name."""
    text = text_config(config)
    outer = "language_model." if text is not config else ""
    block = BLOCKS[text["model_type"]](text)
    hidden, rows = text["hidden_size"], text["vocab_size"]
    found: dict[str, Shape] = {f"{outer}model.embed_tokens.weight": (rows, hidden)}
    for layer in range(text["num_hidden_layers"]):
        found |= {f"{outer}model.layers.{layer}.{name}": shape for name, shape in block.items()}
    found[f"{outer}model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", text["model_type"] in TIED):
        found[f"{outer}lm_head.weight"] = (rows, hidden)
    return found


def beside(name: str, layers: int) -> dict[str, Shape]:
    """Tensors of a published index that are not the language model's: towers, tables of rope. Sizes are ours."""
    path = REALITY / name / "model.safetensors.index.json"
    if not path.is_file() or "quantization" in " ".join(read_config(name)):
        return {}
    names = json.loads(path.read_text("utf-8"))["weight_map"]
    known = shapes(read_config(name))
    layer = re.compile(r"model\.layers\.(\d+)\.")
    extra = [n for n in names if n not in known and not ((found := layer.search(n)) and int(found[1]) >= layers)]
    return {n: (8,) for n in sorted(extra)}


# Folders


def tokenizer_folder(name: str) -> Path:
    """Where the tokenizer's files of a folder are: its own, or a neighbour's."""
    return REALITY / NEIGHBOURS.get(name, name)


def side_files(name: str) -> Iterator[Path]:
    """Published files that go into a copy: all but the configuration and indexes, and a tokenizer."""
    own = {p.name: p for p in sorted((REALITY / name).iterdir()) if p.is_file() and p.name not in NEEDS_NO_COPY}
    lending = TOKENIZER_FILES
    if name in OTHER_VOCABULARY:
        own = {file: path for file, path in own.items() if file not in OTHER_FILES}
        lending += OTHER_FILES
    lent = {p.name: p for f in lending if (p := tokenizer_folder(name) / f).is_file()}
    yield from (lent | own).values()


def make_small(name: str, folder: Path, to: Size = SMALL, **changes: Any) -> Path:
    """A small model of the kind of a real folder with random weights, in a folder of the same name below `folder`.

    `changes` are set in the configuration. Quantized models are made as what they were made of.
    """
    config = small(plain(read_config(name)), to)
    text_config(config).update(changes)
    out = _folder(name, folder, config)
    random = np.random.default_rng(len(name))
    held = shapes(config) | beside(name, to.layers)
    tensors = {n: _bfloat16(random.normal(0, 0.05, s), "norm" in n) for n, s in held.items()}
    header = _header(held)
    with (out / "model.safetensors").open("wb") as file:
        file.write(header)
        for values in tensors.values():
            file.write(values.tobytes())
    return out


def make_sparse(name: str, folder: Path, shard_bytes: int = 5 << 30, **changes: Any) -> Path:
    """A model of the published size whose weights are holes: nothing is stored, everything can be planned."""
    config = plain(read_config(name))
    text_config(config).update(changes)
    out = _folder(name, folder, config)
    make_holes(out, shapes(config) | beside(name, text_config(config)["num_hidden_layers"]), shard_bytes)
    return out


def make_sparse_of_rows(name: str, folder: Path, **changes: Any) -> Path:
    """The same of any family, with the tensors that its rows ask for."""
    config = plain(read_config(name))
    text_config(config).update(changes)
    family = find_family(config).family
    outer = "language_model." if text_config(config) is not config else ""
    out = _folder(name, folder, config)
    make_holes(out, {outer + info.name: info.shape for info in headers(family, family.hparams(config))})
    return out


def make_holes(out: Path, tensors: Mapping[str, Shape], shard_bytes: int = 5 << 30) -> None:
    """Shards with an index, whose headers name these tensors, and whose weights are holes."""
    shards: list[dict[str, Shape]] = [{}]
    filled = 0
    for tensor, shape in tensors.items():
        if filled and filled + 2 * prod(shape) > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][tensor] = shape
        filled += 2 * prod(shape)
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for file, held in zip(names, shards, strict=True):
        header = _header(held)
        (out / file).write_bytes(header)
        os.truncate(out / file, len(header) + sum(2 * prod(shape) for shape in held.values()))
    index = {tensor: file for file, held in zip(names, shards, strict=True) for tensor in held}
    total = sum(2 * prod(shape) for held in shards for shape in held.values())
    (out / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    )


def _folder(name: str, folder: Path, config: dict[str, Any]) -> Path:
    out = folder / name
    out.mkdir(parents=True)
    (out / "config.json").write_text(json.dumps(config, indent=1))
    for path in side_files(name):
        (out / path.name).write_bytes(path.read_bytes())
    return out


def _bfloat16(values: np.ndarray[Any, Any], norm: bool) -> np.ndarray[Any, Any]:
    """The upper halves of float32; norms lie around one."""
    return ((values + norm).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _header(tensors: Mapping[str, Shape]) -> bytes:
    entries, offset = {}, 0
    for name, shape in tensors.items():
        end = offset + 2 * prod(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return struct.pack("<Q", len(text)) + text
