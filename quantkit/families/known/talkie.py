"""Talkie: no norm has weights, and gains scale what heads, attention, MLPs and embeddings add.

Positions are rotated the other way round: the second half of every head of queries and keys changes its sign, and the
rotation is llama.cpp's. Source: conversion/talkie.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.layers import Told
from quantkit.families.layouts import column
from quantkit.families.model import Part, Rows
from quantkit.families.parts import Mapped
from quantkit.families.placements import Placement
from quantkit.families.roles import Role
from quantkit.families.rows import OWN_CODE, Drop, Family, T
from quantkit.families.spellings import Rename
from quantkit.tensors import TensorInfo

GAIN = "lm_head_gain.w_g"
EPSILON = float(np.finfo(np.float32).eps)  # of torch.nn.functional.rms_norm where nothing is said


def turned_back(info: TensorInfo, hparams: Hparams) -> Placement:
    """All rows, those of the second half of every head with the other sign."""
    head = hparams.count("head")
    parts: list[Part] = []
    for start in range(0, info.rows, head):
        middle = start + head // 2
        parts += [Rows(info.name, start, middle), Mapped(Rows(info.name, middle, start + head), "*", -1.0)]
    return Placement(info.shape, tuple(parts))


def logit_scale(hparams: Hparams) -> Any:
    """The gain of the head; nothing where headers alone are read."""
    return next(iter(hparams.values.get("gains", ())), None)


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """The epsilon that no file says."""
    return {"rms_norm_eps": EPSILON}


TALKIE = Family(
    name="talkie",
    gguf="talkie",
    hf=("TalkieForCausalLM",),
    defaults={
        "talkie": {
            "vocab_size": 65540, "hidden_size": 5120, "intermediate_size": 13696, "num_hidden_layers": 40,
            "num_attention_heads": 40, "num_key_value_heads": None, "head_dim": 128, "max_position_embeddings": 2048,
            "rope_theta": 1000000.0, "tie_word_embeddings": False,
        },
    },
    source_block="model.blocks.{}.",
    spellings=(Rename(r"^lm_head$", "lm_head.weight"),),
    outside=(
        T("model.embed.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        T("lm_head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size"),
    ),
    block=(
        T("attn.attn_query.weight", "attn_q.weight", Role.ATTN_Q, "q_rows hidden_size", turned_back),
        T("attn.attn_key.weight", "attn_k.weight", Role.ATTN_K, "kv_rows hidden_size", turned_back),
        T("attn.attn_value.weight", "attn_v.weight", Role.ATTN_V, "kv_rows hidden_size"),
        T("attn.attn_resid.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
        T("attn.head_gain.head_g", "attn_q_norm.weight", Role.NORM, "num_attention_heads", column),
        T("attn_gain.a_g", "attn_output.scale", Role.OTHER, "1"),
        T("mlp.mlp_gate.weight", "ffn_gate.weight", Role.FFN_GATE, "intermediate_size hidden_size"),
        T("mlp.mlp_linear.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
        T("mlp.mlp_resid.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
        T("mlp_gain.a_g", "ffn_down.scale", Role.OTHER, "1"),
        T("embed_skip.a_g", "layer_output_scale.weight", Role.OTHER, "1"),
    ),
    keys=(
        *keys.SIZES,
        keys.rope_scaling,
        keys.FREQUENCY_BASE,
        *keys.HEAD_LENGTHS,
        keys.RMS_EPSILON,
        keys.computed("logit_scale", "f32", logit_scale),
    ),
    drop=(Drop(GAIN, "the file has its number among its keys"),),
    derive=(numbers,),
    seen=(Told(GAIN, "gains"),),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (TALKIE,)
