"""Cohere 2 as a mixture (North): one norm feeds attention and experts side by side, after dense layers.

Source: conversion/command_r.py of llama.cpp, October 2026. Differs from it where dense layers are as wide as experts:
the file says how wide, which llama.cpp needs to load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.known.cohere import COHERE2, TIED
from quantkit.families.layers import (
    AFTER_TRUNK,
    KINDS,
    before,
    by_rule,
    first_said,
    from_,
    further,
    listed,
)
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    HEAD,
    MLP,
    NORMS,
    OUTSIDE,
    T,
    at,
    experts,
    optional,
    shared_expert,
    without_biases,
)

DENSE, FURTHER, HIDDEN = "dense_layers", "num_nextn_predict_layers", "hidden_size"
WINDOW, GLOBAL = "sliding_attention", "full_attention"
MLPS = {"dense": "dense", "sparse": "sparse"}


def dense_first(hparams: Hparams) -> Mapping[str, Any]:
    """How many dense layers there are before the mixtures, and how wide they are.

    Raises UnsupportedError where one comes after a mixture.
    """
    kinds = hparams.values[KINDS]
    count = next((layer for layer, kind in enumerate(kinds) if kind != "dense"), len(kinds))
    if "dense" in kinds[count:]:
        message = f"mlp_layer_types has a dense layer after mixtures (layer {count + kinds[count:].index('dense')})"
        raise UnsupportedError(message, key="mlp_layer_types", hint="llama.cpp knows dense layers before all others")
    said = hparams.values.get("prefix_dense_intermediate_size")
    width = hparams.values.get("intermediate_size") if said is None else said
    return {DENSE: count, "dense_width": width, "said_width": width if count or said is not None else None}


def attention_kinds(hparams: Hparams) -> Mapping[str, Any]:
    """Where layers attend to a window: as listed, or by a period that begins anew after the dense layers."""
    said = hparams.values.get("layer_types")
    if said is None:
        count, dense = hparams.count("num_hidden_layers"), int(hparams.number("first_k_dense_replace") or 0)
        first, then = hparams.count("prefix_dense_sliding_window_pattern"), hparams.count("sliding_window_pattern")
        periods = [(layer, first) if layer < dense else (layer - dense, then) for layer in range(count)]
        return {"layer_types": [WINDOW if (place + 1) % period else GLOBAL for place, period in periods]}
    listed("layer_types", {WINDOW: WINDOW, GLOBAL: GLOBAL})(hparams)
    return {}


def averaged(hparams: Hparams) -> Mapping[str, Any]:
    """Nothing. Raises UnsupportedError for shared experts that are added without taking the mean."""
    way = hparams.values.get("shared_expert_combination_strategy", "average")
    if hparams.number("num_shared_experts") and way != "average":
        message = f"shared experts are combined by {str(way)[:40]!r}, llama.cpp takes the average"
        raise UnsupportedError(message, key="shared_expert_combination_strategy", hint=CONFIG_HINT)
    if hparams.number("sliding_window") is None:
        message = "config.json has no sliding_window"
        raise InputError(message, key="sliding_window", path="config.json", hint=CONFIG_HINT)
    return {"shares": bool(hparams.number("num_shared_experts"))}


def shares(hparams: Hparams, layer: int) -> bool:
    """Whether experts that read every token stand beside those of a mixture."""
    return layer >= hparams.values[DENSE] and hparams.flag("shares")


def rotated_dense_layers(hparams: Hparams) -> str | None:
    """Dense layers are rotated, whatever they attend to."""
    period = hparams.number("prefix_dense_sliding_window_pattern")
    if not hparams.values.get(DENSE) or period in (None, 1):
        return None
    return f"prefix_dense_sliding_window_pattern is {period:g}, it rotates all dense layers"


def normalized_softmax(hparams: Hparams) -> str | None:
    """A softmax is over the chosen experts, so that their weights add up to 1."""
    if hparams.values.get("expert_selection_fn", "softmax") != "softmax" or hparams.flag("norm_topk_prob"):
        return None
    return "norm_topk_prob is false with a softmax over the chosen experts, it takes one over all"


COHERE2_MOE = replace(
    COHERE2,
    name="cohere2_moe",
    gguf="cohere2moe",
    hf=("Cohere2MoeForCausalLM",),
    defaults={
        "cohere2_moe": {
            "vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
            "num_attention_heads": 64, "num_key_value_heads": None, "head_dim": 128, "max_position_embeddings": 8192,
            "layer_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "logit_scale": 0.0625,
            "sliding_window": 4096, "sliding_window_pattern": 4, "prefix_dense_sliding_window_pattern": 1,
            "num_local_experts": 8, "num_experts_per_tok": 2, "num_shared_experts": 0, "norm_topk_prob": True,
            "expert_selection_fn": "softmax", "rms_norm_eps": None,
        },
    },
    outside=(*OUTSIDE[:2], HEAD),
    block=(
        NORMS[0],
        *without_biases(ATTENTION),
        *at(before(DENSE), (
            replace(MLP[0], shape="dense_width hidden_size", bias=None),
            replace(MLP[1], shape="dense_width hidden_size", bias=None),
            replace(MLP[2], shape="hidden_size dense_width", bias=None),
        )),
        *at(from_(DENSE), experts("intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj")),
        *at(shares, shared_expert("num_shared_experts*intermediate_size", "mlp.shared_experts")),
        *at(AFTER_TRUNK, (
            T("eh_proj.weight", "nextn.eh_proj.weight", Role.OTHER, "hidden_size 2*hidden_size"),
            T("enorm.weight", "nextn.enorm.weight", Role.NORM, HIDDEN),
            T("hnorm.weight", "nextn.hnorm.weight", Role.NORM, HIDDEN),
            *optional((
                T("shared_head.norm.weight", "nextn.shared_head_norm.weight", Role.NORM, HIDDEN),
                T("shared_head.head.weight", "nextn.shared_head_head.weight", Role.OTHER, "vocab_size hidden_size"),
                T("embed_tokens.weight", "nextn.embed_tokens.weight", Role.OTHER, "vocab_size hidden_size"),
            )),
        )),
    ),
    derive=(
        averaged,
        attention_kinds,
        first_said(
            "mlp_layer_types",
            listed("mlp_layer_types", MLPS),
            by_rule("dense", before("first_k_dense_replace"), "sparse"),
        ),
        dense_first,
    ),
    seen=(further("model.layers.{}.eh_proj.weight", FURTHER),),
    keys=(
        *keys.without(keys.SIZES, "feed_forward_length"),
        keys.Key("feed_forward_length", "u32", "said_width"),
        keys.rope_scaling,
        keys.FREQUENCY_BASE,
        keys.RMS_EPSILON,
        keys.LAYER_EPSILON,
        keys.Key("expert_count", "u32", "num_local_experts"),
        keys.Key("expert_used_count", "u32", "num_experts_per_tok"),
        keys.gating,
        *keys.HEAD_LENGTHS,
        keys.LOGIT_SCALE,
        keys.SLIDING_WINDOW,
        keys.windows,
        keys.VOCAB_SIZE,
        keys.Key("expert_feed_forward_length", "u32", "intermediate_size"),
        keys.Key("leading_dense_block_count", "u32", DENSE),
        keys.Key("expert_weights_norm", "bool", "norm_topk_prob"),
        keys.Key("expert_shared_count", "u32", "num_shared_experts", nonzero=True),
        keys.Key(
            "expert_shared_feed_forward_length", "u32", "intermediate_size*num_shared_experts", nonzero=True
        ),
        keys.Key("nextn_predict_layers", "u32", FURTHER, nonzero=True),
        keys.Key("rope.dimension_count", "u32", "head_dim"),
        keys.no_rope_scaling,
    ),
    drop=(FREQUENCIES, TIED),
    assumes=(assumptions.silu, rotated_dense_layers, normalized_softmax),
    folds=(folds.VALUES, *folds.INNER),
    computes=COHERE2.computes | {
        "expert_selection_fn", "prefix_dense_intermediate_size", "prefix_dense_sliding_window_pattern",
        "shared_expert_combination_strategy",
    },
)  # fmt: skip

FAMILIES = (COHERE2_MOE,)
