"""Checkpoints of drafts: names and shapes as they are published, and the tables of tokens that they can draft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Shapes = dict[str, tuple[int, ...]]


def eagle3_shapes(config: Mapping[str, Any], block: str = "midlayer.", normed: bool = False) -> Shapes:
    """An EAGLE-3 of a target of the same width, with `normed` hidden states."""
    said = {**config, **config.get("transformer_layer_config", {})}
    hidden, inner, tokens = said["hidden_size"], said["intermediate_size"], config["draft_vocab_size"]
    head = said.get("head_dim") or hidden // said["num_attention_heads"]
    q, kv = said["num_attention_heads"] * head, said["num_key_value_heads"] * head
    linears = {
        "self_attn.q_proj": (q, 2 * hidden), "self_attn.k_proj": (kv, 2 * hidden),
        "self_attn.v_proj": (kv, 2 * hidden), "self_attn.o_proj": (hidden, q), "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    norms = ("input_layernorm", "hidden_norm", "post_attention_layernorm")
    return {
        **{f"{block}{name}.weight": shape for name, shape in linears.items()},
        **{f"{block}{name}.weight": (hidden,) for name in norms},
        "norm.weight": (hidden,), "lm_head.weight": (tokens, hidden), "fc.weight": (hidden, 3 * hidden),
        **({"input_norm.weight": (3 * hidden,)} if normed else {}),
    }  # fmt: skip


def with_tables(tensors: dict[str, Any]) -> None:
    """The tokens that are drafted: every third of the target, as distances, and as a flag for each of the target."""
    import torch

    count = len(tensors["lm_head.weight"])
    tokens = torch.arange(count) * 3 + 1
    tensors["d2t"] = tokens - torch.arange(count)
    tensors["t2d"] = torch.zeros(400, dtype=torch.bool).index_fill(0, tokens, True)


def dflash_shapes(config: Mapping[str, Any], start: str = "", states: int = 2) -> Shapes:
    """A DFlash that reads so many hidden states, each name with `start`."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    linears = {
        "self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    norms = {
        "input_layernorm": hidden, "post_attention_layernorm": hidden, "self_attn.q_norm": head,
        "self_attn.k_norm": head,
    }  # fmt: skip
    blocks = range(config["num_hidden_layers"])
    return {
        **{f"{start}layers.{n}.{name}.weight": shape for n in blocks for name, shape in linears.items()},
        **{f"{start}layers.{n}.{name}.weight": (width,) for n in blocks for name, width in norms.items()},
        f"{start}norm.weight": (hidden,), f"{start}hidden_norm.weight": (hidden,),
        f"{start}fc.weight": (hidden, states * hidden),
    }  # fmt: skip


def dspark_shapes(config: Mapping[str, Any], embeds: bool = True) -> Shapes:
    """A DSpark whose head looks at the token before, with tables of what it drafts where these are not all tokens."""
    hidden, tokens = config["hidden_size"], config.get("draft_vocab_size") or config["vocab_size"]
    return {
        **dflash_shapes(config), **({"embed_tokens.weight": (config["vocab_size"], hidden)} if embeds else {}),
        "lm_head.weight": (tokens, hidden), "markov_head.markov_w1.weight": (config["vocab_size"], 256),
        "markov_head.markov_w2.weight": (tokens, 256), "confidence_head.proj.weight": (1, hidden + 256),
        "confidence_head.proj.bias": (1,),
    }  # fmt: skip
