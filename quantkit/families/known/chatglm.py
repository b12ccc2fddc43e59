"""ChatGLM 2 and 3, GLM-4-9B-chat as first published: GLM's blocks, with queries, keys and values in one matrix.

Source: conversion/chatglm.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families.fixed import require_only
from quantkit.families.hparams import Hparams
from quantkit.families.known.glm import GLM
from quantkit.families.roles import Role
from quantkit.families.rows import OWN_CODE, Drop, T

KNOWN = {"rmsnorm": True, "add_bias_linear": False, "apply_residual_connection_post_layernorm": False}


def checked(hparams: Hparams) -> Mapping[str, Any]:
    """Nothing. Raises UnsupportedError for what the graph has no place for."""
    require_only(hparams, KNOWN, silent=True)
    return {}


CHATGLM = replace(
    GLM,
    name="chatglm3",
    hf=("ChatGLMModel", "ChatGLMForConditionalGeneration"),
    defaults={
        "chatglm": {
            "vocab_size": 65024, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 28,
            "num_attention_heads": 32, "num_key_value_heads": 1, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "tie_word_embeddings": False,
            "add_qkv_bias": False,
        },
    },
    aliases={
        "num_layers": "num_hidden_layers", "padded_vocab_size": "vocab_size", "ffn_hidden_size": "intermediate_size",
        "multi_query_group_num": "num_key_value_heads", "layernorm_epsilon": "rms_norm_eps",
        "seq_length": "max_position_embeddings",
    },
    source_block="transformer.encoder.layers.{}.",
    outside=(
        T("transformer.embedding.word_embeddings.weight", "token_embd.weight", Role.TOKEN_EMBD,
          "vocab_size hidden_size"),
        T("transformer.encoder.final_layernorm.weight", "output_norm.weight", Role.NORM, "hidden_size"),
        T("transformer.output_layer.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size"),
    ),
    block=(
        T("input_layernorm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        T("post_attention_layernorm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        T("self_attention.query_key_value.weight", "attn_qkv.weight", Role.ATTN_QKV, "qkv_rows hidden_size",
          bias="add_qkv_bias"),
        T("self_attention.dense.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
        T("mlp.dense_h_to_4h.weight", "ffn_up.weight", Role.FFN_UP, "2*intermediate_size hidden_size"),
        T("mlp.dense_4h_to_h.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
    ),
    drop=(Drop("*.rotary_pos_emb.inv_freq", "rotary frequencies are computed at run time"),),
    derive=(checked,),
    folds=(),
    computes=frozenset(),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (CHATGLM,)
