"""Kimi K3: linear attention (KDA) and gated latent attention, experts that read something narrower than the model, and
layers that weigh what earlier ones gave.

Source: conversion/kimi_k3.py of llama.cpp, October 2026. Its vision tower stays out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.deepseek import ATTENTION as LATENT
from quantkit.families.known.kimi_linear import (
    DELTA,
    FULL,
    HINT,
    KDA,
    KIMI_LINEAR,
    LINEAR,
    every_layer,
    section,
    ungrouped,
)
from quantkit.families.layers import before, both, flagged, from_, kind, listed
from quantkit.families.layouts import rows
from quantkit.families.placements import expert
from quantkit.families.products import factor, times
from quantkit.families.roles import Role
from quantkit.families.rows import MLP, NORMS, OUTSIDE, OWN_CODE, Drop, T, at, shared_expert, without_biases
from quantkit.untrusted import shown

WIDTH, NARROWED = "routed_expert_hidden_size", "narrowed"
SITU = "situ"
MOE = "block_sparse_moe"


def checked(hparams: Hparams) -> Mapping[str, Any]:
    """How many layers have no experts, and how wide what the others read is.

    Raises UnsupportedError for what llama.cpp's graph has no place for.
    """
    taken = (("hidden_act", SITU), ("moe_router_activation_func", "sigmoid"), ("mla_use_nope", True))
    for key, value in taken:
        said = hparams.values.get(key)
        if said != value:
            what = f"{key} is {shown(repr(said)[:40])}, llama.cpp computes {value!r} in Kimi K3"
            raise UnsupportedError(what, key=key, hint=HINT)
    narrow = hparams.values.get(WIDTH)
    return {
        "compressed": hparams.number("q_lora_rank") is not None, NARROWED: narrow is not None,
        "expert_inputs": hparams.values["hidden_size"] if narrow is None else narrow,
        "dense_layers": int(hparams.number("first_k_dense_replace") or 0),
    }  # fmt: skip


def weighed(source: str, target: str) -> tuple[T, ...]:
    """What layers before are weighed by: a norm times a row."""
    norm, row = (f"{source}_{part}.weight" for part in ("norm", "proj"))
    return (
        T(norm, f"{target}.weight", Role.OTHER, "hidden_size", times("_norm.weight", "_proj.weight"),
          total="hidden_size", order=0),
        T(row, f"{target}.weight", Role.OTHER, "1 hidden_size", factor, total="hidden_size", order=1),
    )  # fmt: skip


GATE = "self_attn.g_proj.weight"
DELTA_OF_K3 = (
    *(t for t in DELTA if t.target not in ("ssm_a", "ssm_g_a.weight", "ssm_g_b.weight")),
    T("self_attn.A_log", "ssm_a", Role.OTHER, "linear_num_heads", rows("0", "num_attention_heads"), value="-exp"),
    T(GATE, "ssm_g.weight", Role.OTHER, f"{KDA} hidden_size"),
)
EXPERT_IN, EXPERT_OUT = "moe_intermediate_size expert_inputs", "expert_inputs moe_intermediate_size"
MIXTURE = (
    T(f"{MOE}.gate.weight", "ffn_gate_inp.weight", Role.ROUTER, "num_local_experts hidden_size"),
    T(f"{MOE}.gate.e_score_correction_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts"),
    T(f"{MOE}.experts.{{}}.w1.weight", "ffn_gate_exps.weight", Role.FFN_GATE, EXPERT_IN, expert),
    T(f"{MOE}.experts.{{}}.w3.weight", "ffn_up_exps.weight", Role.FFN_UP, EXPERT_IN, expert),
    T(f"{MOE}.experts.{{}}.w2.weight", "ffn_down_exps.weight", Role.FFN_DOWN, EXPERT_OUT, expert),
    *shared_expert("n_shared_experts*moe_intermediate_size", f"{MOE}.shared_experts"),
    *at(flagged(NARROWED), (
        T(f"{MOE}.routed_expert_down_proj.weight", "ffn_routed_down.weight", Role.OTHER, f"{WIDTH} hidden_size"),
        T(f"{MOE}.routed_expert_up_proj.weight", "ffn_routed_up.weight", Role.OTHER, f"hidden_size {WIDTH}"),
        T(f"{MOE}.routed_expert_norm.weight", "ffn_routed_norm.weight", Role.NORM, WIDTH),
    )),
)  # fmt: skip

KIMI_K3 = replace(
    KIMI_LINEAR,
    name="kimi_k3",
    gguf="kimi-k3",
    hf=("KimiK3ForConditionalGeneration",),
    defaults={"kimi_k3": KIMI_LINEAR.defaults["kimi_linear"]},
    outside=(*OUTSIDE, *weighed("model.output_attn_res", "output_res_score")),
    block=(
        *NORMS,
        *weighed("self_attention_res", "attn_res_score"),
        *weighed("mlp_res", "ffn_res_score"),
        *at(kind(LINEAR), DELTA_OF_K3),
        *(replace(t, where=both(kind(FULL), t.where)) for t in without_biases(LATENT)),
        *at(kind(FULL), (T(GATE, "attn_gate.weight", Role.OTHER, "num_attention_heads*v_head_dim hidden_size"),)),
        *at(before("dense_layers"), without_biases(MLP)),
        *(replace(t, where=both(from_("dense_layers"), t.where)) for t in MIXTURE),
    ),
    keys=(
        *keys.without(KIMI_LINEAR.keys, "attention.value_length"),
        keys.Key("attention.value_length", "u32", "kv_lora_rank"),
        keys.Key("attention.q_lora_rank", "u32", "q_lora_rank"),
        keys.Key("kda.gate_lower_bound", "f32", "gate_lower_bound"),
        keys.Key("expert_weights_norm", "bool", "moe_renormalize"),
        keys.Key("expert_latent_length", "u32", WIDTH),
        keys.Key("activation.situ_beta", "f32", "activation_situ_beta"),
        keys.Key("activation.situ_linear_beta", "f32", "activation_situ_linear_beta"),
        keys.Key("attn_res.block_size", "u32", "attn_res_block_size"),
    ),
    drop=tuple(Drop(f"{own}*", "the language model alone is converted") for own in ("vision_tower.", "mm_projector.")),
    strip="language_model.",
    derive=(section, listed("layer_types", {LINEAR: LINEAR, FULL: FULL}), checked),
    assumes=(ungrouped, every_layer),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (KIMI_K3,)
