"""EuroBERT, and the Llama that Nvidia made an encoder of: decoders' layers that attend in both directions.

Source: conversion/bert.py and conversion/llama.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, encoders, folds, keys
from quantkit.families.known.llama import LLAMA
from quantkit.families.rows import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    FREQUENCIES,
    MLP,
    NORMS,
    OWN_CODE,
    Drop,
    Family,
    TokenizerRules,
    without_biases,
)

EUROBERT = Family(
    name="eurobert",
    gguf="eurobert",
    hf=("EuroBertModel", "EuroBertForMaskedLM", "JinaEmbeddingsV5Model"),
    defaults={
        "eurobert": {
            "vocab_size": 128256, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "num_key_value_heads": None, "head_dim": None, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    outside=(EMBEDDING, FINAL_NORM),
    block=(*NORMS, *without_biases(ATTENTION), *without_biases(MLP)),
    keys=(
        *keys.SIZES,
        keys.FREQUENCY_BASE,
        keys.RMS_EPSILON,
        *keys.HEAD_LENGTHS,
        keys.both_ways,
        encoders.UNSCALED_ROPE,
        keys.POOLING_TYPE,
    ),
    drop=(FREQUENCIES, Drop("lm_head.*", encoders.NO_HEAD)),
    assumes=(assumptions.silu,),
    folds=folds.DENSE,
    tokens=TokenizerRules(no_bos=True),
    embeds=True,
)  # fmt: skip
LLAMA_EMBED = replace(
    LLAMA,
    name="llama_embed",
    gguf="llama-embed",
    hf=("LlamaBidirectionalModel",),
    defaults={"llama_bidirec": {k: v for k, v in LLAMA.defaults["llama"].items() if k != "head_dim"}},
    outside=(EMBEDDING, FINAL_NORM),
    folds=(),
    unserved=OWN_CODE,
    embeds=True,
)

FAMILIES = (EUROBERT, LLAMA_EMBED)
