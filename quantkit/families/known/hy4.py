"""Hy4: latent attention with a gate, sinks and an indexer, several streams of hidden states, and a mixture.

Source: conversion/hy_v4.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.deepseek import ATTENTION, KEYS, numbers
from quantkit.families.known.deepseek32 import INDEXER, INDEXER_KEYS, OF_INDEXER
from quantkit.families.known.glm5 import INDEXED, SHARED, WHOLE, dense_first, indexer_types
from quantkit.families.layers import TRUNK, before, block_count, flagged, from_, not_
from quantkit.families.roles import Role
from quantkit.families.rows import (
    EMBEDDING,
    FINAL_NORM,
    FREQUENCIES,
    HEAD,
    MLP,
    NORMS,
    Drop,
    Family,
    T,
    at,
    experts,
    shared_expert,
    without_biases,
)

STREAMS, DENSE, LIMIT, EXACT_HEAD = "hc_mult", "dense_layers", "swiglu_limit", "enable_lm_head_fp32"
CHOICE_EVERY = 4  # layers that share a choice, after the first one


def filled(hparams: Hparams) -> Mapping[str, Any]:
    """What transformers fills in: kinds of MLPs, and which layers choose. A single group of experts is none."""
    said, trunk = hparams.values.get("indexer_types"), hparams.count(TRUNK)
    if said is None:
        said = [WHOLE if layer == 0 or layer % CHOICE_EVERY == 1 else SHARED for layer in range(trunk)]
    one = hparams.number("n_group") == hparams.number("topk_group") == 1
    groups = {"n_group": None, "topk_group": None} if one else {}
    return {"indexer_types": said, "mlp_layer_types": dense_first(hparams), **groups}


def pairs(hparams: Hparams) -> str:
    """Which of both the weights are made for, no published description says: files are as llama.cpp's converter's."""
    return "it rotates dimensions side by side, where transformers 5.24 rotates halves of a head"


def limits(hparams: Hparams) -> object:
    """What the gates of experts are cut off at in each block, where they are."""
    limit = hparams.number(LIMIT)
    return (limit,) * block_count(hparams) if limit is not None and limit > 0 else None


def streams(source: str, target: str, rows: str, scales: int) -> tuple[T, ...]:
    """How streams are mixed: a matrix that stays f32, what is added, and a scale for each kind of weight."""
    return (
        T(f"{source}_fn", f"{target}_fn.weight", Role.OTHER, f"{rows} {STREAMS}*hidden_size", f32=True),
        T(f"{source}_base", f"{target}_base.weight", Role.OTHER, rows),
        T(f"{source}_scale", f"{target}_scale.weight", Role.OTHER, str(scales)),
    )


MIXTURE = (
    *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
    T("mlp.gate.e_score_correction_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts"),
    *shared_expert("n_shared_experts*moe_intermediate_size", "mlp.shared_experts"),
)

HY4 = Family(
    name="hy_v4",
    gguf="hy_v4",
    hf=("HYV4ForCausalLM",),
    defaults={
        "hy_v4": {
            "vocab_size": 120832, "hidden_size": 2816, "intermediate_size": 6912, "num_hidden_layers": 34,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "q_lora_rank": 1536,
            "kv_lora_rank": 512, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256,
            "num_local_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "n_shared_experts": 1,
            "routed_scaling_factor": 2.827, "norm_topk_prob": True, "n_group": 1, "topk_group": 1,
            "index_topk": 2048, "index_head_dim": 128, "index_n_heads": 16, STREAMS: 4, "hc_magnitude": 2.0,
            "hc_eps": 1e-6, LIMIT: 10.0,
        },
    },
    outside=(
        EMBEDDING,
        FINAL_NORM,
        replace(HEAD, where=not_(flagged(EXACT_HEAD))),
        replace(HEAD, where=flagged(EXACT_HEAD), f32=True),
        *streams("model.hc_head.hc_head", "output_hc", STREAMS, 1),
    ),
    block=(
        *NORMS,
        *without_biases(ATTENTION),
        T("self_attn.linear_gate.weight", "attn_gate.weight", Role.OTHER, "num_attention_heads*v_head_dim hidden_size"),
        T("self_attn.learnable_sink_param", "attn_sinks.weight", Role.OTHER, "num_attention_heads"),
        *at(INDEXED, INDEXER),
        *streams("hc_attn_layer.hc_pre.hc", "hc_attn", f"2*{STREAMS}", 2),
        *streams("hc_mlp_layer.hc_pre.hc", "hc_ffn", f"2*{STREAMS}", 2),
        *at(before(DENSE), without_biases(MLP)),
        *at(from_(DENSE), MIXTURE),
    ),
    keys=(
        *(row for row in KEYS if row is not keys.gating),
        keys.computed("expert_gating_func", "u32", lambda hparams: keys.GATING["sigmoid"]),
        keys.computed("swiglu_clamp_exp", "f32", limits),
        keys.Key("hyper_connection.count", "u32", STREAMS),
        keys.Key("hyper_connection.epsilon", "f32", "hc_eps"),
        keys.Key("hyper_connection.magnitude", "f32", "hc_magnitude"),
        *INDEXER_KEYS,
        keys.computed(
            "attention.indexer.types", "bool",
            lambda hparams: tuple(INDEXED(hparams, layer) for layer in range(hparams.count(TRUNK))),
        ),
    ),
    drop=(FREQUENCIES, Drop("model.mtp_layers.*", "llama.cpp predicts no further tokens with this architecture")),
    aliases={"n_routed_experts": "num_local_experts"},
    derive=(filled, numbers, indexer_types),
    assumes=(assumptions.silu, assumptions.yarn_temperature, pairs),
    computes=OF_INDEXER | {"indexer_types", STREAMS, "hc_magnitude", "hc_eps", "learnable_sink_init"},
    folds=(folds.MLP_OUT, folds.SHARED_OUT),  # what up gives is cut off in experts
)  # fmt: skip

FAMILIES = (HY4,)
