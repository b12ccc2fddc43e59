"""Ling and Ring: mixtures of the first generation (a Llama's rotation) and of the second (normalized queries)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import assumptions, keys
from quantkit.families.hparams import Hparams
from quantkit.families.layers import before, from_
from quantkit.families.placements import part_of_values, rotated_part_of_keys, rotated_part_of_queries
from quantkit.families.roles import Role
from quantkit.families.rows import (
    FINAL_NORM,
    FREQUENCIES,
    HEAD,
    MLP,
    NORMS,
    OWN_CODE,
    Family,
    T,
    at,
    experts,
    shared_expert,
    without_biases,
)

FUSED, QKV = "attention.query_key_value.weight", "qkv_rows hidden_size"
DENSE = "first_k_dense_replace"
EMBEDDING = T("model.word_embeddings.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size")
OUTPUT = T("attention.dense.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows")
MIXTURE = (
    *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
    *shared_expert("num_shared_experts*moe_intermediate_size", "mlp.shared_experts"),
)
NUMBERS = {
    "vocab_size": 126464, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 16384, "rms_norm_eps": 1e-6,
    "rope_theta": 600000.0, "tie_word_embeddings": False, "num_local_experts": 64, "num_experts_per_tok": 6,
    "moe_intermediate_size": 1408, "num_shared_experts": 2, "first_k_dense_replace": 0, "norm_topk_prob": True,
}  # fmt: skip
COUNTS = (
    keys.Key("leading_dense_block_count", "u32", DENSE),
    keys.VOCAB_SIZE,
    keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
    keys.Key("expert_shared_count", "u32", "num_shared_experts"),
    keys.Key("expert_weights_norm", "bool", "norm_topk_prob"),
)


def plain_head(hparams: Hparams) -> Mapping[str, Any]:
    """Nothing. Raises UnsupportedError for a head whose rows are normalized at run time."""
    if hparams.flag("norm_head"):
        message = "the output head is normalized when the model runs (norm_head)"
        raise UnsupportedError(message, key="norm_head", hint="use llama.cpp's converter, which normalizes the matrix")
    return {}


def without_further(hparams: Hparams) -> Mapping[str, Any]:
    """Nothing. Raises UnsupportedError for a model that says it has blocks which predict further tokens."""
    if hparams.number("num_nextn_predict_layers"):
        message = "blocks that predict further tokens (num_nextn_predict_layers) are not converted for this family"
        hint = "use llama.cpp's converter, or a checkpoint without them: 0 there, and no tensors after the last layer"
        raise UnsupportedError(message, key="num_nextn_predict_layers", hint=hint)
    return {}


def shared_width(hparams: Hparams) -> int:
    """The width of the experts that read every token."""
    said = hparams.number("moe_shared_expert_intermediate_size")
    return int(said) if said else hparams.count("moe_intermediate_size") * hparams.count("num_shared_experts")


def square_queries(hparams: Hparams) -> str | None:
    """There are as many rows of queries as hidden channels."""
    rows, hidden = hparams.count("q_rows"), hparams.count("hidden_size")
    return None if rows == hidden else f"queries have {rows} rows, it takes {hidden} and does not load the file"


BAILING_MOE = Family(
    name="bailing_moe",
    gguf="bailingmoe",
    hf=("BailingMoeForCausalLM",),
    defaults={"bailing_moe": NUMBERS},
    derive=(plain_head,),
    outside=(EMBEDDING, FINAL_NORM, HEAD),
    block=(
        *NORMS,
        T(FUSED, "attn_q.weight", Role.ATTN_Q, QKV, rotated_part_of_queries),
        T(FUSED, "attn_k.weight", Role.ATTN_K, QKV, rotated_part_of_keys),
        T(FUSED, "attn_v.weight", Role.ATTN_V, QKV, part_of_values),
        OUTPUT,
        *MIXTURE,
    ),
    keys=(
        *keys.COMMON,
        *COUNTS,
        keys.Key("rope.dimension_count", "u32", "head"),
        keys.computed("expert_weights_scale", "f32", lambda hparams: 1.0),
    ),
    drop=(FREQUENCIES,),
    assumes=(assumptions.silu,),
    unserved=OWN_CODE,
)  # fmt: skip
HALF = keys.rotated_part(0.5)
BAILING_MOE2 = Family(
    name="bailing_moe2",
    gguf="bailingmoe2",
    hf=("BailingMoeV2ForCausalLM",),
    defaults={"bailing_moe_v2": {**NUMBERS, "routed_scaling_factor": 1.0, "head_dim": None}},
    derive=(plain_head, without_further),
    outside=(EMBEDDING, FINAL_NORM, HEAD),
    block=(
        *NORMS,
        T(FUSED, "attn_qkv.weight", Role.ATTN_QKV, QKV),
        OUTPUT,
        T("attention.query_layernorm.weight", "attn_q_norm.weight", Role.NORM, "head"),
        T("attention.key_layernorm.weight", "attn_k_norm.weight", Role.NORM, "head"),
        *at(before(DENSE), without_biases(MLP)),
        *at(from_(DENSE), (
            *MIXTURE,
            T("mlp.gate.expert_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts"),
        )),
    ),
    keys=(
        *keys.COMMON,
        *keys.ROUTED,
        *COUNTS,
        HALF,
        keys.computed("expert_shared_feed_forward_length", "u32", shared_width),
        keys.Key("expert_weights_scale", "f32", "routed_scaling_factor"),
        keys.Key("nextn_predict_layers", "u32", "num_nextn_predict_layers"),
    ),
    drop=(FREQUENCIES,),
    assumes=(assumptions.silu, square_queries),
    unserved=OWN_CODE,
)  # fmt: skip

SARVAM_MOE = replace(
    BAILING_MOE2,
    name="sarvam_moe",
    hf=("SarvamMoEForCausalLM", "modeling_sarvam_moe.SarvamMoEForCausalLM"),
    defaults={
        "sarvam_moe": {
            "vocab_size": 262144, "hidden_size": 4096, "intermediate_size": 8192, "num_hidden_layers": 19,
            "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-6, "rope_theta": 8e6, "partial_rotary_factor": 1.0, "tie_word_embeddings": False,
            "num_local_experts": 128, "num_experts_per_tok": 6, "moe_intermediate_size": 1024,
            "num_shared_experts": 1, "first_k_dense_replace": 1, "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
        },
    },
    block=tuple(replace(t, value="centered") if t.role is Role.BIAS else t for t in BAILING_MOE2.block),
    keys=(
        *(row for row in BAILING_MOE2.keys if row is not HALF),
        keys.Key("rope.dimension_count", "u32", "head"),
    ),
    aliases={"n_shared_experts": "num_shared_experts", "n_routed_experts": "num_local_experts"},
)  # fmt: skip

FAMILIES = (BAILING_MOE, BAILING_MOE2, SARVAM_MOE)
