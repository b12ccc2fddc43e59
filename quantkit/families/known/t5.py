"""T5 and its kin: an encoder, alone or with a decoder that reads it, and learned distances instead of positions.

Source: conversion/t5.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import encoders, keys
from quantkit.families.backwards import not_read
from quantkit.families.folds import Fold
from quantkit.families.hparams import Hparams
from quantkit.families.layers import DECODER_LAYERS, DECODING, flagged, not_
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, Family, Stack, T, TokenizerRules
from quantkit.families.spellings import Rename

INNER, OUTER = "num_attention_heads*head_dim hidden_size", "hidden_size num_attention_heads*head_dim"
UP, DOWN = "intermediate_size hidden_size", "hidden_size intermediate_size"
DISTANCES = "relative_attention_num_buckets num_attention_heads"
SHARED = "token_embd.weight is made of shared.weight, which has the same values"
GATED = flagged("is_gated_act")


def attention(module: str, prefix: str) -> tuple[T, ...]:
    """The four matrices of an attention below `module`."""
    return (
        T(f"{module}.q.weight", f"{prefix}attn_q.weight", Role.ATTN_Q, INNER),
        T(f"{module}.k.weight", f"{prefix}attn_k.weight", Role.ATTN_K, INNER),
        T(f"{module}.v.weight", f"{prefix}attn_v.weight", Role.ATTN_V, INNER),
        T(f"{module}.o.weight", f"{prefix}attn_o.weight", Role.OTHER, OUTER),
    )


def mlp(layer: str) -> tuple[T, ...]:
    """The MLP of a block, with a gate or without."""
    module = f"{layer}.DenseReluDense"
    return (
        T(f"{layer}.layer_norm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        T(f"{module}.wi_0.weight", "ffn_gate.weight", Role.FFN_GATE, UP, where=GATED),
        T(f"{module}.wi_1.weight", "ffn_up.weight", Role.FFN_UP, UP, where=GATED),
        T(f"{module}.wi.weight", "ffn_up.weight", Role.FFN_UP, UP, where=not_(GATED)),
        T(f"{module}.wo.weight", "ffn_down.weight", Role.FFN_DOWN, DOWN),
    )


def own_distances(hparams: Hparams, layer: int) -> bool:
    """In the first block, whose distances count in all; with UMT5 every block has its own."""
    return layer == 0 or hparams.values.get("model_type") == "umt5"


DISTANCE = T("layer.0.SelfAttention.relative_attention_bias.weight", "attn_rel_b.weight", Role.OTHER, DISTANCES,
             optional=True, sure=own_distances)  # fmt: skip
SELF = (
    T("layer.0.layer_norm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
    *attention("layer.0.SelfAttention", ""),
    DISTANCE,
)
CROSS = (
    T("layer.1.layer_norm.weight", "cross_attn_norm.weight", Role.NORM, "hidden_size"),
    *attention("layer.1.EncDecAttention", "cross_"),
)
ENCODER = Stack("encoder.block.{}.", "enc.blk.{}.", lambda h: h.count("num_hidden_layers"), (*SELF, *mlp("layer.1")))
DECODER = Stack("decoder.block.{}.", "dec.blk.{}.", lambda h: h.count(DECODER_LAYERS), (*SELF, *CROSS, *mlp("layer.2")),
                before=lambda h: h.count("num_hidden_layers"))  # fmt: skip
EMBEDDING = T("shared.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size")
SIZES: tuple[keys.KeyRow, ...] = (
    keys.Key("context_length", "u32", "n_positions", default=512),
    keys.Key("embedding_length", "u32", "hidden_size"),
    keys.Key("feed_forward_length", "u32", "intermediate_size"),
    keys.Key("block_count", "u32", "num_hidden_layers"),
)
ATTENTION: tuple[keys.KeyRow, ...] = (
    keys.Key("attention.head_count", "u32", "num_attention_heads"),
    *keys.HEAD_LENGTHS,
    keys.Key("attention.layer_norm_epsilon", "f32", "layer_norm_epsilon"),
    keys.Key("attention.relative_buckets_count", "u32", "relative_attention_num_buckets"),
    keys.Key("attention.layer_norm_rms_epsilon", "f32", "layer_norm_epsilon"),
)


def mlp_folds(layer: str) -> tuple[Fold, ...]:
    """Where scales can be moved in the MLP of a block: the second part of an encoder's, the third of a decoder's."""
    module = f"{layer}.DenseReluDense"
    return (
        Fold(f"{layer}.layer_norm", (f"{module}.wi_0", f"{module}.wi_1"), norm=True),
        Fold(f"{layer}.layer_norm", (f"{module}.wi",), norm=True),
        Fold(f"{module}.wi_1", (f"{module}.wo",)),
    )


ENCODER_FOLDS = (
    Fold("layer.0.layer_norm", tuple(f"layer.0.SelfAttention.{which}" for which in "qkv"), norm=True),
    Fold("layer.0.SelfAttention.v", ("layer.0.SelfAttention.o",)),
    *mlp_folds("layer.1"),
)
FOLDS = (  # keys and values of the encoder are read in all blocks of the decoder: none has those
    *ENCODER_FOLDS,
    Fold("layer.1.layer_norm", ("layer.1.EncDecAttention.q",), norm=True),
    Fold("layer.1.EncDecAttention.v", ("layer.1.EncDecAttention.o",)),
    *mlp_folds("layer.2"),
)


def mlp_kind(hparams: Hparams) -> Mapping[str, Any]:
    """Whether the MLPs have a gate, and the context that the model was made for: its distances go on for ever."""
    gated = str(hparams.values.get("feed_forward_proj")).startswith("gated-")
    return {"is_gated_act": gated, "max_position_embeddings": hparams.values.get("n_positions", 512)}


def decoder(hparams: Hparams) -> Mapping[str, Any]:
    """As many layers of the decoder as config.json says, and the token that it starts with."""
    said = hparams.values.get(DECODER_LAYERS)
    count = hparams.count("num_hidden_layers") if said is None else said
    start = hparams.values.get("decoder_start_token_id", 0)
    return {DECODER_LAYERS: count, DECODING: count, "decoder_start_token_id": start}


def of_type(**values: Any) -> dict[str, Any]:
    """What transformers fills in for a model type of this kin."""
    return {
        "vocab_size": 32128, "hidden_size": 512, "head_dim": 64, "intermediate_size": 2048, "num_hidden_layers": 6,
        "num_attention_heads": 8, "num_key_value_heads": None, "relative_attention_num_buckets": 32,
        "layer_norm_epsilon": 1e-6, "feed_forward_proj": "relu", "tie_word_embeddings": True, **values,
    }  # fmt: skip


MULTILINGUAL = of_type(
    vocab_size=250112,
    intermediate_size=1024,
    num_hidden_layers=8,
    num_attention_heads=6,
    feed_forward_proj="gated-gelu",
)
T5 = Family(
    name="t5",
    gguf="t5",
    graph=not_read("what scales the output stands in no key"),
    hf=(
        "T5ForConditionalGeneration", "T5WithLMHeadModel", "MT5ForConditionalGeneration",
        "UMT5ForConditionalGeneration", "UMT5Model",
    ),
    defaults={"t5": of_type(), "mt5": MULTILINGUAL, "umt5": MULTILINGUAL},
    outside=(
        EMBEDDING,
        T("encoder.final_layer_norm.weight", "enc.output_norm.weight", Role.NORM, "hidden_size"),
        T("decoder.final_layer_norm.weight", "dec.output_norm.weight", Role.NORM, "hidden_size"),
        T("lm_head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size", unless="tie_word_embeddings"),
    ),
    block=(),
    stacks=(ENCODER, DECODER),
    keys=(
        *SIZES,
        keys.Key("decoder_block_count", "u32", DECODER_LAYERS),
        *ATTENTION,
        keys.Key("decoder_start_token_id", "u32", "decoder_start_token_id"),
    ),
    drop=(
        Drop("encoder.embed_tokens.weight", SHARED),
        Drop("decoder.embed_tokens.weight", SHARED),
        Drop("decoder.block.*.EncDecAttention.relative_attention_bias.weight", "no distance is learned to the encoder"),
    ),
    aliases={
        "d_model": "hidden_size", "d_kv": "head_dim", "d_ff": "intermediate_size", "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
    },
    derive=(mlp_kind, decoder),
    tokens=TokenizerRules(pieces=True),
    computes=frozenset({
        "d_model", "d_kv", "d_ff", "num_layers", DECODER_LAYERS, "num_heads", "relative_attention_num_buckets",
        "relative_attention_max_distance", "layer_norm_epsilon", "feed_forward_proj", "scale_decoder_outputs",
    }),
    folds=FOLDS,
)  # fmt: skip


def other_in_the_server(hparams: Hparams) -> str | None:
    """llama_encode of llama.h gives the vectors of transformers, llama-server others (xllamacpp 2026.10)."""
    return "llama-server gives other vectors than this encoder; programs that call llama_encode give its own"


T5_ENCODER = replace(
    T5,
    name="t5_encoder",
    when=encoders.WITH_HEAD,
    gguf="t5encoder",
    graph=not_read("what scales the output stands in no key"),
    hf=("T5EncoderModel", "MT5EncoderModel", "UMT5EncoderModel"),
    outside=T5.outside[:2],
    stacks=(ENCODER,),
    keys=(*SIZES, *ATTENTION),
    derive=(mlp_kind,),
    folds=ENCODER_FOLDS,
    assumes=(*T5.assumes, other_in_the_server),
    embeds=True,
    spellings=(Rename(r"^transformer\.", ""),),
)

FAMILIES = (T5, T5_ENCODER)
