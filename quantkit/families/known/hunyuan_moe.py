"""Hunyuan, mixtures (A13B): an MLP that reads every token beside experts of the same width.

Source: conversion/hunyuan.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.known.hunyuan import HUNYUAN, KEYS, QK_NORMS, frequencies
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, NORMS, TokenizerRules, experts, shared_expert

SAME = ("moe_intermediate_size", "moe_topk", "num_shared_expert", "num_local_experts")  # a number, or one per layer
ALPHA = 1000.0  # where config.json names none


def one_for_all(hparams: Hparams) -> Mapping[str, Any]:
    """The numbers that config.json may list for every layer. Raises UnsupportedError where layers differ in them."""
    found: dict[str, Any] = {}
    for key in SAME:
        said = hparams.values.get(key)
        if isinstance(said, list):
            if not said or any(value != said[0] for value in said):
                message = f"{key} differs from layer to layer, llama.cpp takes one number for all"
                raise UnsupportedError(message, key=key, hint="this variant has no graph in llama.cpp")
            found[key] = said[0]
    hparams = replace(hparams, values={**hparams.values, **found})
    width, expert = hparams.count("intermediate_size"), hparams.number("moe_intermediate_size")
    if expert not in (None, width):
        message = f"config.json: experts are {expert:g} wide and the MLP beside them {width}, expected the same"
        raise InputError(message, key="moe_intermediate_size", path="config.json", hint=CONFIG_HINT)
    shared = found.get("num_shared_expert", hparams.values.get("num_shared_expert", 1))
    return {
        **found,
        "num_shared_expert": shared,
        "num_experts_per_tok": found.get("moe_topk", hparams.values.get("moe_topk")),
    }


HUNYUAN_MOE = replace(
    HUNYUAN,
    name="hunyuan_moe",
    gguf="hunyuan-moe",
    hf=("HunYuanMoEV1ForCausalLM",),
    defaults={
        "hunyuan_v1_moe": {
            "vocab_size": 290943, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "num_local_experts": 1,
            "moe_topk": 1,
        },
    },
    block=(
        *NORMS,
        *ATTENTION,
        *QK_NORMS,
        *(
            replace(t, source="mlp.gate.wg.weight") if t.role is Role.ROUTER else t
            for t in experts("intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj")
        ),
        *shared_expert("intermediate_size", "mlp.shared_mlp"),
    ),
    derive=(one_for_all,),
    back={**HUNYUAN.back, "expert_used_count": "moe_topk", "expert_shared_count": "num_shared_expert"},
    keys=(
        *KEYS,
        frequencies(ALPHA),
        keys.Key("expert_count", "u32", "num_local_experts"),
        keys.Key("expert_shared_feed_forward_length", "u32", "intermediate_size"),
        keys.Key("expert_feed_forward_length", "u32", "intermediate_size"),
        keys.Key("expert_used_count", "u32", "num_experts_per_tok"),
        keys.Key("expert_shared_count", "u32", "num_shared_expert"),
    ),
    assumes=(assumptions.silu,),
    folds=(folds.VALUES, folds.EXPERT_OUT, folds.Fold("mlp.shared_mlp.up_proj", ("mlp.shared_mlp.down_proj",))),
    tokens=TokenizerRules(),
)  # fmt: skip

FAMILIES = (HUNYUAN_MOE,)
