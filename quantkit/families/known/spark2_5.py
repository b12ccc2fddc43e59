"""Spark X2.5: windows and a fused matrix of queries, keys and values, with a gate for each head behind attention.

Source: conversion/spark2_5.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import keys
from quantkit.families.fixed import require_only
from quantkit.families.hparams import Hparams
from quantkit.families.known.laguna import part_in_windows
from quantkit.families.layers import listed
from quantkit.families.roles import Role
from quantkit.families.rows import FREQUENCIES, MLP, NORMS, OUTSIDE, OWN_CODE, Family, T, without_biases

KNOWN = {"gate_attn_act_mode": "sigmoid", "headwise_attn_output_gate": True, "hidden_act": "gelu"}


def checked(hparams: Hparams) -> Mapping[str, Any]:
    """Nothing. Raises UnsupportedError for what the graph has no place for."""
    require_only(hparams, KNOWN)
    return {}


SPARK2_5 = Family(
    name="spark2_5",
    gguf="spark2_5",
    hf=("Spark2_5ForCausalLM",),
    defaults={
        "spark2_5": {
            "vocab_size": 131072, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "rope_theta": 10000.0, "rope_local_base_freq": None,
        },
    },
    outside=OUTSIDE,
    block=(
        *NORMS,
        T("self_attn.q_k_v_proj.weight", "attn_qkv.weight", Role.ATTN_QKV, "qkv_rows hidden_size"),
        T("self_attn.g_proj.weight", "attn_gate.weight", Role.OTHER, "num_attention_heads hidden_size"),
        T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
        *without_biases(MLP),
    ),
    keys=(
        *keys.COMMON,
        keys.VOCAB_SIZE,
        keys.SLIDING_WINDOW,
        keys.windows,
        keys.rotated_part(1.0),
        keys.computed("rope.dimension_count_swa", "u32", part_in_windows),
    ),
    drop=(FREQUENCIES,),
    derive=(
        listed("layer_types", {"sliding_attention": "sliding_attention", "full_attention": "full_attention"}),
        checked,
    ),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (SPARK2_5,)
