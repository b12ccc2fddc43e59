"""What a tensor does in a model. Recipes speak of roles; families give every tensor one."""

from __future__ import annotations

import re
from enum import StrEnum


class Role(StrEnum):
    """The part a tensor plays. A fused tensor has the role of the whole (ATTN_QKV, FFN_GATE_UP)."""

    TOKEN_EMBD = "token_embd"
    OUTPUT = "output"
    ATTN_Q = "attn_q"
    ATTN_K = "attn_k"
    ATTN_V = "attn_v"
    ATTN_QKV = "attn_qkv"
    ATTN_KV_B = "attn_kv_b"
    ATTN_OUTPUT = "attn_output"
    FFN_GATE = "ffn_gate"
    FFN_UP = "ffn_up"
    FFN_DOWN = "ffn_down"
    FFN_GATE_UP = "ffn_gate_up"
    ROUTER = "router"
    NORM = "norm"
    BIAS = "bias"
    ROPE = "rope"
    POSITION = "position"
    OTHER = "other"


# The linears of a block as a forward pass goes, in groups that read the same tensor. Engines run a group as one matrix.
INPUTS = (
    (Role.ATTN_Q, Role.ATTN_K, Role.ATTN_V), (Role.ATTN_QKV,), (Role.ATTN_OUTPUT,),
    (Role.FFN_GATE, Role.FFN_UP), (Role.FFN_GATE_UP,), (Role.FFN_DOWN,),
)  # fmt: skip
FUSED = {role: number for number, roles in enumerate(INPUTS) for role in roles if len(roles) > 1}  # role -> its group
# Of other roles, by the last word of their names: those of one input of latent attention, and of linear attention.
TOGETHER = {"q_a_proj": -1, "kv_a_proj_with_mqa": -1, "in_proj_qkv": -2, "in_proj_z": -2}


def fused_group(role: Role, module: str) -> int | None:
    """The number of the group with which engines run a layer as one matrix, None for one that stands alone."""
    return TOGETHER.get(module.rpartition(".")[2], FUSED.get(role))


# Matrices that the reference converter keeps in f32 (conversion/base.py, prepare_tensors), by their name in a block.
KEPT = frozenset({
    "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "ssm_conv1d.weight", "ssm_conv1d_q.weight",
    "ssm_conv1d_k.weight", "ssm_conv1d_v.weight", "shortconv.conv.weight", "position_embd.weight", "token_types.weight",
    "v.position_embd.weight", "a.position_embd.weight",
    "time_mix_first.weight", "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight", "altup_correct_coef.weight", "altup_predict_coef.weight",
    "indexer.proj.weight",
})  # fmt: skip
# Of those the ones that llama-quantize rounds all the same, and what some families keep.
ROUNDED = frozenset({
    "indexer.proj.weight", "hc_attn_fn.weight", "hc_ffn_fn.weight", "output_hc_fn.weight", "output.weight",
    "attn_compressor_ape.weight", "indexer_compressor_ape.weight",
})  # fmt: skip
IN_BLOCK = re.compile(r"(?:(?:enc|dec)\.)?blk\.[0-9]+\.")


def stays_f32(name: str, axes: int) -> bool:
    """Whether the target tensor `name` of so many axes is f32 in a file that is not quantized."""
    if axes <= 1 or not name.endswith(".weight") or name.endswith("_norm.weight"):
        return True
    return IN_BLOCK.sub("", name, count=1) in KEPT


def is_rounded(name: str) -> bool:
    """Whether a tensor that stays f32 in a file that is not quantized is quantized in one that is."""
    return IN_BLOCK.sub("", name, count=1) in ROUNDED


# Substrings of GGUF tensor names, first match wins: the categories that llama.cpp's mixtures speak of
# (llama-quant.cpp, tensor_get_category), refined where a category is never quantized. "ffn_up" also names the
# experts "ffn_up_exps" and the shared expert "ffn_up_shexp".
_NAME_PARTS = (
    (".bias", Role.BIAS),
    ("exp_probs_b", Role.BIAS),
    (".scale", Role.OTHER),
    ("_norm", Role.NORM),
    (".enorm.", Role.NORM),
    (".hnorm.", Role.NORM),
    ("rope_freqs", Role.ROPE),
    ("rope_factors", Role.ROPE),
    ("position_embd.weight", Role.POSITION),
    ("token_types.weight", Role.POSITION),
    ("ffn_gate_inp", Role.ROUTER),
    ("ffn_gate_tid2eid", Role.OTHER),
    ("attn_qkv.weight", Role.ATTN_QKV),
    ("attn_kv_b.weight", Role.ATTN_KV_B),
    ("attn_v.weight", Role.ATTN_V),
    ("attn_k.weight", Role.ATTN_K),
    ("attn_q.weight", Role.ATTN_Q),
    ("attn_output.weight", Role.ATTN_OUTPUT),
    ("ffn_gate_up", Role.FFN_GATE_UP),
    ("ffn_up", Role.FFN_UP),
    ("ffn_gate", Role.FFN_GATE),
    ("ffn_down", Role.FFN_DOWN),
)


def role_of(name: str) -> Role:
    """The role of a tensor by its GGUF name, e.g. "blk.3.ffn_down_exps.weight" -> FFN_DOWN; OTHER when unknown."""
    if name == "output.weight":
        return Role.OUTPUT
    if name in {"token_embd.weight", "per_layer_token_embd.weight"}:
        return Role.TOKEN_EMBD
    return next((role for part, role in _NAME_PARTS if part in name), Role.OTHER)
