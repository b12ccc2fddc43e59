"""PLaMo 1, whose attention and MLP read the same norm, and PLaMo 2 and 3: norms around both parts of a block, queries,
keys and values in one matrix, gate and up in another.

PLaMo 2 attends in some layers and has a Mamba of its own kind in the others: a step for each head, and norms of steps
and states. Source: conversion/plamo.py of llama.cpp, October 2026. Differs from it: all layers of PLaMo 2 have as many
heads, where the converter says none of those that do not attend. From the first layer's llama.cpp takes how much of a
head is rotated, and with none of it its rotation comes to no end; which layers attend it takes from the heads of keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import assumptions, keys
from quantkit.families.hparams import Hparams
from quantkit.families.layers import KINDS, TRUNK, kind
from quantkit.families.layouts import columns, regroup, squeeze
from quantkit.families.roles import Role
from quantkit.families.rows import (
    EMBEDDING,
    FINAL_NORM,
    FREQUENCIES,
    HEAD,
    MLP,
    OWN_CODE,
    Family,
    T,
    TokenizerRules,
    at,
    without_biases,
)

MAMBA, FULL = "mamba", "attention"
INNER, STATE, STEPS = "ssm_inner", "ssm_state", "step_rank"
UNKNOWN = "<|plamo:unk|>"
LEAST_STEPS = 64  # rows that steps are made of
AFTER_MIXER, AFTER_MLP = 1 / 5, 1 / 5**1.5  # what norms are added to


def sizes(hparams: Hparams) -> Mapping[str, Any]:
    """Which layers are of which kind, and the sizes of a Mamba. Raises UnsupportedError for a model without one."""
    count, step = hparams.count(TRUNK), hparams.count("mamba_step")
    if hparams.values.get("mamba_enabled") is not True:
        what = "no layer is a Mamba, llama.cpp's converter says no heads then"
        raise UnsupportedError(what, key="mamba_enabled", hint="run it with the code of the checkpoint")
    attends = {count - 1} if count <= step // 2 else set(range(step // 2, count, step))
    return {
        KINDS: [FULL if layer in attends else MAMBA for layer in range(count)], "zero": 0,
        INNER: hparams.count("ssm_heads") * hparams.count("head"),
        STEPS: max(LEAST_STEPS, hparams.count("hidden_size") // 16),
    }  # fmt: skip


def stretched(hparams: Hparams) -> Mapping[str, Any]:
    """The stretching of positions, of which config.json says the factor and the context before it."""
    factor = hparams.number("rope_scaling_factor")
    if factor in (None, 1.0) or hparams.values.get("rope_type") != "default":
        return {}
    context = hparams.count("initial_context_length")
    return {
        "rope_type": "yarn", "rope_factor": factor, "rope_original_context": context, "rope_beta_fast": 32.0,
        "rope_beta_slow": 1.0,
    }  # fmt: skip


AROUND = (
    T("pre_mixer_norm.weight", "attn_norm.weight", Role.NORM, "hidden_size", add=1.0),
    T("pre_mlp_norm.weight", "ffn_norm.weight", Role.NORM, "hidden_size", add=1.0),
    T("post_mlp_norm.weight", "post_ffw_norm", Role.NORM, "hidden_size", add=AFTER_MLP),
    T("mlp.gate_up_proj.weight", "ffn_up.weight", Role.FFN_UP, "2*intermediate_size hidden_size"),
    T("mlp.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
)
ATTENTION = (
    T("mixer.qkv_proj.weight", "attn_qkv.weight", Role.ATTN_QKV, "qkv_rows hidden_size"),
    T("mixer.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
)
AFTER = T("post_mixer_norm.weight", "post_attention_norm", Role.NORM, "hidden_size", add=AFTER_MIXER)
SIZES = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 13312, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "tie_word_embeddings": True, "head_dim": 128,
}  # fmt: skip

PLAMO2 = Family(
    name="plamo2",
    gguf="plamo2",
    hf=("Plamo2ForCausalLM", "PLaMo2ForCausalLM"),
    defaults={
        "plamo2": {**SIZES, "mamba_step": 2, "mamba_enabled": True, STATE: 64, "ssm_conv": 4, "ssm_heads": 64},
    },
    outside=(EMBEDDING, replace(FINAL_NORM, add=1.0), HEAD),
    source_block="model.layers.layers.{}.",
    block=(
        *AROUND,
        AFTER,
        *at(kind(FULL), (
            *ATTENTION,
            T("mixer.q_weight", "attn_q_norm.weight", Role.NORM, "num_attention_heads head"),
            T("mixer.k_weight", "attn_k_norm.weight", Role.NORM, "num_key_value_heads head"),
        )),
        *at(kind(MAMBA), (
            T("mixer.in_proj.weight", "ssm_in.weight", Role.OTHER, f"2*{INNER} hidden_size"),
            T("mixer.conv1d.weight", "ssm_conv1d.weight", Role.OTHER, f"{INNER} 1 ssm_conv", squeeze),
            T("mixer.bcdt_proj.weight", "ssm_x.weight", Role.OTHER, f"{STEPS}+2*{STATE} {INNER}"),
            T("mixer.dt_proj.weight", "ssm_dt.weight", Role.OTHER, f"ssm_heads {STEPS}"),
            T("mixer.dt_bias", "ssm_dt.bias", Role.BIAS, "ssm_heads"),
            T("mixer.A_log", "ssm_a", Role.OTHER, "ssm_heads", value="-exp"),
            T("mixer.D", "ssm_d", Role.OTHER, "ssm_heads"),
            T("mixer.dt_norm_weight", "ssm_dt_norm", Role.NORM, STEPS),
            T("mixer.B_norm_weight", "ssm_b_norm", Role.NORM, STATE),
            T("mixer.C_norm_weight", "ssm_c_norm", Role.NORM, STATE),
            T("mixer.out_proj.weight", "ssm_out.weight", Role.OTHER, f"hidden_size {INNER}"),
        )),
    ),
    keys=(
        keys.VOCAB_SIZE,
        *keys.without(keys.SIZES, "attention.head_count_kv"),
        keys.per_layer("attention.head_count_kv", "i32", "num_key_value_heads", kind(FULL)),
        keys.RMS_EPSILON,
        *keys.HEAD_LENGTHS,
        keys.FREQUENCY_BASE,
        keys.Key("ssm.conv_kernel", "u32", "ssm_conv"),
        keys.Key("ssm.inner_size", "u32", INNER),
        keys.Key("ssm.state_size", "u32", STATE),
        keys.Key("ssm.time_step_rank", "u32", "ssm_heads"),
        keys.Key("ssm.group_count", "u32", "zero"),
    ),
    aliases={
        "hidden_size_per_head": "head_dim", "mamba_d_state": STATE, "mamba_d_conv": "ssm_conv",
        "mamba_num_heads": "ssm_heads",
    },
    derive=(sizes,),
    assumes=(assumptions.silu,),
    tokens=TokenizerRules(own="plamo2", ids={"eot": 4}, named={"unk": UNKNOWN}),
    unserved=OWN_CODE,
)  # fmt: skip

PLAMO3 = Family(
    name="plamo3",
    gguf="plamo3",
    hf=("Plamo3ForCausalLM", "PLaMo3ForCausalLM"),
    defaults={"plamo3": SIZES},
    outside=(EMBEDDING, replace(FINAL_NORM, add=1.0), HEAD),
    source_block="model.layers.layers.{}.",
    block=(
        *AROUND,
        AFTER,
        *ATTENTION,
        T("mixer.q_norm.weight", "attn_q_norm.weight", Role.NORM, "head", add=1.0),
        T("mixer.k_norm.weight", "attn_k_norm.weight", Role.NORM, "head", add=1.0),
    ),
    keys=(
        *keys.COMMON,
        keys.VOCAB_SIZE,
        keys.SLIDING_WINDOW,
        keys.Key("attention.sliding_window_pattern", "u32", "sliding_window_pattern", when="sliding_window"),
    ),
    aliases={"window_size": "sliding_window", "rope_local_theta": "rope_local_base_freq"},
    derive=(stretched,),
    assumes=(assumptions.silu,),
    tokens=TokenizerRules(own="plamo2", ids={"eot": 4}, named={"unk": UNKNOWN}),
    unserved=OWN_CODE,
)  # fmt: skip


def shared_heads(hparams: Hparams) -> Mapping[str, Any]:
    """As many heads of keys as queries of one group: config.json of PLaMo 1 says another number, which is unused.

    Raises UnsupportedError for heads that are no whole groups.
    """
    heads, share = hparams.count("num_attention_heads"), hparams.count("n_shared_head")
    if heads % share:
        what = f"{heads} heads in groups of {share}: a part of a group has no place in llama.cpp's attention"
        raise UnsupportedError(what, key="n_shared_head", hint="run it with the code of the checkpoint")
    count = heads // share
    return {"num_key_value_heads": count, "kv_rows": count * hparams.count("head"), "context": CONTEXT}


CONTEXT = 4096  # which its config.json does not say
PLAMO1 = Family(
    name="plamo",
    gguf="plamo",
    hf=("PlamoForCausalLM",),
    defaults={
        "plamo": {
            "vocab_size": 50432, "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
            "num_attention_heads": 40, "num_key_value_heads": 5, "n_shared_head": 8, "max_position_embeddings": CONTEXT,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    outside=(EMBEDDING, FINAL_NORM, HEAD),
    source_block="model.layers.layers.{}.",
    block=(
        T("norm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        # queries of one head of keys are apart by the number of these heads: in a file they lie side by side
        T("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "q_rows hidden_size",
          regroup("n_shared_head", "num_key_value_heads")),
        T("self_attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, "kv_rows hidden_size"),
        T("self_attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, "kv_rows hidden_size"),
        T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows",
          columns("n_shared_head", "num_key_value_heads")),
        *without_biases(MLP),
    ),
    keys=(
        keys.blocks,
        keys.Key("context_length", "u32", "context"),
        *keys.without(keys.SIZES, "context_length")[1:],
        keys.RMS_EPSILON,
    ),
    drop=(FREQUENCIES,),
    derive=(shared_heads,),
    assumes=(assumptions.silu,),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (PLAMO1, PLAMO2, PLAMO3)
