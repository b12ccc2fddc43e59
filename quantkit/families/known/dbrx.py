"""DBRX: a mixture whose experts lie in three matrices, with layer norms and clipped queries, keys and values.

Source: conversion/dbrx.py of llama.cpp, October 2026, which keeps the router in the type of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.errors import InputError
from quantkit.families import assumptions, keys
from quantkit.families.folds import Fold
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.layouts import fold, turn
from quantkit.families.roles import Role
from quantkit.families.rows import HEAD, Family, T
from quantkit.untrusted import shown

EXPERTS, WIDTH = "num_local_experts", "ffn_hidden_size"
PARTS = {
    "attn_config": {"kv_n_heads": "num_key_value_heads", "clip_qkv": "clip_qkv", "rope_theta": "rope_theta"},
    "ffn_config": {
        "moe_num_experts": EXPERTS, "moe_top_k": "num_experts_per_tok", WIDTH: WIDTH,
        "moe_normalize_expert_weights": "moe_normalize_expert_weights", "ffn_act_fn": "ffn_act_fn",
    },
}  # fmt: skip

OF_EXPERTS = {EXPERTS: 4, "num_experts_per_tok": 1, WIDTH: 3584, "moe_normalize_expert_weights": 1.0}  # by default


def of_parts(hparams: Hparams) -> Mapping[str, Any]:
    """What stands in the parts of config.json for attention and experts, and the sizes that follow from it."""
    found: dict[str, Any] = dict(OF_EXPERTS)
    for part, names in PARTS.items():
        said = hparams.values.get(part)
        if said is not None and not isinstance(said, Mapping):
            message = f"config.json: {part} is {shown(repr(said)[:80])}, expected an object"
            raise InputError(message, key=part, path="config.json", hint=CONFIG_HINT)
        found |= {new: said[old] for old, new in names.items() if said and old in said}
    kv = Hparams({**hparams.values, **found}).count("num_key_value_heads") * hparams.count("head")
    return {**found, "kv_rows": kv, "qkv_rows": hparams.count("q_rows") + 2 * kv}


def weights_add_up(hparams: Hparams) -> str | None:
    """The weights of the chosen experts add up to 1."""
    said = hparams.number("moe_normalize_expert_weights")
    return None if said == 1 else f"moe_normalize_expert_weights is {said}, it takes 1"


def silu_by_name(hparams: Hparams) -> str | None:
    """Gated MLPs use SiLU."""
    said = hparams.values.get("ffn_act_fn")
    name = said["name"] if isinstance(said, Mapping) and "name" in said else "silu"
    return None if name in ("silu", "swish") else f"ffn_act_fn is {shown(str(name))}, it computes silu"


def clip(hparams: Hparams) -> float:
    """Where queries, keys and values are cut off; 0 for nowhere."""
    return hparams.number("clip_qkv") or 0.0


ONE = f"{EXPERTS}*{WIDTH} hidden_size"

DBRX = Family(
    name="dbrx",
    gguf="dbrx",
    hf=("DbrxForCausalLM",),
    defaults={
        "dbrx": {
            "vocab_size": 32000, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16,
            "num_key_value_heads": 1, "max_position_embeddings": 2048, "tie_word_embeddings": False,
            "rope_theta": 10000.0,
        },
    },
    aliases={
        "d_model": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers",
        "max_seq_len": "max_position_embeddings",
    },
    derive=(of_parts,),
    source_block="transformer.blocks.{}.",
    outside=(
        T("transformer.wte.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        T("transformer.norm_f.weight", "output_norm.weight", Role.NORM, "hidden_size"),
        HEAD,
    ),
    block=(
        T("norm_attn_norm.norm_1.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        T("norm_attn_norm.attn.Wqkv.weight", "attn_qkv.weight", Role.ATTN_QKV, "qkv_rows hidden_size"),
        T("norm_attn_norm.attn.out_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
        T("norm_attn_norm.norm_2.weight", "attn_output_norm.weight", Role.NORM, "hidden_size"),
        T("ffn.router.layer.weight", "ffn_gate_inp.weight", Role.ROUTER, f"{EXPERTS} hidden_size", f32=False),
        T("ffn.experts.mlp.w1", "ffn_gate_exps.weight", Role.FFN_GATE, ONE, fold(EXPERTS, WIDTH)),
        T("ffn.experts.mlp.v1", "ffn_up_exps.weight", Role.FFN_UP, ONE, fold(EXPERTS, WIDTH)),
        T("ffn.experts.mlp.w2", "ffn_down_exps.weight", Role.FFN_DOWN, ONE, fold(EXPERTS, WIDTH) >> turn),
    ),
    keys=(
        *keys.without(keys.SIZES, "feed_forward_length"),
        keys.Key("feed_forward_length", "u32", WIDTH),
        keys.FREQUENCY_BASE,
        keys.computed("attention.clamp_kqv", "f32", clip),
        keys.Key("expert_count", "u32", EXPERTS),
        keys.Key("expert_used_count", "u32", "num_experts_per_tok"),
        keys.computed("attention.layer_norm_epsilon", "f32", lambda hparams: 1e-5),  # of the model's code
    ),
    assumes=(silu_by_name, weights_add_up, assumptions.yarn_temperature),
    computes=frozenset({"d_model", "n_heads", "n_layers", "max_seq_len", *PARTS}),
    folds=(Fold("norm_attn_norm.norm_1", ("norm_attn_norm.attn.Wqkv",), norm=True),),  # values are cut off
)  # fmt: skip

FAMILIES = (DBRX,)
