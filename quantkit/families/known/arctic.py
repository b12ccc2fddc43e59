"""Snowflake Arctic: a small MLP in the residual stream, and a mixture beside it.

Source: conversion/arctic.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, keys
from quantkit.families.known.llama import LLAMA
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, OWN_CODE, T, TokenizerRules, experts, rotated

WIDE = "hidden_size hidden_size"

ARCTIC = replace(
    LLAMA,
    name="arctic",
    gguf="arctic",
    hf=("ArcticForCausalLM",),
    defaults={
        "arctic": {
            "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": False, "num_local_experts": 8,
            "num_experts_per_tok": 1,
        },
    },
    block=(
        T("input_layernorm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        T("residual_layernorm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        T("post_attention_layernorm.weight", "ffn_norm_exps.weight", Role.NORM, "hidden_size"),
        *rotated(ATTENTION),
        T("residual_mlp.w1.weight", "ffn_gate.weight", Role.FFN_GATE, WIDE),
        T("residual_mlp.w3.weight", "ffn_up.weight", Role.FFN_UP, WIDE),
        T("residual_mlp.w2.weight", "ffn_down.weight", Role.FFN_DOWN, WIDE),
        *experts("intermediate_size", "block_sparse_moe", "w1", "w3", "w2"),
    ),
    keys=keys.LLAMA,
    extra=None,
    assumes=(assumptions.silu, assumptions.no_window),
    folds=(),
    tokens=TokenizerRules(),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (ARCTIC,)
