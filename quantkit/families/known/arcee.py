"""Arcee (AFM): a Llama whose MLP has no gate, and squares what is above zero."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.known.llama import LLAMA
from quantkit.families.rows import ATTENTION, MLP, NORMS, rotated, ungated, without_biases

ARCEE = replace(
    LLAMA,
    name="arcee",
    gguf="arcee",
    hf=("ArceeForCausalLM",),
    defaults={
        "arcee": {
            "vocab_size": 32000, "hidden_size": 2560, "intermediate_size": 18432, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    block=(*NORMS, *rotated(without_biases(ATTENTION)), *without_biases(ungated(MLP))),
    keys=(*keys.LLAMA, keys.POOLING_TYPE),
    assumes=(assumptions.activation("hidden_act", "relu2"), assumptions.yarn_temperature),
    # not between up and down: a square does not scale along
    folds=(folds.ATTENTION_IN, folds.VALUES, replace(folds.MLP_IN, consumers=("mlp.up_proj",))),
)  # fmt: skip

FAMILIES = (ARCEE,)
