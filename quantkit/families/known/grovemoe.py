"""GroveMoE: Qwen 3's mixture, each pair of whose experts shares a small one.

Source: conversion/grovemoe.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.qwen import QWEN3_MOE
from quantkit.families.layouts import stack
from quantkit.families.roles import Role
from quantkit.families.rows import FREQUENCIES, OWN_CODE, Drop, T

PAIR, SCALE = 2, 0.05  # of the model's code: experts of a group, and what the shared one is multiplied by
CHUNK, COUNT = "mlp.chunk_experts.{}.", "shared_by_pairs"


def shared_by_pairs(hparams: Hparams) -> dict[str, int]:
    """How many small experts there are, and how wide they are."""
    head = hparams.values.get("head_dim")
    return {COUNT: hparams.count("num_local_experts") // PAIR, "chunk_width": 128 if head is None else int(head)}


GROVEMOE = replace(
    QWEN3_MOE,
    name="grovemoe",
    gguf="grovemoe",
    hf=("GroveMoeForCausalLM", "modeling_grove_moe.GroveMoeForCausalLM"),
    defaults={
        "grove_moe": {
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
            "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 40960,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False, "num_local_experts": 128,
            "num_experts_per_tok": 8, "moe_intermediate_size": 768,
        },
    },
    derive=(shared_by_pairs,),
    block=(
        *QWEN3_MOE.block,
        T(f"{CHUNK}gate_proj.weight", "ffn_gate_chexps.weight", Role.FFN_GATE, "chunk_width hidden_size",
          stack(COUNT), index=COUNT),
        T(f"{CHUNK}up_proj.weight", "ffn_up_chexps.weight", Role.FFN_UP, "chunk_width hidden_size",
          stack(COUNT), index=COUNT),
        T(f"{CHUNK}down_proj.weight", "ffn_down_chexps.weight", Role.FFN_DOWN, "hidden_size chunk_width",
          stack(COUNT), index=COUNT),
    ),
    keys=(
        *keys.COMMON,
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        keys.Key("expert_chunk_feed_forward_length", "u32", "chunk_width"),
        keys.computed("experts_per_group", "u32", lambda hparams: PAIR),
        keys.computed("expert_group_scale", "f32", lambda hparams: SCALE),
    ),
    drop=(FREQUENCIES, Drop("*.expert_bias", "the model's code does not use it")),
    folds=(),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (GROVEMOE,)
