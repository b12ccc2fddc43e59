"""Gemma 1, 2 and 3, EmbeddingGemma: norms that store their distance from 1, since 2 before and after each layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError
from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.layers import TRUNK
from quantkit.families.placements import vocabulary
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    FREQUENCIES,
    HEAD,
    MLP,
    QK_NORMS,
    Condition,
    Drop,
    Family,
    T,
    TokenizerRules,
    centered,
)
from quantkit.families.rows import NORMS as PLAIN_NORMS
from quantkit.metadata import KeyValue

NORMS = (
    T("input_layernorm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
    T("post_attention_layernorm.weight", "post_attention_norm.weight", Role.NORM, "hidden_size"),
    T("pre_feedforward_layernorm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
    T("post_feedforward_layernorm.weight", "post_ffw_norm.weight", Role.NORM, "hidden_size"),
)
VISION = tuple(
    Drop(pattern, "the vision encoder belongs into a file of its own")
    for pattern in (
        "vision_tower.*",
        "model.vision_tower.*",
        "multi_modal_projector.*",
        "model.multi_modal_projector.*",
    )
)
ENCODERS = (
    *VISION,
    *(
        Drop(f"model.{tower}.*", "encoders of images and sound belong into a file of their own")
        for tower in ("embed_vision", "audio_tower", "embed_audio")
    ),
)
TIED = Drop("lm_head.weight", "the same values as the embeddings", when="tie_word_embeddings")
FOLDS = (
    replace(folds.ATTENTION_IN, centered=True),
    folds.VALUES,
    replace(folds.MLP_IN, producer="pre_feedforward_layernorm", centered=True),
    folds.MLP_OUT,
)
SHARING = "num_kv_shared_layers"  # of the same models
FINAL_CAP = keys.Key("final_logit_softcapping", "f32", "final_logit_softcapping")


def first_sharing(hparams: Hparams) -> int:
    """The first layer that reads keys and values of an earlier one. Raises InputError for layers that are not there."""
    count, shared = hparams.count(TRUNK), int(hparams.number(SHARING) or 0)
    if not 0 <= shared < count:
        what = f"config.json: {SHARING} is {shared}, expected less than the {count} layers"
        raise InputError(what, key=SHARING, path="config.json", hint=CONFIG_HINT)
    return count - shared


def window(hparams: Hparams) -> Iterable[KeyValue]:
    """No window where every layer attends globally (a pattern of 1)."""
    if hparams.values.get("sliding_window_pattern") == 1:
        return ()
    return keys.number(keys.Key("attention.sliding_window", "u32", "sliding_window"), hparams)


def reads_both_ways(config: Mapping[str, Any]) -> bool:
    return config.get("use_bidirectional_attention") is True


def scaled_as_in_the_graph(big: int, **more: Any) -> Callable[[Hparams], Mapping[str, Any]]:
    """By what llama.cpp scales queries: the size of a head, in the largest model the width over the heads."""

    def numbers(hparams: Hparams) -> Mapping[str, Any]:
        width = hparams.count("hidden_size") // hparams.count("num_attention_heads")
        of_all = hparams.count("num_hidden_layers") == big
        return {"query_pre_attn_scalar": width if of_all else hparams.count("head_dim"), **more}

    return numbers


GEMMA = Family(
    name="gemma",
    gguf="gemma",
    hf=("GemmaForCausalLM",),
    defaults={
        "gemma": {
            "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
        },
    },
    outside=centered((EMBEDDING, FINAL_NORM)),
    block=centered((*PLAIN_NORMS, *ATTENTION, *MLP)),
    keys=(*keys.SIZES, keys.RMS_EPSILON, *keys.HEAD_LENGTHS),
    drop=(FREQUENCIES, TIED),
    assumes=(assumptions.activation("hidden_act", "gelu_pytorch_tanh", "gelu_new"), assumptions.gelu_tanh),
    folds=(replace(folds.ATTENTION_IN, centered=True), folds.VALUES, replace(folds.MLP_IN, centered=True),
           folds.MLP_OUT),
    tokens=TokenizerRules(no_prefix=True, ids={"eot": 107}),
)  # fmt: skip
GEMMA2 = Family(
    name="gemma2",
    gguf="gemma2",
    hf=("Gemma2ForCausalLM",),
    defaults={
        "gemma2": {
            "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True, "sliding_window": 4096,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        },
    },
    outside=centered((EMBEDDING, FINAL_NORM)),
    block=centered((*NORMS, *ATTENTION, *MLP)),
    keys=(
        *keys.SIZES,
        keys.RMS_EPSILON,
        *keys.HEAD_LENGTHS,
        keys.Key("attn_logit_softcapping", "f32", "attn_logit_softcapping"),
        FINAL_CAP,
        keys.SLIDING_WINDOW,
    ),
    drop=(FREQUENCIES, TIED),
    assumes=(
        assumptions.gelu_tanh,
        assumptions.windows_every(2),
        assumptions.attention_scaled_by_head(assumptions.GEMMA2_27B_LAYERS),
    ),
    folds=FOLDS,
    tokens=TokenizerRules(no_prefix=True),
    graph=scaled_as_in_the_graph(assumptions.GEMMA2_27B_LAYERS),
)  # fmt: skip
GEMMA3 = Family(
    name="gemma3",
    gguf="gemma3",
    hf=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    defaults={
        "gemma3_text": {
            "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 10000.0, "tie_word_embeddings": True,
            "sliding_window": 4096, "final_logit_softcapping": None,
        },
    },
    outside=centered((replace(EMBEDDING, place=vocabulary), FINAL_NORM, HEAD)),
    block=centered((*NORMS, *ATTENTION, *QK_NORMS, *MLP)),
    keys=(*keys.COMMON, FINAL_CAP, window),
    drop=(FREQUENCIES, *VISION),
    strip="language_model.",
    inside={"Gemma3TextModel": "Gemma3ForCausalLM", "Gemma3Model": "Gemma3ForConditionalGeneration"},
    when=Condition("config.json has no use_bidirectional_attention", lambda config: not reads_both_ways(config)),
    assumes=(
        assumptions.gelu_tanh,
        assumptions.windows_every(6),
        assumptions.attention_scaled_by_head(assumptions.GEMMA3_27B_LAYERS),
        assumptions.no_attention_softcap,
    ),
    folds=FOLDS,
    tokens=TokenizerRules(no_prefix=True),
    graph=scaled_as_in_the_graph(assumptions.GEMMA3_27B_LAYERS),
)  # fmt: skip

EMBEDDING_GEMMA = replace(
    GEMMA3,
    name="embedding_gemma",
    gguf="gemma-embedding",
    hf=("Gemma3ForCausalLM",),
    outside=centered((replace(EMBEDDING, place=vocabulary), FINAL_NORM)),
    keys=(*keys.COMMON, window, keys.POOLING_TYPE),
    when=Condition("config.json has use_bidirectional_attention true", reads_both_ways),
    graph=scaled_as_in_the_graph(assumptions.GEMMA3_27B_LAYERS, use_bidirectional_attention=True),
    embeds=True,
)

FAMILIES = (GEMMA, GEMMA2, GEMMA3, EMBEDDING_GEMMA)
