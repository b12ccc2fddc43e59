"""Models in Mistral's own layout, made of checkpoint folders as transformers saves them.

The way back of `quantkit.source.mistral`, written from the formula of the papers: a rotation pair of a head is rows
j and j + head/2 for transformers, and rows 2j and 2j + 1 for Mistral.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_folder import Stored, encode, header

PLACES = {
    "model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output",
    "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3",
    "block_sparse_moe.gate": "feed_forward.gate",
}  # fmt: skip


def own_name(name: str) -> str:
    """The name that Mistral gives to a tensor of transformers."""
    bare = name.removesuffix(".weight").removeprefix("model.layers.")
    if bare in PLACES:
        return f"{PLACES[bare]}.weight"
    layer, _, inner = bare.partition(".")
    inner = re.sub(r"^block_sparse_moe\.experts", "feed_forward.experts", PLACES.get(inner, inner))
    return f"layers.{layer}.{inner}.weight"


def own_rows(name: str, tensor: Stored, head: int) -> Stored:
    """A tensor with its rows as Mistral orders them."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return tensor
    rows = np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape[0], -1)
    out = np.empty_like(rows)
    for row in range(len(rows)):
        first, inside = row - row % head, row % head
        pair, which = inside % (head // 2), inside // (head // 2)
        out[first + 2 * pair + which] = rows[row]
    return Stored(tensor.dtype, tensor.shape, out.tobytes())


def own_params(config: Mapping[str, Any]) -> dict[str, Any]:
    """The params.json for a config.json."""
    params = {
        "dim": config["hidden_size"], "n_layers": config["num_hidden_layers"], "head_dim": config["head_dim"],
        "hidden_dim": config["intermediate_size"], "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"], "norm_eps": config["rms_norm_eps"],
        "vocab_size": config["vocab_size"], "rope_theta": config["rope_theta"],
        "max_seq_len": config["max_position_embeddings"],
    }  # fmt: skip
    if "num_local_experts" in config:
        params["moe"] = {
            "num_experts": config["num_local_experts"], "num_experts_per_tok": config["num_experts_per_tok"]
        }  # fmt: skip
    return params


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a Mistral, or of a Mixtral where the configuration has experts."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    block = {
        "self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    mlp = {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    experts = config.get("num_local_experts", 0)
    if experts:
        one = {"w1": (inner, hidden), "w2": (hidden, inner), "w3": (inner, hidden)}
        mlp = {f"block_sparse_moe.experts.{i}.{name}": size for i in range(experts) for name, size in one.items()}
        mlp["block_sparse_moe.gate"] = (experts, hidden)
    layers = range(config["num_hidden_layers"])
    blocks = {f"model.layers.{i}.{name}.weight": size for i in layers for name, size in (block | mlp).items()}
    table = (config["vocab_size"], hidden)
    return {
        "model.embed_tokens.weight": table,
        **blocks,
        "model.norm.weight": (hidden,),
        "lm_head.weight": table,
    }


def write_own(
    folder: Path,
    tensors: Mapping[str, Stored],
    params: Mapping[str, Any],
    sides: Sequence[Path] = (),
    shards: int = 1,
) -> Path:
    """A folder in Mistral's own layout of tensors named and ordered as transformers does. With `shards` > 1 several
    files and their index."""
    folder.mkdir(parents=True)
    head = params.get("head_dim") or params["dim"] // params["n_heads"]
    own = {own_name(name): own_rows(name, tensor, head) for name, tensor in tensors.items()}
    (folder / "params.json").write_text(json.dumps(params))
    names = list(own)
    parts = [names[i * len(names) // shards : (i + 1) * len(names) // shards] for i in range(shards)]
    index = {}
    for number, part in enumerate(parts, 1):
        file = f"consolidated-{number:05d}-of-{shards:05d}.safetensors" if shards > 1 else "consolidated.safetensors"
        (folder / file).write_bytes(encode({name: own[name] for name in part}))
        index |= dict.fromkeys(part, file)
    if shards > 1:
        (folder / "consolidated.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    for path in sides:
        shutil.copyfile(path, folder / path.name)
    return folder


def write_sparse(folder: Path, config: Mapping[str, Any], params: Mapping[str, Any]) -> Path:
    """The same at any size, with weights that are holes."""
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(params))
    tensors = {own_name(name): Stored("BF16", size, b"") for name, size in shapes(config).items()}
    entries = header(tensors)
    stop = 0
    for entry in entries.values():
        size = 2 * int(np.prod(entry["shape"], dtype=np.int64))
        entry["data_offsets"] = [stop, stop + size]
        stop += size
    text = json.dumps(entries).encode()
    with (folder / "consolidated.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + stop)
    return folder
