"""DeepSeek's first mixture: Llama's attention, experts after a dense layer, and experts that read every token.

Source: conversion/deepseek.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.llama import LLAMA
from quantkit.families.layers import before, from_
from quantkit.families.rows import (
    ATTENTION,
    MLP,
    NORMS,
    OWN_CODE,
    TokenizerRules,
    at,
    experts,
    rotated,
    shared_expert,
    without_biases,
)

DENSE = "first_k_dense_replace"


def softmax_router(hparams: Hparams) -> str | None:
    """The scores of experts are softmaxed."""
    said = hparams.values.get("scoring_func", "softmax")
    return None if said == "softmax" else f"scoring_func is {str(said)[:40]}, it takes softmax"


DEEPSEEK = replace(
    LLAMA,
    name="deepseek",
    gguf="deepseek",
    hf=("DeepseekForCausalLM",),
    defaults={
        "deepseek": {
            "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 30,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6, "rope_theta": None, "tie_word_embeddings": False, "moe_intermediate_size": 1407,
            "first_k_dense_replace": 0, "norm_topk_prob": False,
        },
    },
    aliases={"n_routed_experts": "num_local_experts"},
    block=(
        *NORMS,
        *rotated(ATTENTION),
        *at(before(DENSE), without_biases(MLP)),
        *at(from_(DENSE), (
            *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
            *shared_expert("n_shared_experts*moe_intermediate_size", "mlp.shared_experts"),
        )),
    ),
    keys=(
        *keys.LLAMA,
        keys.gating,
        keys.no_rope_scaling,
        keys.Key("leading_dense_block_count", "u32", DENSE),
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        keys.computed("expert_weights_scale", "f32", lambda hparams: 1.0),
        keys.Key("expert_shared_count", "u32", "n_shared_experts"),
    ),
    extra=None,
    assumes=(assumptions.silu, assumptions.plain_router, softmax_router),
    folds=(),
    tokens=TokenizerRules(),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (DEEPSEEK,)
