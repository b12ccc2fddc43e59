"""Jais 2: layer norms, biases, and MLPs without a gate that square what is above zero."""

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
    Family,
    ungated,
    with_biases,
)

JAIS2 = Family(
    name="jais2",
    gguf="jais2",
    hf=("Jais2ForCausalLM",),
    defaults={
        "jais2": {
            "vocab_size": 150272, "hidden_size": 3328, "intermediate_size": 26624, "num_hidden_layers": 32,
            "num_attention_heads": 26, "num_key_value_heads": None, "head_dim": None, "max_position_embeddings": 8192,
            "layer_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "attention_bias": True,
            "mlp_bias": True,
        },
    },
    outside=(EMBEDDING, *with_biases((FINAL_NORM,)), HEAD),
    block=(*with_biases(NORMS), *ATTENTION, *ungated(MLP)),
    keys=(
        *keys.SIZES,
        keys.rope_scaling,
        keys.FREQUENCY_BASE,
        keys.LAYER_EPSILON,
        *keys.HEAD_LENGTHS,
        keys.Key("rope.dimension_count", "u32", "head"),
    ),
    drop=(FREQUENCIES,),
    assumes=(assumptions.activation("hidden_act", "relu2"),),
    folds=(folds.ATTENTION_IN, folds.VALUES, replace(folds.MLP_IN, consumers=("mlp.up_proj",))),
    computes=frozenset({"layer_norm_eps"}),
)  # fmt: skip

FAMILIES = (JAIS2,)
