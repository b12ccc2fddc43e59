"""AFMoE (Trinity): a mixture after dense layers, with a gate behind attention and norms on both sides of everything.

Source: conversion/afmoe.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.layers import before, from_
from quantkit.families.placements import rope_freqs
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    MLP,
    OUTSIDE,
    QK_NORMS,
    Family,
    T,
    TokenizerRules,
    at,
    experts,
    shared_expert,
)

DENSE, HIDDEN = "num_dense_layers", "hidden_size"
GLOBAL_EVERY = 4


def scaled_embeddings(hparams: Hparams) -> str | None:
    """Embeddings are multiplied by the root of their width."""
    return None if hparams.flag("mup_enabled") else "mup_enabled is not set, it scales embeddings all the same"


def global_every_fourth(hparams: Hparams) -> str | None:
    """Of four layers the last one attends to everything, and alone is not rotated."""
    said = hparams.number("global_attn_every_n_layers")
    if not isinstance(hparams.values.get("layer_types"), list) and said not in (None, GLOBAL_EVERY):
        return f"global_attn_every_n_layers is {said:g}, it takes {GLOBAL_EVERY}"
    return assumptions.windows_every(GLOBAL_EVERY)(hparams)


MIXTURE = (
    *(
        replace(t, source="mlp.router.gate.weight") if t.role is Role.ROUTER else t
        for t in experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj")
    ),
    T("mlp.expert_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts"),
    *shared_expert("num_shared_experts*moe_intermediate_size", "mlp.shared_experts"),
)

AFMOE = Family(
    name="afmoe",
    gguf="afmoe",
    hf=("AfmoeForCausalLM",),
    defaults={
        "afmoe": {
            "vocab_size": 200192, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 32,
            "num_attention_heads": 16, "num_key_value_heads": None, "head_dim": 128, "max_position_embeddings": 16384,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "sliding_window": 1024,
            "num_local_experts": 64, "num_experts_per_tok": 6, "num_shared_experts": 2, "num_dense_layers": 1,
            "moe_intermediate_size": 1408, "route_scale": 1.0,
        },
    },
    outside=OUTSIDE,
    block=(
        T("input_layernorm.weight", "attn_norm.weight", Role.NORM, HIDDEN),
        *ATTENTION,
        *QK_NORMS,
        T("self_attn.gate_proj.weight", "attn_gate.weight", Role.OTHER, "q_rows hidden_size"),
        T("post_attention_layernorm.weight", "post_attention_norm.weight", Role.NORM, HIDDEN),
        T("pre_mlp_layernorm.weight", "ffn_norm.weight", Role.NORM, HIDDEN),
        *at(before(DENSE), MLP),
        *at(from_(DENSE), MIXTURE),
        T("post_mlp_layernorm.weight", "post_ffw_norm.weight", Role.NORM, HIDDEN),
    ),
    keys=(
        *keys.LLAMA,
        *(row for row in keys.ROUTED if row is not keys.gating),
        keys.sigmoid_unless_said,
        keys.Key("expert_shared_count", "u32", "num_shared_experts"),
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        keys.Key("leading_dense_block_count", "u32", DENSE),
        keys.Key("expert_weights_norm", "bool", "route_norm", default=1),
        keys.Key("expert_weights_scale", "f32", "route_scale"),
        keys.SLIDING_WINDOW,
    ),
    drop=(FREQUENCIES,),
    extra=rope_freqs,
    assumes=(assumptions.silu, scaled_embeddings, global_every_fourth, assumptions.yarn_temperature),
    graph=lambda hparams: {"mup_enabled": True, "global_attn_every_n_layers": 4},
    computes=frozenset({"mup_enabled", "route_scale", "route_norm", "global_attn_every_n_layers", "score_func"}),
    folds=(folds.VALUES, *folds.INNER),
    tokens=TokenizerRules(prefix_setting=True),
)  # fmt: skip

FAMILIES = (AFMOE,)
