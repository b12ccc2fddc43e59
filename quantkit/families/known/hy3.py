"""Hy3 (Hunyuan 3): a mixture after dense layers, with a block that predicts one token more.

Source: conversion/hunyuan.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.glm4_moe import FURTHER, NEXT, SEEN
from quantkit.families.layers import AFTER_TRUNK, TRUNK, by_rule, either, first_said, kind, listed
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    MLP,
    NORMS,
    OUTSIDE,
    QK_NORMS,
    Family,
    T,
    at,
    experts,
    shared_expert,
)
from quantkit.families.spellings import Rename

DENSE, SPARSE = "dense", "sparse"
ROUTER = "mlp.router.gate.weight"
SHARED = "num_shared_experts*moe_intermediate_size"
MIXTURE = (
    *(
        replace(t, source=ROUTER) if t.role is Role.ROUTER else t
        for t in experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj")
    ),
    T("mlp.expert_bias", "exp_probs_b", Role.BIAS, "num_local_experts"),
    *shared_expert(SHARED, "mlp.shared_mlp"),
)


def leading(hparams: Hparams, layer: int) -> bool:
    """Dense layers come first: one, where config.json says no number."""
    said = hparams.number("first_k_dense_replace")
    return layer < (1 if said is None else said)


def of_file(hparams: Hparams) -> Mapping[str, Any]:
    """Which layers are dense, by their tensors, and how many experts the shared one stands for."""
    there, count = hparams.values["file.tensors"], hparams.count(TRUNK)
    width, shared = (hparams.number(key) for key in ("moe_intermediate_size", "file.shared_width"))
    return {
        "mlp_layer_types": [SPARSE if f"blk.{n}.ffn_gate_inp.weight" in there else DENSE for n in range(count)],
        "num_shared_experts": int(shared // width) if shared and width else 0,
    }


HY3 = Family(
    name="hy_v3",
    gguf="hy_v3",
    hf=("HYV3ForCausalLM",),
    defaults={
        "hy_v3": {
            "vocab_size": 120832, "hidden_size": 4096, "intermediate_size": 13312, "num_hidden_layers": 80,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 11158840.0, "tie_word_embeddings": False, "num_local_experts": 192,
            "num_experts_per_tok": 8, "num_shared_experts": 1, "moe_intermediate_size": 1536,
            "router_scaling_factor": 2.826,
        },
    },
    outside=OUTSIDE,
    block=(
        *NORMS,
        *ATTENTION,
        *QK_NORMS,
        *at(kind(DENSE), MLP),
        *at(either(kind(SPARSE), AFTER_TRUNK), MIXTURE),
        *(replace(t, source=t.source.replace("shared_head.norm.", "final_layernorm.")) for t in NEXT),
    ),
    keys=(
        *keys.COMMON,
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        keys.Key("expert_shared_feed_forward_length", "u32", SHARED),
        keys.Key("expert_weights_norm", "bool", "route_norm", default=1),
        keys.Key("expert_weights_scale", "f32", "router_scaling_factor"),
        keys.computed("expert_gating_func", "u32", lambda hparams: keys.GATING["sigmoid"]),
        keys.Key("nextn_predict_layers", "u32", FURTHER, nonzero=True),
    ),
    drop=(FREQUENCIES,),
    # transformers 5 holds the router and the expert of every token under the names of other families
    spellings=(
        Rename(r"\.mlp\.gate\.weight$", ".mlp.router.gate.weight"),
        Rename(r"\.mlp\.e_score_correction_bias$", ".mlp.expert_bias"),
        Rename(r"\.mlp\.shared_experts\.", ".mlp.shared_mlp."),
    ),
    derive=(
        first_said(
            "mlp_layer_types",
            listed("mlp_layer_types", {DENSE: DENSE, SPARSE: SPARSE}),
            by_rule(DENSE, leading, SPARSE),
        ),
    ),
    seen=(SEEN,),
    back={
        "expert_shared_feed_forward_length": "file.shared_width", "expert_weights_scale": "router_scaling_factor",
        "expert_weights_norm": "route_norm",
    },
    graph=of_file,
    assumes=(assumptions.silu, assumptions.yarn_temperature),
    computes=frozenset({"router_scaling_factor", "enable_moe_fp32_combine"}),
    folds=(folds.ATTENTION_IN, folds.VALUES, *folds.INNER),
)  # fmt: skip

FAMILIES = (HY3,)
