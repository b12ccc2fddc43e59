"""What a tensor does in a model. Recipes speak of roles; families give every tensor one."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """The part a tensor plays. A fused tensor has the role of the whole (ATTN_QKV, FFN_GATE_UP)."""

    TOKEN_EMBD = "token_embd"
    OUTPUT = "output"
    ATTN_Q = "attn_q"
    ATTN_K = "attn_k"
    ATTN_V = "attn_v"
    ATTN_QKV = "attn_qkv"
    ATTN_OUTPUT = "attn_output"
    FFN_GATE = "ffn_gate"
    FFN_UP = "ffn_up"
    FFN_DOWN = "ffn_down"
    FFN_GATE_UP = "ffn_gate_up"
    ROUTER = "router"
    NORM = "norm"
    BIAS = "bias"
    ROPE = "rope"
    OTHER = "other"
