"""BERT and its kin: encoders whose norms stand after attention and MLP, with positions that are learned.

Source: conversion/bert.py of llama.cpp, October 2026. Differs from it where a head that classifies reads the first
token through `pooler.dense`: llama.cpp's `cls` computes just that, and the reference leaves it out.
"""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, encoders, keys
from quantkit.families.encoders import LABELS, NO_HEAD
from quantkit.families.folds import Fold
from quantkit.families.roles import Role
from quantkit.families.rows import ALWAYS, Drop, Family, T, TokenizerRules
from quantkit.families.spellings import Rename

WIDE = "hidden_size hidden_size"
UP, DOWN = "intermediate_size hidden_size", "hidden_size intermediate_size"
SIZES = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_key_value_heads": None, "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12, "hidden_act": "gelu", "tie_word_embeddings": True,
}  # fmt: skip
OUTSIDE = (
    T("embeddings.word_embeddings.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
    T("embeddings.position_embeddings.weight", "position_embd.weight", Role.POSITION,
      "max_position_embeddings hidden_size", encoders.after_padding),
    T("embeddings.token_type_embeddings.weight", "token_types.weight", Role.POSITION, "type_vocab_size hidden_size"),
    T("embeddings.LayerNorm.weight", "token_embd_norm.weight", Role.NORM, "hidden_size", bias=ALWAYS),
)  # fmt: skip
BLOCK = (
    T("attention.self.query.weight", "attn_q.weight", Role.ATTN_Q, WIDE, bias=ALWAYS),
    T("attention.self.key.weight", "attn_k.weight", Role.ATTN_K, WIDE, bias=ALWAYS),
    T("attention.self.value.weight", "attn_v.weight", Role.ATTN_V, WIDE, bias=ALWAYS),
    T("attention.output.dense.weight", "attn_output.weight", Role.ATTN_OUTPUT, WIDE, bias=ALWAYS),
    T("attention.output.LayerNorm.weight", "attn_output_norm.weight", Role.NORM, "hidden_size", bias=ALWAYS),
    T("intermediate.dense.weight", "ffn_up.weight", Role.FFN_UP, UP, bias=ALWAYS),
    T("output.dense.weight", "ffn_down.weight", Role.FFN_DOWN, DOWN, bias=ALWAYS),
    T("output.LayerNorm.weight", "layer_output_norm.weight", Role.NORM, "hidden_size", bias=ALWAYS),
)
OLD_NORMS = (Rename(r"\.gamma$", ".weight"), Rename(r"\.beta$", ".bias"))
HEADS = tuple(Drop(f"{name}.*", NO_HEAD) for name in ("pooler.dense", "cls.predictions", "cls.seq_relationship"))
POSITIONS = Drop("embeddings.position_ids", "positions are counted at run time")
KEYS = (
    *encoders.SIZES,
    keys.Key("attention.layer_norm_epsilon", "f32", "layer_norm_eps"),
    keys.both_ways,
    keys.POOLING_TYPE,
    encoders.OUTPUT_LABELS,
)
DENSE = (  # a head of two layers
    T("classifier.dense.weight", "cls.weight", Role.OTHER, WIDE, bias=ALWAYS),
    T("classifier.out_proj.weight", "cls.output.weight", Role.OTHER, f"{LABELS} hidden_size", bias=ALWAYS),
)


BERT = Family(
    name="bert",
    gguf="bert",
    hf=("BertModel", "BertForMaskedLM", "BertForPreTraining"),
    defaults={"bert": SIZES},
    outside=OUTSIDE,
    block=BLOCK,
    keys=KEYS,
    drop=(*HEADS, POSITIONS),
    source_block="encoder.layer.{}.",
    spellings=(Rename(r"^bert\.", ""), *OLD_NORMS),
    derive=(encoders.positions(padding=False), encoders.labels, encoders.epsilon(1e-12)),
    assumes=(assumptions.gelu, encoders.absolute_positions),
    tokens=TokenizerRules(pieces=True, counted=True),
    computes=frozenset({"type_vocab_size", "layer_norm_eps"}),
    folds=(Fold("attention.self.value", ("attention.output.dense",), heads=True),),  # what norms give is added to, too
    embeds=True,
)
BERT_CLASSIFIER = replace(
    BERT,
    name="bert_classifier",
    when=encoders.WITH_HEAD,
    hf=("BertForSequenceClassification",),
    outside=(
        *OUTSIDE,
        T("pooler.dense.weight", "cls.weight", Role.OTHER, WIDE, bias=ALWAYS),
        T("classifier.weight", "cls.output.weight", Role.OTHER, f"{LABELS} hidden_size", bias=ALWAYS),
    ),
    drop=(POSITIONS,),
)
DISTILBERT = replace(
    BERT,
    name="distilbert",
    hf=("DistilBertModel", "DistilBertForMaskedLM"),
    defaults={
        "distilbert": {
            **{key: value for key, value in SIZES.items() if key not in ("type_vocab_size", "layer_norm_eps")},
            "num_hidden_layers": 6,
        },
    },
    outside=tuple(t for t in OUTSIDE if "token_type" not in t.source),
    block=(
        T("attention.q_lin.weight", "attn_q.weight", Role.ATTN_Q, WIDE, bias=ALWAYS),
        T("attention.k_lin.weight", "attn_k.weight", Role.ATTN_K, WIDE, bias=ALWAYS),
        T("attention.v_lin.weight", "attn_v.weight", Role.ATTN_V, WIDE, bias=ALWAYS),
        T("attention.out_lin.weight", "attn_output.weight", Role.ATTN_OUTPUT, WIDE, bias=ALWAYS),
        T("sa_layer_norm.weight", "attn_output_norm.weight", Role.NORM, "hidden_size", bias=ALWAYS),
        T("ffn.lin1.weight", "ffn_up.weight", Role.FFN_UP, UP, bias=ALWAYS),
        T("ffn.lin2.weight", "ffn_down.weight", Role.FFN_DOWN, DOWN, bias=ALWAYS),
        T("output_layer_norm.weight", "layer_output_norm.weight", Role.NORM, "hidden_size", bias=ALWAYS),
    ),
    drop=(Drop("vocab_*", NO_HEAD), POSITIONS),
    source_block="transformer.layer.{}.",
    spellings=(Rename(r"^distilbert\.", ""), *OLD_NORMS),
    aliases={
        "dim": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers",
        "hidden_dim": "intermediate_size", "activation": "hidden_act",
    },
    computes=frozenset({"dim", "n_heads", "n_layers", "hidden_dim", "activation", "sinusoidal_pos_embds"}),
    folds=(Fold("attention.v_lin", ("attention.out_lin",), heads=True),),
)  # fmt: skip
DISTILBERT_CLASSIFIER = replace(
    DISTILBERT,
    name="distilbert_classifier",
    when=encoders.WITH_HEAD,
    hf=("DistilBertForSequenceClassification",),
    outside=(
        *DISTILBERT.outside,
        T("pre_classifier.weight", "cls.weight", Role.OTHER, WIDE, bias=ALWAYS),
        T("classifier.weight", "cls.output.weight", Role.OTHER, f"{LABELS} hidden_size", bias=ALWAYS),
    ),
    assumes=(*BERT.assumes, encoders.tanh_before_labels),
)
ROBERTA = replace(
    BERT,
    name="roberta",
    hf=("RobertaModel", "RobertaForMaskedLM"),
    defaults={"roberta": {**SIZES, "vocab_size": 50265, "pad_token_id": 1}},
    drop=(Drop("pooler.dense.*", NO_HEAD), Drop("lm_head.*", NO_HEAD), POSITIONS),
    spellings=(Rename(r"^roberta\.", ""), *OLD_NORMS),
    derive=(encoders.positions(padding=True), encoders.labels),
    computes=BERT.computes | {"pad_token_id"},
    tokens=TokenizerRules(pieces=True, counted=True, slow="RobertaTokenizer"),
)
ROBERTA_CLASSIFIER = replace(
    ROBERTA,
    name="roberta_classifier",
    hf=("RobertaForSequenceClassification",),
    when=encoders.WITH_HEAD,
    outside=(*OUTSIDE, *DENSE),
)
XLM_ROBERTA = replace(
    ROBERTA,
    name="xlm_roberta",
    hf=("XLMRobertaModel", "XLMRobertaForMaskedLM", "CamembertModel"),
    defaults={kind: {**SIZES, "pad_token_id": 1} for kind in ("xlm-roberta", "camembert")},
    when=encoders.WITHOUT_ADAPTERS,
    tokens=TokenizerRules(pieces=True, counted=True),
)
XLM_ROBERTA_CLASSIFIER = replace(
    XLM_ROBERTA,
    name="xlm_roberta_classifier",
    when=encoders.WITH_HEAD_ALONE,
    hf=("XLMRobertaForSequenceClassification",),
    outside=(*OUTSIDE, *DENSE),
)

FAMILIES = (
    BERT, BERT_CLASSIFIER, DISTILBERT, DISTILBERT_CLASSIFIER, ROBERTA, ROBERTA_CLASSIFIER, XLM_ROBERTA,
    XLM_ROBERTA_CLASSIFIER,
)  # fmt: skip
