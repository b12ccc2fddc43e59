"""StarCoder 2: layer norms, biases everywhere, and an MLP without a gate."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, keys
from quantkit.families.folds import ATTENTION_IN, VALUES, Fold
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    FREQUENCIES,
    HEAD,
    NORMS,
    Family,
    T,
    biased,
    with_biases,
)

BIAS = "use_bias"

STARCODER2 = Family(
    name="starcoder2",
    gguf="starcoder2",
    hf=("Starcoder2ForCausalLM",),
    defaults={
        "starcoder2": {
            "vocab_size": 49152, "hidden_size": 3072, "intermediate_size": 12288, "num_hidden_layers": 30,
            "num_attention_heads": 24, "num_key_value_heads": 2, "max_position_embeddings": 4096,
            "norm_epsilon": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "use_bias": True,
            "sliding_window": None,
        },
    },
    outside=(EMBEDDING, *with_biases((FINAL_NORM,)), HEAD),
    block=(
        *with_biases(NORMS),
        *biased(ATTENTION, output=BIAS, others=BIAS),
        T("mlp.c_fc.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size", bias=BIAS),
        T("mlp.c_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size", bias=BIAS),
    ),
    keys=(
        *keys.SIZES,
        keys.rope_scaling,
        keys.FREQUENCY_BASE,
        replace(keys.LAYER_EPSILON, value="norm_epsilon"),
    ),
    drop=(FREQUENCIES,),
    assumes=(assumptions.activation("hidden_act", "gelu_pytorch_tanh", "gelu_new"), assumptions.no_window),
    folds=(ATTENTION_IN, VALUES, Fold("post_attention_layernorm", ("mlp.c_fc",), norm=True)),
    computes=frozenset({"norm_epsilon", "use_bias"}),
)  # fmt: skip

FAMILIES = (STARCODER2,)
