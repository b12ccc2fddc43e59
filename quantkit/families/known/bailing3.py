"""Ling 3: linear attention with a gate for each channel (KDA), latent attention in the last layer of each group, and a
mixture.

Source: conversion/bailingmoe3.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import assumptions, folds, keys
from quantkit.families.fixed import require_only
from quantkit.families.hparams import Hparams, bad_value
from quantkit.families.known.bailing import EMBEDDING, without_further
from quantkit.families.known.deepseek import ATTENTION as LATENT
from quantkit.families.known.kimi_linear import ATTN, FULL, KDA, LINEAR
from quantkit.families.known.step35 import limits
from quantkit.families.layers import TRUNK, before, both, by_rule, from_, kind
from quantkit.families.layouts import column, lead
from quantkit.families.roles import Role
from quantkit.families.rows import (
    FINAL_NORM,
    FREQUENCIES,
    HEAD,
    MLP,
    NORMS,
    Family,
    T,
    at,
    experts,
    shared_expert,
    without_biases,
)
from quantkit.families.spellings import Rename

DENSE, GROUP = "first_k_dense_replace", "layer_group_size"
SHARED_WIDTH, CONV = "moe_shared_expert_intermediate_size", "short_conv_kernel_size"
WIDTH = 128  # dimensions of a head of linear layers where config.json is silent
KNOWN = {"no_kda_lora": True, "kda_safe_gate": True, "gated_attention_proj_granularity_type": "head_wise"}


def sections(hparams: Hparams) -> list[int] | None:
    """How many pairs each axis of a position has, of the language model of a model that sees; None for any other.

    Raises InputError where the pairs are not those that are rotated.
    """
    said = hparams.values.get("mrope_section")
    if said is None:
        return None
    counts = isinstance(said, list) and len(said) >= 3 and all(type(n) is int and n >= 0 for n in said)
    if not counts or 2 * sum(said[:3]) != hparams.number("qk_rope_head_dim"):
        raise bad_value("mrope_section", said, "three counts of pairs, together half of qk_rope_head_dim")
    return [*said[:3], 0]


def checked(hparams: Hparams) -> Mapping[str, Any]:
    """The numbers of linear layers. Raises UnsupportedError for what the graph has no place for."""
    require_only(hparams, KNOWN, silent=True)
    # transformers 5 means by head_dim what latent attention rotates, and has that of linear layers apart
    said = next((key for key in ("linear_head_dim", "head_dim") if hparams.values.get(key) is not None), None)
    shared = hparams.count("moe_intermediate_size") * hparams.count("n_shared_experts")
    return {
        "linear_num_heads": hparams.count("num_attention_heads"), "one": 1,
        "linear_head_dim": WIDTH if said is None else hparams.count(said),
        "compressed": hparams.number("q_lora_rank") is not None,
        SHARED_WIDTH: hparams.values.get(SHARED_WIDTH) or shared, "sections": sections(hparams),
    }  # fmt: skip


def last_of_group(hparams: Hparams, layer: int) -> bool:
    """Latent attention is in the last layer of each group, and in those of a group that is not full."""
    size = hparams.count(GROUP)
    return (layer + 1) % size == 0 or layer >= hparams.count(TRUNK) // size * size


DELTA = (
    *(T(f"self_attn.{n}_proj.weight", f"attn_{n}.weight", role, f"{KDA} hidden_size") for n, role in ATTN),
    *(T(f"self_attn.{n}_conv1d.weight", f"ssm_conv1d_{n}.weight", Role.OTHER, f"{KDA} 1 {CONV}", lead)
      for n, _ in ATTN),
    T("self_attn.f_proj.weight", "ssm_f_a.weight", Role.OTHER, f"{KDA} hidden_size"),
    T("self_attn.b_proj.weight", "ssm_beta.weight", Role.OTHER, "linear_num_heads hidden_size"),
    T("self_attn.A_log", "ssm_a", Role.OTHER, "linear_num_heads", column, value="-exp *0-1"),
    T("self_attn.dt_bias", "ssm_dt.bias", Role.BIAS, KDA),
    T("self_attn.g_proj.weight", "ssm_g_a.weight", Role.OTHER, f"{KDA} hidden_size"),
    T("self_attn.o_norm.weight", "ssm_norm.weight", Role.NORM, "linear_head_dim"),
    T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, f"hidden_size {KDA}"),
)  # fmt: skip
GATE = T("self_attn.g_proj.weight", "attn_gate.weight", Role.OTHER, "num_attention_heads hidden_size")
MIXTURE = (
    *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
    T("mlp.gate.expert_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts"),
    *shared_expert(SHARED_WIDTH, "mlp.shared_experts"),
)


BAILING_MOE3 = Family(
    name="bailing_moe3",
    gguf="bailingmoe3",
    hf=("BailingMoeV3ForCausalLM", "BailingHybridForCausalLM"),
    defaults={
        "bailing_hybrid": {
            "vocab_size": 157184, "hidden_size": 2560, "intermediate_size": 6144, "num_hidden_layers": 42,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-6, "rope_theta": 6e6, "tie_word_embeddings": False, "kv_lora_rank": 512,
            "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
            "num_local_experts": 512, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "n_shared_experts": 1,
            "routed_scaling_factor": 2.5, "norm_topk_prob": True, "n_group": 8, "topk_group": 4, DENSE: 2,
            CONV: 4, GROUP: 6, "kda_safe_gate": True, "kda_lower_bound": -5.0,
        },
    },
    outside=(EMBEDDING, FINAL_NORM, HEAD),
    block=(
        *NORMS,
        *at(kind(LINEAR), DELTA),
        *(replace(t, where=both(kind(FULL), t.where)) for t in (*without_biases(LATENT), GATE)),
        *at(before(DENSE), without_biases(MLP)),
        *at(from_(DENSE), MIXTURE),
    ),
    keys=(
        *keys.without(keys.COMMON, "attention.head_count_kv", "attention.key_length", "attention.value_length"),
        *keys.ROUTED,
        keys.per_layer("attention.head_count_kv", "i32", "one", kind(FULL)),
        # the reference leaves here the dimensions of a head of linear layers
        keys.Key("attention.key_length", "u32", "kv_lora_rank+qk_rope_head_dim"),
        keys.Key("attention.value_length", "u32", "linear_head_dim"),
        keys.Key("attention.key_length_mla", "u32", "qk_nope_head_dim+qk_rope_head_dim"),
        keys.Key("attention.value_length_mla", "u32", "v_head_dim"),
        keys.Key("attention.q_lora_rank", "u32", "q_lora_rank"),
        keys.Key("attention.kv_lora_rank", "u32", "kv_lora_rank"),
        keys.VOCAB_SIZE,
        keys.Key("rope.dimension_count", "u32", "qk_rope_head_dim"),
        keys.Key("ssm.conv_kernel", "u32", CONV),
        keys.Key("kda.head_dim", "u32", "linear_head_dim"),
        keys.Key("kda.safe_gate", "bool", "kda_safe_gate"),
        keys.Key("kda.gate_lower_bound", "f32", "kda_lower_bound"),
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        keys.Key("expert_shared_feed_forward_length", "u32", SHARED_WIDTH),
        keys.Key("expert_shared_count", "u32", "n_shared_experts"),
        keys.Key("leading_dense_block_count", "u32", DENSE),
        keys.Key("expert_weights_scale", "f32", "routed_scaling_factor"),
        keys.Key("expert_weights_norm", "bool", "norm_topk_prob"),
        limits("swiglu_clamp_exp", "f32", "expert_swiglu_limit_list"),
        limits("swiglu_clamp_shexp", "f32", "share_expert_swiglu_limit_list"),
        keys.Key("rope.dimension_sections", "i32", "sections", array=True),
    ),
    drop=(FREQUENCIES,),
    # transformers 5 holds attention under the names of other families
    spellings=(
        Rename(r"^model\.embed_tokens\.", "model.word_embeddings."),
        Rename(r"\.attention\.dense\.", ".self_attn.o_proj."),
        Rename(r"\.attention\.", ".self_attn."),
        Rename(r"\.forget_gate\.", "."),
        Rename(r"\.mlp\.gate\.e_score_correction_bias$", ".mlp.gate.expert_bias"),
    ),
    aliases={
        "num_experts_per_token": "num_experts_per_tok", "num_shared_experts": "n_shared_experts",
        "model_max_length": "max_position_embeddings", "num_expert_group": "n_group",
        "moe_renormalize": "norm_topk_prob", "n_routed_experts": "num_local_experts",
    },
    derive=(without_further, checked, by_rule(FULL, last_of_group, LINEAR)),
    assumes=(assumptions.silu, assumptions.yarn_temperature),
    computes=frozenset({
        "num_experts_per_token", "num_expert_group", "model_max_length", "moe_renormalize", "linear_head_dim", CONV,
        GROUP, "kda_safe_gate", "kda_lower_bound",
    }),
    folds=folds.INNER,
    renamed=tuple(f"model.layers.{{}}.self_attn.{name}" for name in ("forget_gate.f_proj", "b_proj", "g_proj")),
)  # fmt: skip

FAMILIES = (BAILING_MOE3,)
