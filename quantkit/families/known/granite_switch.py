"""Granite Switch: a dense Granite with adapters of low rank inside, which tokens of their own switch on.

A file has the adapters of each matrix stacked behind one of zeros, the adapter of a text that asks for none. The block
that reads the switching tokens has no weights. Source: conversion/granite.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import keys
from quantkit.families.fixed import require_only
from quantkit.families.hparams import Hparams
from quantkit.families.known.granite import GRANITE
from quantkit.families.layers import TRUNK
from quantkit.families.layouts import Layout, fold, joined, regroup, rows
from quantkit.families.layouts import flat as side_by_side
from quantkit.families.model import Rows
from quantkit.families.parts import Zeros
from quantkit.families.placements import Placement, first_half, rope_rows, second_half
from quantkit.families.roles import Role, role_of
from quantkit.families.rows import EMBEDDING, FINAL_NORM, NORMS, OWN_CODE, Drop, T
from quantkit.tensors import TensorInfo

COUNT, RANK, WIDTH = "num_adapters", "max_lora_rank", "shared_intermediate_size"
TIED = Drop("lm_head.weight", "the same values as the embeddings")
SWITCH = tuple(
    Drop(pattern, "what switches adapters is made at run time")
    for pattern in ("model.switch.*", "switch.*", "*adapter_token_ids", "*control_to_substitute_lut")
)


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """The blocks with weights, and no experts. Raises UnsupportedError for a mixture."""
    require_only(hparams, {"num_local_experts": 0}, silent=True)
    return {TRUNK: hparams.count(TRUNK) - 1, "num_experts_per_tok": 0}


def behind_zeros(info: TensorInfo, hparams: Hparams) -> Placement:
    """Adapters (adapters, 1, out, in) as (adapters + 1, out, in), with zeros in the place of the first."""
    adapters, _, height, width = info.shape
    return Placement((adapters + 1, height, width), (Zeros(height, width), Rows(info.name, 0, info.rows)))


def rotated_behind_zeros(info: TensorInfo, hparams: Hparams) -> Placement:
    """The same, with the rows of queries or keys in llama.cpp's rotation order."""
    return replace(behind_zeros(info, hparams), row_order=rope_rows(info, hparams).row_order)


def rotated(heads: str, start: str, stop: str) -> Layout:
    """Rows [start, stop) of a matrix of so many heads, rotation pairs side by side."""
    return rows(start, stop) >> fold(heads, "head") >> regroup("2", "head//2") >> side_by_side


QKV = joined(
    rotated("num_attention_heads", "0", "q_rows"),
    rotated("num_key_value_heads", "q_rows", "q_rows+kv_rows"),
    rows("q_rows+kv_rows", "qkv_rows"),
)


def adapter(source: str, target: str, number: str, out: str, width: str) -> tuple[T, T]:
    """Both matrices of the adapters of a target; `number` counts the parts of a fused matrix, "" for one of its own."""
    first, second = (f"{source}.lora_{which}{f'_slices.{number}' if number else ''}" for which in "AB")
    place = rotated_behind_zeros if target in ("attn_q", "attn_k") else behind_zeros
    return (
        T(first, f"{target}.lora_a", role_of(f"{target}.lora_a"), f"{COUNT} 1 {RANK} {width}", behind_zeros, f32=False),
        T(second, f"{target}.lora_b", role_of(f"{target}.lora_b"), f"{COUNT} 1 {out} {RANK}", place, f32=False),
    )


FUSED = f"2*{WIDTH} hidden_size"
GRANITE_SWITCH = replace(
    GRANITE,
    name="granite_switch",
    gguf="graniteswitch",
    hf=("GraniteSwitchForCausalLM",),
    defaults={"granite_switch": {**GRANITE.defaults["granite"], "head_dim": None, "control_token_gain": 15.0}},
    aliases={"projection_head_dim": "head_dim"},
    outside=(EMBEDDING, FINAL_NORM),
    block=(
        *NORMS,
        T("self_attn.qkv_proj.base_layer.weight", "attn_qkv.weight", Role.ATTN_QKV, "qkv_rows hidden_size", QKV),
        *adapter("self_attn.qkv_proj", "attn_q", "0", "q_rows", "hidden_size"),
        *adapter("self_attn.qkv_proj", "attn_k", "1", "kv_rows", "hidden_size"),
        *adapter("self_attn.qkv_proj", "attn_v", "2", "kv_rows", "hidden_size"),
        T("self_attn.o_proj.base_layer.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
        *adapter("self_attn.o_proj", "attn_output", "", "hidden_size", "q_rows"),
        T("shared_mlp.input_linear.base_layer.weight", "ffn_gate.weight", Role.FFN_GATE, FUSED, first_half),
        T("shared_mlp.input_linear.base_layer.weight", "ffn_up.weight", Role.FFN_UP, FUSED, second_half),
        *adapter("shared_mlp.input_linear", "ffn_gate", "0", WIDTH, "hidden_size"),
        *adapter("shared_mlp.input_linear", "ffn_up", "1", WIDTH, "hidden_size"),
        T("shared_mlp.output_linear.base_layer.weight", "ffn_down.weight", Role.FFN_DOWN, f"hidden_size {WIDTH}"),
        *adapter("shared_mlp.output_linear", "ffn_down", "", "hidden_size", WIDTH),
    ),
    keys=(
        *GRANITE.keys,
        keys.Key("expert_shared_feed_forward_length", "u32", WIDTH),
        keys.Key("adapters.count", "u32", COUNT),
        keys.Key("adapters.lora_rank", "u32", RANK),
        keys.Key("adapters.token_ids_activate", "i32", "adapter_token_ids", array=True),
        keys.Key("adapters.token_ids_substitute", "i32", "adapter_substitute_token_ids", array=True),
        keys.Key("adapters.router_gain", "f32", "control_token_gain"),
    ),
    drop=(*GRANITE.drop, TIED, *SWITCH),
    derive=(numbers,),
    folds=(),
    unserved=OWN_CODE,
)

FAMILIES = (GRANITE_SWITCH,)
