"""Apertus: normalized queries and keys, and an MLP without gate whose nonlinearity has numbers of its own (xIELU).

Source: conversion/llama.py of llama.cpp, October 2026. The numbers are tensors of the checkpoint and keys of the file.
"""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.folds import Fold
from quantkit.families.layers import Told
from quantkit.families.placements import rope_freqs
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, FREQUENCIES, MLP, OUTSIDE, QK_NORMS, Drop, Family, T, ungated

XIELU = ("alpha_n", "alpha_p", "beta", "eps")

APERTUS = Family(
    name="apertus",
    gguf="apertus",
    hf=("ApertusForCausalLM",),
    defaults={
        "apertus": {
            "vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 65536,
            "rms_norm_eps": 1e-5, "rope_theta": 12000000.0, "tie_word_embeddings": False,
        },
    },
    outside=OUTSIDE,
    block=(
        T("attention_layernorm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        T("feedforward_layernorm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        *ATTENTION,
        *QK_NORMS,
        *ungated(MLP),
    ),
    keys=(
        *keys.LLAMA,
        *(keys.Key(f"xielu.{name}", "f32", f"xielu_{name}", array=True) for name in XIELU),
    ),
    drop=(FREQUENCIES, Drop("model.layers.*.mlp.act_fn.*", "its number is among the keys of the file")),
    extra=rope_freqs,
    seen=tuple(Told(f"model.layers.{{}}.mlp.act_fn.{name}", f"xielu_{name}") for name in XIELU),
    assumes=(assumptions.activation("hidden_act", "xielu"), assumptions.yarn_temperature),
    folds=(
        replace(folds.ATTENTION_IN, producer="attention_layernorm"),
        folds.VALUES,
        Fold("feedforward_layernorm", ("mlp.up_proj",), norm=True),
    ),
)  # fmt: skip

FAMILIES = (APERTUS,)
