"""ruGPT-3 XL: GPT-2 under Llama's names, with queries, keys and values apart.

Source: conversion/gpt2.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from quantkit.families import assumptions, keys
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import EMBEDDING, HEAD, OWN_CODE, Family, T, with_biases
from quantkit.untrusted import shown


def dense_attention(hparams: Hparams) -> str | None:
    """Every layer attends to all tokens."""
    said = hparams.values.get("sparse_mode")
    return None if said in (None, "none") else f'it ignores sparse_mode "{shown(str(said))}"'


QKV = "3*hidden_size"
RUGPT3XL = Family(
    name="rugpt3xl",
    gguf="gpt2",
    hf=("RuGPT3XLForCausalLM",),
    defaults={
        "rugpt3xl": {
            "vocab_size": 50264, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
            "num_attention_heads": 16, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "layer_norm_eps": 1e-5, "tie_word_embeddings": False, "hidden_act": "gelu_new", "sparse_mode": "none",
        },
    },
    outside=(
        EMBEDDING,
        T("model.embed_positions.weight", "position_embd.weight", Role.POSITION, "max_position_embeddings hidden_size"),
        *with_biases((T("model.norm.weight", "output_norm.weight", Role.NORM, "hidden_size"),)),
        HEAD,
    ),
    block=(
        *(T(f"self_attn.{part}_proj.weight", "attn_qkv.weight", Role.ATTN_QKV, "hidden_size hidden_size",
            total=f"{QKV} hidden_size", order=order) for order, part in enumerate("qkv")),
        *(T(f"self_attn.{part}_proj.bias", "attn_qkv.bias", Role.BIAS, "hidden_size", total=QKV, order=order)
          for order, part in enumerate("qkv")),
        *with_biases((
            T("input_layernorm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
            T("post_attention_layernorm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
            T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size"),
            T("mlp.up_proj.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
            T("mlp.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
        )),
    ),
    keys=(*keys.without(keys.SIZES, "attention.head_count_kv"), keys.LAYER_EPSILON),
    assumes=(assumptions.gelu, dense_attention),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (RUGPT3XL,)
