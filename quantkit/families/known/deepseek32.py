"""DeepSeek V3.2: V3 with an indexer that chooses what each token attends to, and a block that predicts one token more.

Source: conversion/deepseek.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import keys
from quantkit.families.known.deepseek import DEEPSEEK2, KEYS, SHARED
from quantkit.families.known.glm4_moe import FURTHER, NEXT, SEEN
from quantkit.families.roles import Role
from quantkit.families.rows import ALWAYS, T

INDEXER = (
    T("self_attn.indexer.wk.weight", "indexer.attn_k.weight", Role.ATTN_K, "index_head_dim hidden_size"),
    T("self_attn.indexer.wq_b.weight", "indexer.attn_q_b.weight", Role.OTHER,
      "index_n_heads*index_head_dim q_lora_rank"),
    T("self_attn.indexer.weights_proj.weight", "indexer.proj.weight", Role.OTHER, "index_n_heads hidden_size"),
    T("self_attn.indexer.k_norm.weight", "indexer.k_norm.weight", Role.NORM, "index_head_dim", bias=ALWAYS),
)  # fmt: skip
INDEXER_KEYS = (
    keys.Key("attention.indexer.head_count", "u32", "index_n_heads"),
    keys.Key("attention.indexer.key_length", "u32", "index_head_dim"),
    keys.Key("attention.indexer.top_k", "u32", "index_topk"),
)
OF_INDEXER = frozenset({"index_head_dim", "index_n_heads", "index_topk"})

DEEPSEEK32 = replace(
    DEEPSEEK2,
    name="deepseek32",
    gguf="deepseek32",
    hf=("DeepseekV32ForCausalLM",),
    defaults={
        "deepseek_v32": {
            **SHARED, "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
            "num_attention_heads": 128, "num_key_value_heads": 128, "max_position_embeddings": 163840,
            "rms_norm_eps": 1e-6, "num_local_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
            "n_shared_experts": 1, "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4,
            "first_k_dense_replace": 3, "norm_topk_prob": True, "index_topk": 2048,
            "index_head_dim": 128, "index_n_heads": 64,
        },
    },
    block=(*DEEPSEEK2.block, *INDEXER, *NEXT),
    seen=(SEEN,),
    keys=(
        *(row for row in KEYS if row is not keys.gating),
        keys.sigmoid_unless_said,
        keys.Key("nextn_predict_layers", "u32", FURTHER),
        *INDEXER_KEYS,
    ),
    skips_further=None,
    assumes=DEEPSEEK2.assumes[:1],
    computes=OF_INDEXER,
)  # fmt: skip

FAMILIES = (DEEPSEEK32,)
