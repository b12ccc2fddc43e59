"""Baichuan 1 and 2: queries, keys and values in one matrix; slopes instead of rotation in the models of 40 layers.

Source: conversion/baichuan.py of llama.cpp, October 2026. Differs from it in the output head of Baichuan 2, whose rows
the model's own code normalizes when it runs, and llama.cpp does not.
"""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.llama import LLAMA
from quantkit.families.placements import part_of_values, rotated_part_of_keys, rotated_part_of_queries
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    MLP,
    NORMS,
    OWN_CODE,
    Condition,
    T,
    TokenizerRules,
    without_biases,
)

PACK, QKV = "self_attn.W_pack.weight", "qkv_rows hidden_size"
ROTATED, SLOPED = 32, 40  # layers of the 7B, whose positions are rotated, and of the 13B, which has slopes
VOCABULARY2 = 125696  # of Baichuan 2, whose head is normalized


SECOND = Condition("config.json has a vocab_size of 125696", lambda config: config.get("vocab_size") == VOCABULARY2)
FIRST = Condition("config.json has another vocab_size than 125696", lambda config: not SECOND.holds(config))


def known_depth(hparams: Hparams) -> str | None:
    """The number of layers says how positions enter."""
    layers = hparams.count("num_hidden_layers")
    if layers in (ROTATED, SLOPED):
        return None
    return f"num_hidden_layers is {layers}, it runs models of {ROTATED} (rotated) and {SLOPED} (slopes) alone"


BAICHUAN = replace(
    LLAMA,
    name="baichuan",
    gguf="baichuan",
    hf=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    defaults={
        "baichuan": {
            "vocab_size": 64000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6, "rope_theta": None, "tie_word_embeddings": False,
        },
    },
    aliases={"model_max_length": "max_position_embeddings"},
    when=FIRST,
    block=(
        *NORMS,
        T(PACK, "attn_q.weight", Role.ATTN_Q, QKV, rotated_part_of_queries),
        T(PACK, "attn_k.weight", Role.ATTN_K, QKV, rotated_part_of_keys),
        T(PACK, "attn_v.weight", Role.ATTN_V, QKV, part_of_values),
        without_biases(ATTENTION)[-1],
        *MLP,
    ),
    keys=(*keys.COMMON, keys.original_layout, keys.Key("rope.dimension_count", "u32", "head")),
    extra=None,
    assumes=(assumptions.silu, known_depth),
    folds=(),
    tokens=TokenizerRules(),
    unserved=OWN_CODE,
)  # fmt: skip

BAICHUAN2 = replace(
    BAICHUAN, name="baichuan2", when=SECOND, outside=(EMBEDDING, FINAL_NORM, replace(HEAD, value="unit"))
)

FAMILIES = (BAICHUAN, BAICHUAN2)
