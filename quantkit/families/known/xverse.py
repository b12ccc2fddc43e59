"""XVERSE: Llama under another name, but for its vocabulary.

Source: conversion/xverse.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, keys
from quantkit.families.known.llama import LLAMA
from quantkit.families.rows import OWN_CODE, TokenizerRules

XVERSE = replace(
    LLAMA,
    name="xverse",
    gguf="xverse",
    hf=("XverseForCausalLM",),
    defaults={
        "xverse": {
            "vocab_size": 100278, "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
            "num_attention_heads": 40, "num_key_value_heads": None, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6, "rope_theta": None, "tie_word_embeddings": False,
        },
    },
    keys=(*keys.COMMON, keys.original_layout, keys.Key("rope.dimension_count", "u32", "head")),
    extra=None,
    assumes=(assumptions.silu,),
    tokens=TokenizerRules(),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (XVERSE,)
