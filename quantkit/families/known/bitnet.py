"""BitNet: weights of three values, a scale for each matrix, and a norm before each linear that leaves a part.

Source: conversion/bitnet.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    FREQUENCIES,
    MLP,
    NORMS,
    Drop,
    Family,
    T,
    TokenizerRules,
    without_biases,
)
from quantkit.families.spellings import Rename
from quantkit.untrusted import shown


def checked(hparams: Hparams) -> Mapping[str, Any]:
    """No numbers. Raises UnsupportedError for what llama.cpp's graph has no place for."""
    act = hparams.values.get("hidden_act")
    if act != "silu":
        what = f'hidden_act is "{shown(str(act))}", llama.cpp computes silu in BitNet'
        raise UnsupportedError(what, key="hidden_act", hint="run it with bitnet.cpp or transformers")
    if not hparams.flag("tie_word_embeddings"):
        what = "the output head is a matrix of its own, llama.cpp takes the embeddings in BitNet"
        raise UnsupportedError(what, key="tie_word_embeddings", hint="run it with transformers")
    return {}


BITNET = Family(
    name="bitnet",
    gguf="bitnet",
    hf=("BitNetForCausalLM", "BitnetForCausalLM"),
    defaults={
        "bitnet": {
            "vocab_size": 128256, "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 30,
            "num_attention_heads": 20, "num_key_value_heads": 5, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False, "hidden_act": "relu2",
        },
    },
    outside=(EMBEDDING, FINAL_NORM),
    block=(
        *NORMS,
        *(replace(t, value="ternary") for t in without_biases((*ATTENTION, *MLP))),
        T("self_attn.attn_sub_norm.weight", "attn_sub_norm.weight", Role.NORM, "hidden_size"),
        T("mlp.ffn_sub_norm.weight", "ffn_sub_norm.weight", Role.NORM, "intermediate_size"),
    ),
    keys=(
        *keys.COMMON,
        keys.computed("rope.scaling.type", "string", lambda hparams: "linear"),
        keys.computed("rope.scaling.factor", "f32", lambda hparams: 1.0),
    ),
    drop=(FREQUENCIES, Drop("lm_head.weight", "the same values as the embeddings")),
    spellings=(  # of the first models
        Rename(r"\.inner_attn_ln\.", ".attn_sub_norm."),
        Rename(r"\.ffn_layernorm\.", ".ffn_sub_norm."),
    ),
    derive=(checked,),
    tokens=TokenizerRules(),
    graph=lambda hparams: {"hidden_act": "silu", "tie_word_embeddings": True},
    unserved="its weights have three values and a scale for each matrix, which GGUF holds in 2 bits (tq2_0): formats "
    "of servers would be larger, and leave nothing for text to choose",
)  # fmt: skip

FAMILIES = (BITNET,)
