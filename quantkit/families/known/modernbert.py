"""ModernBERT: an encoder with rotary positions, windows, gated MLPs and norms before each layer.

Source: conversion/bert.py of llama.cpp, October 2026. Differs from it where config.json has norm_eps and no
layer_norm_eps, as transformers 5 writes it: llama.cpp does not load a file without the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import assumptions, encoders, keys
from quantkit.families.encoders import LABELS, NO_HEAD
from quantkit.families.folds import Fold
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import ALWAYS, Drop, Family, T, TokenizerRules
from quantkit.families.spellings import Rename

WIDE = "hidden_size hidden_size"
POOLED = {"mean": 1, "cls": 2}  # llama.cpp's enum llama_pooling_type
HEAD = (
    T("head.dense.weight", "cls.weight", Role.OTHER, WIDE, bias="classifier_bias"),
    T("head.norm.weight", "cls.norm.weight", Role.OTHER, "hidden_size", bias="norm_bias"),
)
BLOCK = (
    T("attn_norm.weight", "attn_norm.weight", Role.NORM, "hidden_size", where=lambda hparams, layer: layer > 0),
    T("attn.Wqkv.weight", "attn_qkv.weight", Role.ATTN_QKV, "3*hidden_size hidden_size", bias="attention_bias"),
    T("attn.Wo.weight", "attn_output.weight", Role.ATTN_OUTPUT, WIDE, bias="attention_bias"),
    T("mlp_norm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
    T("mlp.Wi.weight", "ffn_up.weight", Role.FFN_UP, "2*intermediate_size hidden_size", bias="mlp_bias"),
    T("mlp.Wo.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size", bias="mlp_bias"),
)


def head_pooling(hparams: Hparams) -> Mapping[str, Any]:
    """Which vector the head reads, as llama.cpp numbers them; nothing for a word that it does not know."""
    return {"head_pooling": POOLED.get(str(hparams.values.get("classifier_pooling")))}


def epsilon(hparams: Hparams) -> Mapping[str, Any]:
    """The one number that both names of it mean."""
    said = hparams.values.get("layer_norm_eps")
    return {"layer_norm_eps": hparams.values.get("norm_eps") if said is None else said}


MODERN_BERT = Family(
    name="modernbert",
    gguf="modern-bert",
    hf=("ModernBertModel", "ModernBertForMaskedLM"),
    defaults={
        "modernbert": {
            "vocab_size": 50368, "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22,
            "num_attention_heads": 12, "num_key_value_heads": None, "max_position_embeddings": 8192,
            "norm_eps": 1e-5, "rope_theta": 160000.0, "rope_local_base_freq": 10000.0, "local_attention": 128,
            "hidden_activation": "gelu", "classifier_pooling": "cls", "tie_word_embeddings": True,
        },
    },
    outside=(
        T("embeddings.tok_embeddings.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        T("embeddings.norm.weight", "token_embd_norm.weight", Role.NORM, "hidden_size"),
        T("final_norm.weight", "output_norm.weight", Role.NORM, "hidden_size"),
    ),
    block=BLOCK,
    keys=(
        *encoders.SIZES,
        keys.Key("rope.freq_base", "f32", "rope_theta"),
        keys.Key("rope.freq_base_swa", "f32", "rope_theta_swa"),
        keys.Key("attention.layer_norm_rms_epsilon", "f32", "norm_eps"),
        keys.Key("attention.layer_norm_epsilon", "f32", "layer_norm_eps"),
        keys.both_ways,
        keys.POOLING_TYPE,
        keys.Key("classifier.pooling_type", "u32", "head_pooling"),
        encoders.OUTPUT_LABELS,
        keys.Key("attention.sliding_window", "u32", "local_attention"),
        keys.Key("attention.sliding_window_pattern", "u32", "global_attn_every_n_layers"),
        encoders.UNSCALED_ROPE,
        keys.Key("vocab_size", "u32", "vocab_size"),
        keys.Key("hidden_activation", "string", "hidden_activation"),
    ),
    drop=(Drop("head.*", NO_HEAD), Drop("decoder.*", NO_HEAD)),
    spellings=(Rename(r"^model\.", ""),),
    aliases={"global_rope_theta": "rope_theta", "local_rope_theta": "rope_local_base_freq"},
    derive=(encoders.positions(padding=False), encoders.labels, head_pooling, epsilon),
    computes=frozenset({
        "local_attention", "global_attn_every_n_layers", "global_rope_theta", "local_rope_theta", "norm_bias",
    }),
    folds=(
        Fold("attn_norm", ("attn.Wqkv",), norm=True),
        Fold("attn.Wqkv", ("attn.Wo",), heads=True),
        Fold("mlp_norm", ("mlp.Wi",), norm=True),
        Fold("mlp.Wi", ("mlp.Wo",)),  # the gate's nonlinearity is in the first half of its rows
    ),
    tokens=TokenizerRules(framed=True),
    embeds=True,
)  # fmt: skip
MODERN_BERT_CLASSIFIER = replace(
    MODERN_BERT,
    name="modernbert_classifier",
    when=encoders.WITH_HEAD,
    hf=("ModernBertForSequenceClassification",),
    outside=(
        *MODERN_BERT.outside,
        *HEAD,
        T("classifier.weight", "cls.output.weight", Role.OTHER, f"{LABELS} hidden_size", bias=ALWAYS),
    ),
    drop=(),
    assumes=(assumptions.activation("classifier_activation", *assumptions.GELU),),
)

FAMILIES = (MODERN_BERT, MODERN_BERT_CLASSIFIER)
