"""Maple: a mixture whose windows alone are rotated, and whose gates are cut off.

Source: conversion/maple.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import assumptions, keys
from quantkit.families.fixed import require_only
from quantkit.families.hparams import Hparams
from quantkit.families.layers import block_count, listed
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    NORMS,
    OUTSIDE,
    OWN_CODE,
    QK_NORMS,
    Family,
    experts,
    without_biases,
)

WINDOW, FULL = "sliding_attention", "full_attention"
LIMIT = 7.0  # modeling_maple.py has it, and config.json no word of it


def checked(hparams: Hparams) -> Mapping[str, Any]:
    """Nothing. Raises UnsupportedError for what the graph has no place for."""
    require_only(hparams, {"num_shared_experts": 0, "norm_topk_prob": True}, silent=True)
    require_only(hparams, {"nope_on_global_attention": True})
    return {}


MAPLE = Family(
    name="maple",
    gguf="maple",
    hf=("MapleForCausalLM",),
    defaults={
        "maple": {
            "vocab_size": 151936, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16,
            "num_key_value_heads": 4, "head_dim": None, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0, "tie_word_embeddings": False, "num_local_experts": 64, "num_experts_per_tok": 8,
            "moe_intermediate_size": 1024,
        },
    },
    outside=OUTSIDE,
    block=(
        *NORMS,
        *without_biases(ATTENTION),
        *QK_NORMS,
        *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
    ),
    keys=(
        *keys.COMMON,
        keys.gating,
        keys.VOCAB_SIZE,
        keys.rotated_part(1.0),
        keys.SLIDING_WINDOW,
        keys.windows,
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        keys.computed("swiglu_clamp_exp", "f32", lambda hparams: (LIMIT,) * block_count(hparams)),
    ),
    drop=(FREQUENCIES,),
    derive=(listed("layer_types", {WINDOW: WINDOW, FULL: FULL}), checked),
    assumes=(assumptions.silu, assumptions.yarn_temperature),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (MAPLE,)
