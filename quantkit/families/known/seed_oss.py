"""Seed-OSS: a Llama with biased queries, keys and values, whose second norm llama.cpp names after attention."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.rows import ATTENTION, FREQUENCIES, MLP, NORMS, OUTSIDE, Family, biased

BEFORE, AFTER = NORMS

SEED_OSS = Family(
    name="seed_oss",
    gguf="seed_oss",
    hf=("SeedOssForCausalLM",),
    defaults={
        "seed_oss": {
            "vocab_size": 155136, "hidden_size": 4096, "intermediate_size": 27648, "num_hidden_layers": 64,
            "num_attention_heads": 80, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 524288,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False, "attention_bias": True,
            "attention_out_bias": False,
        },
    },
    outside=OUTSIDE,
    block=(
        BEFORE,
        replace(AFTER, target="post_attention_norm.weight"),
        *biased(ATTENTION, output="attention_out_bias", others="attention_bias"),
        *MLP,
    ),
    keys=keys.COMMON,
    drop=(FREQUENCIES,),
    assumes=(assumptions.silu, assumptions.yarn_temperature),
    folds=folds.DENSE,
    computes=frozenset({"attention_out_bias"}),
)  # fmt: skip

FAMILIES = (SEED_OSS,)
