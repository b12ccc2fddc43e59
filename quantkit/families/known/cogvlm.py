"""CogVLM: a Llama with attention and an MLP of their own for the tokens of images, in every layer.

Source: conversion/cogvlm.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.llama import LLAMA
from quantkit.families.roles import role_of
from quantkit.families.rows import NORMS, OWN_CODE, T

WIDE, NARROW = "intermediate_size hidden_size", "hidden_size intermediate_size"


def expert(kind: str, attention: str, inner: str) -> tuple[T, ...]:
    """Attention and MLP for one kind of token; their targets begin as `attention` and `inner` say."""
    rows = (
        (f"self_attn.{kind}_expert_query_key_value", f"{attention}attn_qkv", "qkv_rows hidden_size"),
        (f"self_attn.{kind}_expert_dense", f"{attention}attn_output", "hidden_size q_rows"),
        (f"mlp.{kind}_mlp.gate_proj", f"{inner}gate", WIDE),
        (f"mlp.{kind}_mlp.up_proj", f"{inner}up", WIDE),
        (f"mlp.{kind}_mlp.down_proj", f"{inner}down", NARROW),
    )
    return tuple(
        T(f"{source}.weight", f"{target}.weight", role_of(f"{target}.weight"), shape) for source, target, shape in rows
    )


def ungrouped(hparams: Hparams) -> Mapping[str, Any]:
    """Nothing. Raises UnsupportedError for CogVLM 2, several of whose queries share a key."""
    heads, kv_heads = hparams.count("num_attention_heads"), hparams.count("num_key_value_heads")
    if heads != kv_heads:
        what = f"{heads} heads share {kv_heads} keys and values, llama.cpp has no such CogVLM"
        raise UnsupportedError(what, key="num_multi_query_heads", hint="this variant has no graph in llama.cpp")
    return {}


COGVLM = replace(
    LLAMA,
    name="cogvlm",
    gguf="cogvlm",
    hf=("CogVLMForCausalLM",),
    defaults={
        "cogvlm": {
            "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    aliases={"num_multi_query_heads": "num_key_value_heads"},
    block=(*NORMS, *expert("language", "", "ffn_"), *expert("vision", "vis_", "vis_")),
    keys=keys.LLAMA,
    derive=(ungrouped,),
    folds=(),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (COGVLM,)
