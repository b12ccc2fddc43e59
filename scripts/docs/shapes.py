"""The headers of a model of the shape of Llama 3.1 8B: all that plans read. Its weights are a hole in a file."""

from __future__ import annotations

import json
import os
import shutil
import struct
from math import prod
from pathlib import Path

SMALL = Path(__file__).parents[2] / "tests" / "data" / "docs-llama-tiny"  # whose tokenizer it borrows
LAYERS, HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 32, 4096, 14336, 32, 8, 128, 128256
ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def write_llama_8b(folder: Path) -> Path:
    """Write the folder of a checkpoint, a few kilobytes on disk, and return it."""
    folder.mkdir(parents=True)
    for path in SMALL.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder)
    config = json.loads((SMALL / "config.json").read_text(encoding="utf-8"))
    config |= {
        "num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "intermediate_size": FFN, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCAB, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "rope_parameters": ROPE,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    entries, end = {}, 0
    for name, shape in _shapes().items():
        start, end = end, end + 2 * prod(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    weights = folder / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(weights, 8 + len(header) + end)
    return folder


def _shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        found |= {f"{block}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
        found |= {f"{block}self_attn.{name}_proj.weight": (HIDDEN, HEADS * HEAD_DIM) for name in "qo"}
        found |= {f"{block}self_attn.{name}_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN) for name in "kv"}
        found |= {f"{block}mlp.{name}_proj.weight": (FFN, HIDDEN) for name in ("gate", "up")}
        found[f"{block}mlp.down_proj.weight"] = (HIDDEN, FFN)
    return {**found, "model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}
