"""EXAONE-MoE (K-EXAONE): EXAONE 4's windows with norms before attention and MLP, and a mixture after dense layers.

Source: conversion/exaone.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.exaone4 import EXAONE4
from quantkit.families.layers import AFTER_TRUNK, IN_TRUNK, before, both, either, from_, further
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, MLP, NORMS, QK_NORMS, T, at, experts, shared_expert
from quantkit.families.spellings import Rename

DENSE, FURTHER, HIDDEN = "first_k_dense_replace", "num_nextn_predict_layers", "hidden_size"
PERIOD, LETTERS = 4, "LLLG"
MIXTURE = (
    *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
    T("mlp.gate.e_score_correction_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts"),
    *shared_expert("num_shared_experts*moe_intermediate_size", "mlp.shared_experts"),
)


def windows_by_period(hparams: Hparams) -> str | None:
    """Of four layers the last one attends to everything, whatever the file lists."""
    if hparams.values.get("sliding_window_pattern") == LETTERS:
        return None
    return assumptions.windows_every(PERIOD)(hparams)


EXAONE_MOE = replace(
    EXAONE4,
    name="exaone_moe",
    gguf="exaone-moe",
    hf=("ExaoneMoeForCausalLM", "ExaoneMoEForCausalLM"),
    defaults={
        "exaone_moe": {
            "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "sliding_window": 4096,
            "sliding_window_pattern": PERIOD, "first_k_dense_replace": 1, "moe_intermediate_size": 1024,
            "num_local_experts": 64, "num_experts_per_tok": 8, "num_shared_experts": 1, "norm_topk_prob": True,
            "routed_scaling_factor": 2.5, "n_group": 1, "topk_group": 1,
        },
    },
    aliases={"first_last_k_dense_replace": DENSE},
    block=(
        *NORMS,
        *ATTENTION,
        *QK_NORMS,
        *at(either(before(DENSE), AFTER_TRUNK), MLP),
        *at(both(from_(DENSE), IN_TRUNK), MIXTURE),
        *at(AFTER_TRUNK, (
            T("eh_proj.weight", "nextn.eh_proj.weight", Role.OTHER, "hidden_size 2*hidden_size"),
            T("enorm.weight", "nextn.enorm.weight", Role.NORM, HIDDEN),
            T("hnorm.weight", "nextn.hnorm.weight", Role.NORM, HIDDEN),
            T("shared_head.norm.weight", "nextn.shared_head_norm.weight", Role.NORM, HIDDEN),
        )),
    ),
    spellings=(
        Rename(r"mlp\.e_score_correction_bias$", "mlp.gate.e_score_correction_bias"),
        Rename(r"^mtp\.layers\.([0-9]+)\.", "model.layers.{}.", "mtp.layers.{}."),
        Rename(r"^mtp\.fc\.", "model.layers.{}.eh_proj.", "mtp.fc."),
        Rename(r"^mtp\.pre_fc_norm_embedding\.", "model.layers.{}.enorm.", "mtp.pre_fc_norm_embedding."),
        Rename(r"^mtp\.pre_fc_norm_hidden\.", "model.layers.{}.hnorm.", "mtp.pre_fc_norm_hidden."),
        Rename(r"^mtp\.norm\.", "model.layers.{}.shared_head.norm.", "mtp.norm."),
    ),
    seen=(further("model.layers.{}.eh_proj.weight", FURTHER),),
    keys=(
        *EXAONE4.keys,
        *(row for row in keys.ROUTED if row is not keys.gating),
        keys.sigmoid_unless_said,
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        keys.Key("expert_shared_count", "u32", "num_shared_experts"),
        keys.Key("expert_shared_feed_forward_length", "u32", "moe_intermediate_size*num_shared_experts"),
        keys.Key("expert_weights_scale", "f32", "routed_scaling_factor"),
        keys.Key("expert_weights_norm", "bool", "norm_topk_prob"),
        keys.Key("leading_dense_block_count", "u32", DENSE),
        keys.Key("nextn_predict_layers", "u32", FURTHER, default=0),
        keys.no_rope_scaling,
    ),
    assumes=(assumptions.silu, assumptions.yarn_temperature, windows_by_period),
    folds=(folds.VALUES, *folds.INNER),
)  # fmt: skip

FAMILIES = (EXAONE_MOE,)
