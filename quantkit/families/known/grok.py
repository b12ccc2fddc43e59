"""Grok 1 and 2: norms before and after each part of a block, capped scores, and in Grok 2 an MLP beside the experts.

Source: conversion/grok.py of llama.cpp, October 2026. Experts that are cut into several files are not read.
"""

from __future__ import annotations

from collections.abc import Iterable

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    MLP,
    OUTSIDE,
    OWN_CODE,
    Family,
    T,
    experts,
    optional,
    without_biases,
)
from quantkit.families.spellings import Rename
from quantkit.metadata import KeyValue

SAID_TYPE = "said_rope_type"  # what config.json says at its root
STRETCHED = ("yarn", "original")
YARN = (
    keys.Key("rope.scaling.factor", "f32", "scaling_factor"),
    keys.Key("rope.scaling.original_context_length", "u32", "original_max_position_embeddings"),
    keys.Key("rope.scaling.yarn_ext_factor", "f32", "extrapolation_factor"),
    keys.Key("rope.scaling.yarn_attn_factor", "f32", "attn_factor"),
    keys.Key("rope.scaling.yarn_beta_fast", "f32", "beta_fast"),
    keys.Key("rope.scaling.yarn_beta_slow", "f32", "beta_slow"),
)


def scaling(hparams: Hparams) -> Iterable[KeyValue]:
    """yarn, which the checkpoints call "original"."""
    if hparams.values.get(SAID_TYPE) not in STRETCHED:
        return
    yield KeyValue("rope.scaling.type", "string", "yarn")
    for key in YARN:
        yield from keys.number(key, hparams)


def attention_scale(hparams: Hparams) -> object:
    """What scores are multiplied by: one by the root of a head's dimensions where nothing is said."""
    said = hparams.number("attn_output_multiplier")
    return float(hparams.count("head")) ** -0.5 if said is None else said


GROK = Family(
    name="grok",
    gguf="grok",
    hf=("GrokForCausalLM", "Grok1ForCausalLM"),
    defaults={
        "grok-1": {
            "vocab_size": 131072, "hidden_size": 6144, "intermediate_size": 32768, "num_hidden_layers": 64,
            "num_attention_heads": 48, "num_key_value_heads": 8, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "num_local_experts": 8,
            "num_experts_per_tok": 2, "attn_logit_softcapping": 30.0, "router_logit_softcapping": 30.0,
        },
    },
    outside=OUTSIDE,
    block=(
        T("pre_attn_norm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        T("post_attn_norm.weight", "attn_output_norm.weight", Role.NORM, "hidden_size"),
        T("pre_moe_norm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        *optional((
            T("post_moe_norm.weight", "post_ffw_norm.weight", Role.NORM, "hidden_size"),
            T("layer_output_norm.weight", "layer_output_norm.weight", Role.NORM, "hidden_size"),
        )),
        *without_biases(ATTENTION),
        *optional(without_biases(MLP)),
        *experts("expert_width", "block_sparse_moe", "w1", "w3", "w2"),
    ),
    keys=(
        *keys.COMMON,
        keys.Key("attn_logit_softcapping", "f32", "attn_logit_softcapping"),
        keys.Key("router_logit_softcapping", "f32", "router_logit_softcapping"),
        keys.Key("final_logit_softcapping", "f32", "final_logit_softcapping", nonzero=True),
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        scaling,
        keys.Key("attention.temperature_length", "u32", "attn_temperature_len", nonzero=True),
        keys.computed("attention.output_scale", "f32", attention_scale),
        keys.Key("embedding_scale", "f32", "embedding_multiplier_scale"),
        keys.Key("logit_scale", "f32", "output_multiplier_scale"),
    ),
    drop=(FREQUENCIES,),
    spellings=(  # of Grok 1
        Rename(r"^transformer\.in_out_embed\.", "model.embed_tokens."),
        Rename(r"^transformer\.rms_norm\.", "model.norm."),
        Rename(r"^transformer\.decoder_layer\.", "model.layers."),
        Rename(r"\.multi_head_attention\.query\.", ".self_attn.q_proj."),
        Rename(r"\.multi_head_attention\.key\.", ".self_attn.k_proj."),
        Rename(r"\.multi_head_attention\.value\.", ".self_attn.v_proj."),
        Rename(r"\.multi_head_attention\.linear\.", ".self_attn.o_proj."),
        Rename(r"\.rms_norm\.", ".pre_attn_norm."),
        Rename(r"\.rms_norm_1\.", ".post_attn_norm."),
        Rename(r"\.rms_norm_2\.", ".pre_moe_norm."),
        Rename(r"\.rms_norm_3\.", ".layer_output_norm."),
        Rename(r"\.router\.", ".block_sparse_moe.gate."),
        Rename(r"\.moe\.([0-9]+)\.linear\.", r".block_sparse_moe.experts.\1.w1."),
        Rename(r"\.moe\.([0-9]+)\.linear_v\.", r".block_sparse_moe.experts.\1.w3."),
        Rename(r"\.moe\.([0-9]+)\.linear_1\.", r".block_sparse_moe.experts.\1.w2."),
    ),
    aliases={"rope_type": SAID_TYPE},
    derive=(
        lambda hparams: {
            "expert_width": hparams.values.get("moe_intermediate_size") or hparams.values["intermediate_size"]
        },
    ),
    back={"attention.output_scale": "attn_output_multiplier"},
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (GROK,)
