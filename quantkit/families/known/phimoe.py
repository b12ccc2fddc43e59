"""Phi 3.5 MoE: a mixture with layer norms and biases."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.phi import PHI3
from quantkit.families.rows import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    NORMS,
    experts,
    with_biases,
)


def norms_and_weights(hparams: Hparams) -> str:
    """transformers has a softmax for each of the two choices, over experts whose scores are near."""
    return (
        "its norms take no mean away, and the weights of the two chosen experts add up to 1, where each is mostly 1 of "
        "its own"
    )


PHIMOE = replace(
    PHI3,
    name="phimoe",
    gguf="phimoe",
    hf=("PhiMoEForCausalLM", "PhimoeForCausalLM"),
    defaults={
        "phimoe": {
            "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 6400, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
            "tie_word_embeddings": False, "sliding_window": None, "num_local_experts": 16, "num_experts_per_tok": 2,
        },
    },
    outside=(EMBEDDING, *with_biases((FINAL_NORM,)), replace(HEAD, bias="lm_head_bias")),
    block=(
        *with_biases(NORMS),
        *ATTENTION,
        *experts("intermediate_size", "block_sparse_moe", "w1", "w3", "w2"),
    ),
    keys=(
        *PHI3.keys,
        keys.Key("expert_count", "u32", "num_local_experts"),
        keys.Key("expert_used_count", "u32", "num_experts_per_tok"),
    ),
    assumes=(*PHI3.assumes, norms_and_weights),
    folds=(folds.EXPERT_OUT,),
    renamed=("model.layers.{}.mlp.router",),
    computes=frozenset({"lm_head_bias"}),
)  # fmt: skip

FAMILIES = (PHIMOE,)
