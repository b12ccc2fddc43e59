"""NeoBERT: an encoder with rotary positions, norms before attention and MLP, and SwiGLU of two thirds of the width.

Source: conversion/bert.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import encoders, keys
from quantkit.families.encoders import LABELS, NO_HEAD
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import ALWAYS, FREQUENCIES, OWN_CODE, Drop, Family, T, TokenizerRules
from quantkit.families.spellings import Rename

CLS = 2  # llama.cpp's enum llama_pooling_type: an embedding is the vector of the first token, as the model card has it

OUTSIDE = (
    T("encoder.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
    T("layer_norm.weight", "enc.output_norm.weight", Role.NORM, "hidden_size"),
)
NEOBERT = Family(
    name="neobert",
    gguf="neo-bert",
    hf=("NeoBERT", "NeoBERTLMHead"),
    defaults={
        "neobert": {
            "vocab_size": 30522, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 28,
            "num_attention_heads": 12, "num_key_value_heads": None, "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
        },
    },
    aliases={"max_length": "max_position_embeddings", "norm_eps": "rms_norm_eps"},
    outside=OUTSIDE,
    source_block="transformer_encoder.{}.",
    block=(
        T("attention_norm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        T("qkv.weight", "attn_qkv.weight", Role.ATTN_QKV, "3*hidden_size hidden_size"),
        T("wo.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size"),
        T("ffn_norm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        T("ffn.w12.weight", "ffn_up.weight", Role.FFN_UP, "2*inner hidden_size"),
        T("ffn.w3.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size inner"),
    ),
    keys=(
        *keys.without(encoders.SIZES, "feed_forward_length"),
        keys.Key("feed_forward_length", "u32", "inner"),
        keys.FREQUENCY_BASE,
        keys.RMS_EPSILON,
        keys.both_ways,
        encoders.UNSCALED_ROPE,
        keys.computed("pooling_type", "u32", lambda hparams: CLS),
        encoders.OUTPUT_LABELS,
    ),
    drop=(FREQUENCIES, Drop("decoder.*", NO_HEAD)),
    spellings=(Rename(r"^model\.", ""),),
    derive=(encoders.positions(padding=False), encoders.labels, lambda hparams: {"inner": two_thirds(hparams)}),
    tokens=TokenizerRules(pieces=True, counted=True),
    unserved=OWN_CODE,
    embeds=True,
)  # fmt: skip


def two_thirds(hparams: Hparams) -> int:
    """The width of the gated MLP, which has as many weights as a plain one of the width in config.json."""
    return int(2 * hparams.count("intermediate_size") / 3)


NEOBERT_CLASSIFIER = replace(
    NEOBERT,
    name="neobert_classifier",
    when=encoders.WITH_HEAD,
    hf=("NeoBERTForSequenceClassification",),
    outside=(
        *OUTSIDE,
        T("dense.weight", "cls.weight", Role.OTHER, "hidden_size hidden_size", bias=ALWAYS),
        T("classifier.weight", "cls.output.weight", Role.OTHER, f"{LABELS} hidden_size", bias=ALWAYS),
    ),
)

FAMILIES = (NEOBERT, NEOBERT_CLASSIFIER)
