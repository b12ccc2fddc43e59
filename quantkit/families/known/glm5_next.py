"""GLM-5.3-Flash: linear attention with a gate for each channel (KDA), latent attention without positions in every
fourth layer, which reads what an indexer chooses from pools of tokens, and streams that layers mix.

Source: conversion/glm.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import assumptions, folds, keys
from quantkit.families.fixed import require_only
from quantkit.families.hparams import Hparams
from quantkit.families.known.deepseek import ATTENTION as LATENT
from quantkit.families.known.deepseek import numbers
from quantkit.families.known.deepseek32 import INDEXER, INDEXER_KEYS
from quantkit.families.known.glm4_moe import FURTHER, NEXT, SEEN, TOKENS
from quantkit.families.known.hy4 import MIXTURE, STREAMS, limits, streams
from quantkit.families.known.kimi_linear import CONV, DELTA, FULL, LINEAR, SECTION, section
from quantkit.families.known.qwen3_next import VISION
from quantkit.families.layers import (
    AFTER_TRUNK,
    TRUNK,
    before,
    both,
    by_rule,
    either,
    first_said,
    from_,
    kind,
    listed,
    of_period,
)
from quantkit.families.roles import Role
from quantkit.families.rows import FREQUENCIES, MLP, NORMS, OUTSIDE, Family, T, at, without_biases

DENSE, TYPES = "dense_layers", "indexer_types"
KNOWN = {"mla_use_nope": True, "qk_rope_head_dim": 0, "mhc": True, STREAMS: 4}
WORDS = {LINEAR: LINEAR, FULL: FULL, "indexed_attention": FULL}


def filled(hparams: Hparams) -> Mapping[str, Any]:
    """The numbers of linear layers, wherever they stand. Raises UnsupportedError for what has no place in the graph."""
    require_only(hparams, KNOWN, silent=True)
    said = hparams.values.get(SECTION)
    bound = said.get("gate_lower_bound") if isinstance(said, Mapping) else hparams.values.get("linear_lower_bound")
    found = {**section(hparams), "gate_lower_bound": bound}
    heads = Hparams({**hparams.values, **found})
    require_only(heads, {"linear_num_heads": heads.count("num_attention_heads")})
    if hparams.values.get("first_k_dense_replace") is None and hparams.values.get("mlp_layer_types") is None:
        found["first_k_dense_replace"] = min(3, hparams.count(TRUNK))
    return found


def chooses(hparams: Hparams, layer: int) -> bool:
    """Whether a layer's own indexer chooses for it, where config.json says so."""
    said = hparams.values.get(TYPES)
    return kind(FULL)(hparams, layer) and isinstance(said, list) and said[layer : layer + 1] == ["full"]


def indexers(hparams: Hparams) -> object:
    """Which layers choose for themselves."""
    said = hparams.values.get(TYPES)
    return tuple(word == "full" for word in said) if isinstance(said, list) else None


LATENT_LAYERS = either(kind(FULL), AFTER_TRUNK)
POOLS = (
    T("self_attn.indexer.index_kpool_compress_gate", "indexer_compressor_gate.weight", Role.OTHER,
      "index_head_dim hidden_size", f32=True),
    T("self_attn.indexer.index_kpool_compress_ape", "indexer_compressor_ape.weight", Role.OTHER,
      "index_kpool index_head_dim", f32=True),
)  # fmt: skip
A_LOG = T("self_attn.A_log", "ssm_a", Role.OTHER, "linear_num_heads", value="-exp")

GLM5_NEXT = Family(
    name="glm5_next",
    gguf="glm5-next",
    hf=("Glm5NextForConditionalGeneration",),
    defaults={
        "glm5_next_text": {
            "vocab_size": 154880, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 45,
            "num_attention_heads": 64, "num_key_value_heads": 64, "max_position_embeddings": 1048576,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "attention_bias": False, "kv_lora_rank": 512,
            "q_lora_rank": 1536, "qk_rope_head_dim": 0, "qk_nope_head_dim": 256, "v_head_dim": 256,
            "num_local_experts": 288, "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "n_shared_experts": 1,
            "routed_scaling_factor": 2.5, "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "swiglu_limit": 10.0,
            "index_topk": 2048, "index_head_dim": 128, "index_n_heads": 32, "index_kpool": 16,
            "index_kpool_always_select_tail": True, "linear_head_dim": 128, "linear_num_heads": 64, CONV: 4,
            "linear_lower_bound": -5.0, STREAMS: 4, "hc_eps": 1e-6, "hc_sinkhorn_iters": 20,
        },
    },
    strip="language_model.",
    outside=OUTSIDE,
    block=(
        *NORMS,
        *at(kind(LINEAR), tuple(A_LOG if t.target == "ssm_a" else t for t in DELTA)),
        *(replace(t, where=both(LATENT_LAYERS, t.where)) for t in without_biases(LATENT)),
        *(replace(t, where=LATENT_LAYERS, optional=True, sure=chooses) for t in (*INDEXER, *POOLS)),
        *streams("hc_attn", "hc_attn", f"{STREAMS}*({STREAMS}+2)", 3),
        *streams("hc_ffn", "hc_ffn", f"{STREAMS}*({STREAMS}+2)", 3),
        *at(before(DENSE), without_biases(MLP)),
        *at(from_(DENSE), MIXTURE),
        *NEXT,
    ),
    keys=(
        *keys.without(keys.COMMON, "attention.head_count_kv", "attention.key_length", "attention.value_length"),
        *(row for row in keys.ROUTED if row is not keys.gating),
        keys.sigmoid_unless_said,
        keys.per_layer("attention.head_count_kv", "i32", "one", LATENT_LAYERS),
        keys.VOCAB_SIZE,
        keys.computed("attention.layer_norm_epsilon", "f32", lambda hparams: 1e-6),
        keys.Key("nextn_predict_layers", "u32", FURTHER, nonzero=True),
        keys.Key("ssm.conv_kernel", "u32", CONV),
        keys.Key("kda.head_dim", "u32", "linear_head_dim"),
        keys.Key("kda.gate_lower_bound", "f32", "gate_lower_bound"),
        keys.Key("attention.q_lora_rank", "u32", "q_lora_rank"),
        keys.Key("attention.kv_lora_rank", "u32", "kv_lora_rank"),
        keys.Key("rope.dimension_count", "u32", "qk_rope_head_dim"),
        keys.Key("attention.key_length", "u32", "kv_lora_rank+qk_rope_head_dim"),
        keys.Key("attention.value_length", "u32", "kv_lora_rank"),
        keys.Key("attention.key_length_mla", "u32", "qk_nope_head_dim+qk_rope_head_dim"),
        keys.Key("attention.value_length_mla", "u32", "v_head_dim"),
        *INDEXER_KEYS,
        keys.Key("attention.indexer.kpool", "u32", "index_kpool"),
        keys.Key("attention.indexer.kpool_select_tail", "bool", "index_kpool_always_select_tail"),
        keys.computed("attention.indexer.types", "bool", indexers),
        keys.Key("hyper_connection.count", "u32", STREAMS),
        keys.Key("hyper_connection.sinkhorn_iterations", "u32", "hc_sinkhorn_iters"),
        keys.Key("hyper_connection.epsilon", "f32", "hc_eps"),
        keys.Key("leading_dense_block_count", "u32", DENSE),
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        keys.Key("expert_shared_count", "u32", "n_shared_experts"),
        keys.Key("expert_weights_scale", "f32", "routed_scaling_factor"),
        keys.Key("expert_weights_norm", "bool", "norm_topk_prob"),
        keys.computed("swiglu_clamp_exp", "f32", limits),
        keys.computed("swiglu_clamp_shexp", "f32", limits),
    ),
    drop=(FREQUENCIES, *VISION),
    # head_dim is that of what is rotated, of which there is nothing
    aliases={"n_routed_experts": "num_local_experts", "head_dim": "rotated_head_dim"},
    derive=(
        filled,
        numbers,
        first_said("layer_types", listed("layer_types", WORDS), by_rule(FULL, of_period(4, 3), LINEAR)),
    ),
    seen=(SEEN,),
    assumes=(assumptions.silu,),
    tokens=TOKENS,
    computes=frozenset({
        SECTION, "linear_head_dim", "linear_num_heads", "linear_lower_bound", STREAMS, "hc_eps", "hc_sinkhorn_iters",
        TYPES, "index_topk_pattern", "index_topk_freq", "index_skip_topk_offset", "index_topk", "index_head_dim",
        "index_n_heads", "index_kpool", "index_kpool_always_select_tail",
    }),
    folds=folds.INNER,
    renamed=tuple(f"model.language_model.layers.{{}}.self_attn.forget_gate.f_{which}_proj" for which in "ab"),
)  # fmt: skip

FAMILIES = (GLM5_NEXT,)
