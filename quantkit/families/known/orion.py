"""Orion: a Llama with layer norms that have biases, whose epsilon config.json calls that of an RMS norm."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.rows import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    FREQUENCIES,
    HEAD,
    MLP,
    NORMS,
    OWN_CODE,
    Family,
    with_biases,
)

ORION = Family(
    name="orion",
    gguf="orion",
    hf=("OrionForCausalLM",),
    defaults={
        "orion": {
            "vocab_size": 84608, "hidden_size": 4096, "intermediate_size": 15360, "num_hidden_layers": 40,
            "num_attention_heads": 40, "num_key_value_heads": None, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    outside=(EMBEDDING, *with_biases((FINAL_NORM,)), HEAD),
    block=(*with_biases(NORMS), *ATTENTION, *MLP),
    keys=(
        *keys.without(keys.SIZES, "context_length"),
        keys.FirstOf("context_length", "u32", ("max_sequence_length", "max_position_embeddings", "model_max_length")),
        keys.original_layout,
        replace(keys.LAYER_EPSILON, value="rms_norm_eps"),
    ),
    drop=(FREQUENCIES,),
    assumes=(assumptions.silu,),
    folds=folds.DENSE,
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (ORION,)
