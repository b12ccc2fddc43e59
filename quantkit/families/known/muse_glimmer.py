"""Muse Glimmer: windows, gated attention, and queries and keys that are brought to one length and scaled.

llama.cpp has that scale in norms with weights, which no checkpoint has. Layers without a window do not rotate.
Source: conversion/muse_glimmer.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import assumptions, folds, keys
from quantkit.families.folds import Fold
from quantkit.families.hparams import Hparams
from quantkit.families.layers import TRUNK
from quantkit.families.model import Constant, ModelTensor
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    MLP,
    NORMS_AFTER,
    OUTSIDE,
    Drop,
    Family,
    T,
    TokenizerRules,
    centered,
    rotated,
    without_biases,
)

VISION = tuple(
    Drop(f"{start}{part}.*", "the vision encoder belongs into a file of its own")
    for part in ("vision_tower", "vision_adapter", "vision_projection")
    for start in ("", "model.")
)
WINDOW, FULL = "sliding_attention", "full_attention"


def layer_types(hparams: Hparams) -> Mapping[str, Any]:
    """Of four layers the last attends to everything, counted from the end, where nothing else is said."""
    if hparams.values.get("layer_types") is not None:
        return {}
    count = hparams.count(TRUNK)
    return {"layer_types": [WINDOW if (count - 1 - layer) % 4 else FULL for layer in range(count)]}


def unrotated(hparams: Hparams) -> str | None:
    """Layers with a window rotate, and those that attend to everything do not."""
    bases, types = hparams.values.get("layer_rope_theta"), hparams.values.get("layer_types")
    if not isinstance(bases, list) or not isinstance(types, list):
        return None
    theta = hparams.values.get("rope_theta")
    taken = [0 if kind == FULL else theta for kind in types]
    return None if bases == taken else "layer_rope_theta says other bases than 0 without a window and rope_theta with"


def scales(hparams: Hparams) -> tuple[ModelTensor, ...]:
    """The norms of queries, with their scale, and of keys, with ones."""
    head, scale = hparams.count("head"), hparams.required("qk_scale_factor")
    return tuple(
        ModelTensor(f"blk.{layer}.{name}.weight", Role.NORM, (head,), (Constant((value,) * head),), layer, stored="f32")
        for layer in range(hparams.count(TRUNK))
        for name, value in (("attn_q_norm", scale), ("attn_k_norm", 1.0))
    )


MUSE_GLIMMER = Family(
    name="muse_glimmer",
    gguf="muse-glimmer",
    hf=("MuseGlimmerForConditionalGeneration",),
    defaults={
        "muse_glimmer_text": {
            "vocab_size": 202048, "hidden_size": 6656, "intermediate_size": 19968, "num_hidden_layers": 52,
            "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "sliding_window": 2048,
            "final_logit_softcapping": 20.0, "qk_scale_factor": 3.87, "output_multiplier": 0.19611613513818404,
        },
    },
    strip="language_model.",
    outside=OUTSIDE,
    block=(
        *centered((
            T("input_layernorm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
            T("pre_feedforward_layernorm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
            *NORMS_AFTER,
        )),
        *rotated(without_biases(ATTENTION)),
        T("self_attn.gate_proj.weight", "attn_gate.weight", Role.OTHER, "q_rows hidden_size"),
        *without_biases(MLP),
    ),
    keys=(
        *keys.COMMON,
        keys.Key("final_logit_softcapping", "f32", "final_logit_softcapping"),
        keys.Key("logit_scale", "f32", "output_multiplier"),
        keys.SLIDING_WINDOW,
        keys.windows,
    ),
    drop=(FREQUENCIES, *VISION),
    extra=scales,
    derive=(layer_types,),
    assumes=(assumptions.activation("hidden_activation", "silu"), unrotated),
    folds=(
        Fold("input_layernorm", (*folds.QKV, "self_attn.gate_proj"), norm=True, centered=True),
        folds.VALUES,  # the gate weighs what attention gives channel by channel
        Fold("pre_feedforward_layernorm", folds.GATE_UP, norm=True, centered=True),
        folds.MLP_OUT,
    ),
    tokens=TokenizerRules(named={"eot": "<|eot|>"}),
    computes=frozenset({"layer_rope_theta", "output_multiplier", "post_norm_eps", "qk_scale_factor"}),
)  # fmt: skip

FAMILIES = (MUSE_GLIMMER,)
