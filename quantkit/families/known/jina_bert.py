"""Jina's encoders of the second generation: BERT with slopes instead of positions and a gated MLP.

Source: conversion/bert.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, encoders
from quantkit.families.known.bert import BERT, DOWN, HEADS, SIZES
from quantkit.families.roles import Role
from quantkit.families.rows import ALWAYS, Condition, T, optional

GATED = "2*intermediate_size hidden_size"  # gate and up of every channel, in halves
SLOPES = Condition(
    "config.json has position_embedding_type alibi", lambda config: config.get("position_embedding_type") == "alibi"
)

JINA_BERT_V2 = replace(
    BERT,
    name="jina_bert_v2",
    gguf="jina-bert-v2",
    hf=("JinaBertModel", "JinaBertForMaskedLM"),
    defaults={"bert": SIZES},
    when=SLOPES,
    outside=tuple(t for t in BERT.outside if "position_embeddings" not in t.source),
    block=(
        *(t for t in BERT.block if "attention" in t.source),
        *optional((  # of the models for code
            T("attention.self.layer_norm_q.weight", "attn_q_norm.weight", Role.NORM, "hidden_size", bias=ALWAYS),
            T("attention.self.layer_norm_k.weight", "attn_k_norm.weight", Role.NORM, "hidden_size", bias=ALWAYS),
            T("layer_norm_1.weight", "attn_norm_2.weight", Role.NORM, "hidden_size", bias=ALWAYS),
        )),
        T("mlp.gated_layers.weight", "ffn_up.weight", Role.FFN_UP, GATED),
        T("mlp.up_gated_layer.weight", "ffn_up.weight", Role.FFN_UP, GATED),
        T("mlp.wo.weight", "ffn_down.weight", Role.FFN_DOWN, DOWN, bias=ALWAYS),
        T("mlp.down_layer.weight", "ffn_down.weight", Role.FFN_DOWN, DOWN, bias=ALWAYS),
        T("mlp.layernorm.weight", "layer_output_norm.weight", Role.NORM, "hidden_size", bias=ALWAYS),
        T("layer_norm_2.weight", "layer_output_norm.weight", Role.NORM, "hidden_size", bias=ALWAYS),
    ),
    drop=HEADS,
    unserved=encoders.OWN_VARIANT,
    assumes=(assumptions.gelu,),
)  # fmt: skip

FAMILIES = (JINA_BERT_V2,)
