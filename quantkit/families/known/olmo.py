"""OLMo 1: a Llama whose layer norms have no weights at all."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.rows import ATTENTION, EMBEDDING, FREQUENCIES, HEAD, MLP, Family, rotated

OLMO = Family(
    name="olmo",
    gguf="olmo",
    hf=("OlmoForCausalLM", "OLMoForCausalLM"),
    defaults={
        "olmo": {
            "vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "rope_theta": 10000.0, "tie_word_embeddings": False, "clip_qkv": None,
        },
    },
    outside=(EMBEDDING, HEAD),
    block=(*rotated(ATTENTION), *MLP),
    keys=(
        *keys.SIZES,
        keys.rope_scaling,
        keys.FREQUENCY_BASE,
        keys.computed("attention.layer_norm_epsilon", "f32", lambda hparams: 1e-5),  # of the model's code
        keys.Key("attention.clamp_kqv", "f32", "clip_qkv"),
    ),
    drop=(FREQUENCIES,),
    assumes=(assumptions.silu, assumptions.yarn_temperature),
    # norms without weights take no scales; values that are cut off at a number take none either
    folds=(replace(folds.VALUES, unless="clip_qkv"), folds.MLP_OUT),
    computes=frozenset({"clip_qkv"}),
)  # fmt: skip

FAMILIES = (OLMO,)
