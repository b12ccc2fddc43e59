"""Qwen of the first generation: queries, keys and values in one matrix, and an MLP of half the width that is said.

Source: conversion/qwen.py of llama.cpp, October 2026. Differs from it in the epsilon, which llama.cpp looks for under
the name of root mean square norms.
"""

from __future__ import annotations

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import HEAD, OWN_CODE, Drop, Family, T, TokenizerRules

HALF = "intermediate_size//2"


def plain_attention(hparams: Hparams) -> str | None:
    """Attention and rotation are the same at every length."""
    trained, longest = hparams.number("seq_length"), hparams.number("max_position_embeddings")
    if trained is None or longest is None or longest <= trained:
        return None
    used = "use_dynamic_ntk" if hparams.flag("use_dynamic_ntk") else "use_logn_attn"
    if used == "use_logn_attn" and not hparams.flag("use_logn_attn"):
        return None
    return f"it ignores {used}, so contexts longer than seq_length {trained:g} differ"


QWEN = Family(
    name="qwen",
    gguf="qwen",
    hf=("QWenLMHeadModel",),
    defaults={
        "qwen": {
            "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 8192,
            "layer_norm_epsilon": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    aliases={"rotary_emb_base": "rope_theta"},
    source_block="transformer.h.{}.",
    outside=(
        T("transformer.wte.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        T("transformer.ln_f.weight", "output_norm.weight", Role.NORM, "hidden_size"),
        HEAD,
    ),
    block=(
        T("ln_1.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        T("attn.c_attn.weight", "attn_qkv.weight", Role.ATTN_QKV, "3*hidden_size hidden_size", bias="always"),
        T("attn.c_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size"),
        T("ln_2.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        T("mlp.w1.weight", "ffn_up.weight", Role.FFN_UP, f"{HALF} hidden_size"),
        T("mlp.w2.weight", "ffn_gate.weight", Role.FFN_GATE, f"{HALF} hidden_size"),
        T("mlp.c_proj.weight", "ffn_down.weight", Role.FFN_DOWN, f"hidden_size {HALF}"),
    ),
    keys=(
        *keys.without(keys.SIZES, "attention.head_count_kv"),
        keys.rope_scaling,
        keys.FREQUENCY_BASE,
        keys.Key("attention.layer_norm_epsilon", "f32", "layer_norm_epsilon"),
        keys.Key("attention.layer_norm_rms_epsilon", "f32", "layer_norm_epsilon"),
    ),
    drop=(Drop("*.rotary_emb.inv_freq", "rotary frequencies are computed at run time"),),
    assumes=(plain_attention,),
    tokens=TokenizerRules(),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (QWEN,)
