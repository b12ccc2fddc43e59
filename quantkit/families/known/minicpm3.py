"""MiniCPM 3: queries and keys from compressed rows as DeepSeek has them, scaled as MiniCPM 1.

Source: conversion/minicpm.py of llama.cpp, October 2026, and the numbers that its graph takes for granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.placements import longrope_factors
from quantkit.families.roles import Role
from quantkit.families.rows import FREQUENCIES, MLP, NORMS, OUTSIDE, Family, T

HEADS = "num_attention_heads"
QUERIES = f"{HEADS}*(qk_nope_head_dim+qk_rope_head_dim)"
TAKEN = {"scale_emb": 12.0, "dim_model_base": 256.0, "scale_depth": 1.4}


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """The part of a head that is rotated, and the width of values where config.json does not say it."""
    width = hparams.values.get("v_head_dim")
    plain = hparams.count("hidden_size") // hparams.count(HEADS)
    return {"rope_dim": hparams.count("qk_rope_head_dim"), "v_head_dim": plain if width is None else width}


def fixed_scales(hparams: Hparams) -> str | None:
    """Embeddings, residuals and logits are scaled by the numbers of the 4B model."""
    said = {
        "scale_emb": hparams.number("scale_emb"),
        "dim_model_base": hparams.number("dim_model_base"),
        "scale_depth": hparams.number("scale_depth"),
    }
    other = next((key for key, value in said.items() if value != TAKEN[key]), None)
    return None if other is None else f"{other} is {said[other]}, it takes {TAKEN[other]:g}"


def values_of_a_head(hparams: Hparams) -> str | None:
    """Values of a head are as wide as the hidden size divided by the heads."""
    width, taken = hparams.number("v_head_dim"), hparams.count("hidden_size") // hparams.count(HEADS)
    return None if width == taken else f"v_head_dim is {width:g}, it takes {taken} and does not load the file"


def longrope_within_context(hparams: Hparams) -> str | None:
    """longrope scales no attention, as where the context is the one that the model was trained on."""
    said, trained = hparams.number("max_position_embeddings"), hparams.number("rope_original_context")
    if hparams.values.get("rope_type") not in {"longrope", "su"} or trained is None or said == trained:
        return None
    return f"original_max_position_embeddings is {trained:g}, it does not scale attention for longer contexts"


MINICPM3 = Family(
    name="minicpm3",
    gguf="minicpm3",
    hf=("MiniCPM3ForCausalLM",),
    defaults={
        "minicpm3": {
            "vocab_size": 73448, "hidden_size": 2560, "intermediate_size": 6400, "num_hidden_layers": 62,
            "num_attention_heads": 40, "num_key_value_heads": 40, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "kv_lora_rank": 256,
            "q_lora_rank": 768, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32,
            "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256,
        },
    },
    outside=OUTSIDE,
    block=(
        *NORMS,
        T("self_attn.q_a_proj.weight", "attn_q_a.weight", Role.OTHER, "q_lora_rank hidden_size"),
        T("self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight", Role.NORM, "q_lora_rank"),
        T("self_attn.q_b_proj.weight", "attn_q_b.weight", Role.OTHER, f"{QUERIES} q_lora_rank"),
        T("self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight", Role.OTHER,
          "kv_lora_rank+qk_rope_head_dim hidden_size"),
        T("self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight", Role.NORM, "kv_lora_rank"),
        T("self_attn.kv_b_proj.weight", "attn_kv_b.weight", Role.ATTN_KV_B,
          f"{HEADS}*(qk_nope_head_dim+v_head_dim) kv_lora_rank"),
        T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, f"hidden_size {HEADS}*v_head_dim"),
        *MLP,
    ),
    derive=(numbers,),
    folds=(folds.MLP_OUT,),
    keys=(
        *keys.SIZES,
        keys.RMS_EPSILON,
        keys.VOCAB_SIZE,
        keys.Key("attention.q_lora_rank", "u32", "q_lora_rank"),
        keys.Key("attention.kv_lora_rank", "u32", "kv_lora_rank"),
        keys.Key("attention.key_length", "u32", "qk_nope_head_dim+qk_rope_head_dim"),
        keys.Key("rope.dimension_count", "u32", "qk_rope_head_dim"),
    ),
    drop=(FREQUENCIES,),
    extra=longrope_factors,
    assumes=(assumptions.silu, fixed_scales, values_of_a_head, longrope_within_context),
    computes=frozenset({"scale_emb", "scale_depth", "dim_model_base"}),
)  # fmt: skip

FAMILIES = (MINICPM3,)
