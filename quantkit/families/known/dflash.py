"""DFlash: blocks of a Qwen 3 that draft several tokens of another model at once, from hidden states of its layers.

DSpark adds to it a head that looks at the token before, and one that says how sure a draft is. Where there are no
embeddings or no head, those of the target are used. Source: conversion/qwen.py and conversion/muse_glimmer.py of
llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import assumptions, keys
from quantkit.families.drafts import (
    DRAFTED,
    LEFT_OUT,
    MASK,
    OFFSETS_SEEN,
    UNSERVED,
    VOCABULARY,
    any_target_of,
    drafted,
    drafted_tokens,
    is_reduced,
    numbers_of_layers,
    require_states,
    target_of,
)
from quantkit.families.expressions import ANY
from quantkit.families.fixed import require_only
from quantkit.families.hparams import Hparams, bad_value
from quantkit.families.known.qwen import QWEN3
from quantkit.families.layers import TRUNK, Layers
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    FREQUENCIES,
    MLP,
    NORMS,
    QK_NORMS,
    Drop,
    Family,
    T,
    at,
    optional,
    without_biases,
)
from quantkit.families.spellings import Rename
from quantkit.metadata import KeyValue
from quantkit.tensors import TensorInfo
from quantkit.untrusted import shown

OWN = "dflash_config"
BLOCK, LAYERS, WINDOW, CAUSAL = "block_size", "target_layers", "draft_window", "draft_causal"
SECTIONS, WITHOUT_OWN, SHARED_HEAD = "target_sections", "without_own_embeddings", "shares_head"
READ, BEHIND = "target_layer_ids", "aux_hidden_state_layer_ids"
SURE, ANCHORED = "has_confidence_head", "sample_from_anchor"
SOFTCAP = "final_logit_softcapping"
NUMBERS = {  # in dflash_config, or beside it
    "conv_kernel_size": "conv_kernel_size", "conv_group_size": "conv_group_size", "selector_rank": "selector_rank",
    "selector_top_k": "selector_top_k", "attention_value_scale": "value_scale", "output_multiplier": "logit_scale",
    SOFTCAP: SOFTCAP, "input_embedding_scale": "embedding_scale",
}  # fmt: skip
OUTER = ("output_multiplier", SOFTCAP, "input_embedding_scale")


def of_draft(hparams: Hparams) -> Mapping[str, Any]:
    """The numbers of `dflash_config`, and which layers of the target are read: one behind each that is named.

    Raises UnsupportedError for rotation pairs that lie side by side, InputError for hidden states that the target has
    not.
    """
    require_only(hparams, {"rope_is_neox_style": True}, silent=True)
    said = hparams.values
    nested = said.get(OWN)
    own = {} if nested is None else nested
    if not isinstance(own, Mapping):
        raise bad_value(OWN, own, "an object")
    if nested is None and said.get(BEHIND) is not None:
        layers, key = numbers_of_layers(said[BEHIND], BEHIND), BEHIND
    else:
        layers, key = [layer + 1 for layer in numbers_of_layers(own.get(READ, said.get(READ)), READ)], READ
    require_states(target_of(hparams), layers, hparams.count("hidden_size"), key)
    causal = said.get("is_causal") if said.get("is_causal") is not None else own.get("causal")
    windowed = said.get("use_sliding_window") or own.get("use_swa")
    window = own.get("swa_window_size") or said.get("sliding_window")
    everywhere = ["sliding_attention"] * hparams.count(TRUNK) if own.get("use_swa") else said.get("layer_types")
    return {
        **{name: own.get(key, said.get(key) if key in OUTER else None) for key, name in NUMBERS.items()},
        BLOCK: own.get(BLOCK, said.get(BLOCK, 16)), LAYERS: layers, CAUSAL: causal,
        MASK: said.get(MASK) if nested is None else own.get(MASK),
        "sliding_window": window if windowed else None, "layer_types": everywhere,
        WITHOUT_OWN: said.get("has_embed_tokens") is False, SECTIONS: _sections(hparams),
        "states": len(layers) * hparams.count("hidden_size"),
    }  # fmt: skip


def _sections(hparams: Hparams) -> list[int] | None:
    """Of a target that rotates by axes: the draft rotates by the first of them alone."""
    target = target_of(hparams)
    rope = target and (target.values.get("rope_parameters") or target.values.get("rope_scaling"))
    by_axes = isinstance(rope, Mapping) and "mrope_section" in rope
    return [hparams.count("head") // 2, 0, 0, 0] if by_axes else None


def rotated_part(hparams: Hparams) -> Iterable[KeyValue]:
    """The dimensions of a head that are rotated, where config.json says that they are a part of them."""
    share = hparams.number("rope_partial_factor")
    return () if share is None else (KeyValue("rope.dimension_count", "u32", int(hparams.count("head") * share)),)


def softcap(hparams: Hparams) -> float | None:
    """What caps the scores of tokens, if anything does."""
    value = hparams.number(SOFTCAP)
    return value if value is not None and value > 0 else None


def unset(flag: str) -> Layers:
    """Where a flag is not set."""
    return lambda hparams, layer: not hparams.flag(flag)


OUTSIDE = (
    *at(unset(WITHOUT_OWN), optional((EMBEDDING,))),
    FINAL_NORM,
    *at(unset(SHARED_HEAD), optional((T("lm_head.weight", "output.weight", Role.OUTPUT, f"{DRAFTED} hidden_size"),))),
    T("fc.weight", "fc.weight", Role.OTHER, "hidden_size states"),
    T("hidden_norm.weight", "enc.output_norm.weight", Role.NORM, "hidden_size"),
)
SELECTOR = optional((
    T("candidate_selector.predecessor_codebook", "selector_predecessor.weight", Role.OTHER, ANY),
    T("candidate_selector.successor_codebook", "selector_successor.weight", Role.OTHER, ANY),
    T("candidate_selector.hidden_projection.weight", "selector_hidden.weight", Role.OTHER, ANY),
))  # fmt: skip
CONVOLUTIONS = optional(
    tuple(
        T(f"{part}_conv.{source}", f"{target}_conv_{what}", Role.OTHER, ANY)
        for part, target in (("attention", "attn"), ("mlp", "ffn"))
        for source, what in (("base_kernel", "base"), ("kernel_projection.weight", "proj.weight"))
    )
)
INSIDE = Rename(  # of names outside blocks; some checkpoints have them bare
    r"^model\.(fc|hidden_norm|lm_head|candidate_selector|markov_head|confidence_head|d2t|t2d)\b", r"\1"
)

DFLASH = Family(
    name="dflash",
    gguf="dflash",
    hf=("DFlashDraftModel", "DFlash2DraftModel"),
    defaults={"dflash": QWEN3.defaults["qwen3"]},
    outside=(*OUTSIDE, *SELECTOR),
    block=(
        *NORMS,
        *ATTENTION,
        *QK_NORMS,
        *optional((T("self_attn.sinks", "attn_sinks.weight", Role.OTHER, "num_attention_heads"),)),
        *CONVOLUTIONS,
        *MLP,
    ),
    keys=(
        *keys.SIZES,
        keys.rope_scaling,
        keys.FREQUENCY_BASE,
        keys.RMS_EPSILON,
        *keys.HEAD_LENGTHS,
        rotated_part,
        keys.Key("attention.value_scale", "f32", "value_scale"),
        keys.Key("block_size", "u32", BLOCK),
        keys.Key("conv_kernel_size", "u32", "conv_kernel_size"),
        keys.Key("conv_group_size", "u32", "conv_group_size"),
        keys.Key("selector_rank", "u32", "selector_rank"),
        keys.Key("selector_top_k", "u32", "selector_top_k"),
        keys.LOGIT_SCALE,
        keys.computed("final_logit_softcapping", "f32", softcap),
        keys.Key("embedding_scale", "f32", "embedding_scale"),
        keys.Key("target_layers", "i32", LAYERS, array=True, nonzero=True),
        keys.SLIDING_WINDOW,
        keys.windows,
        keys.Key("attention.causal", "bool", CAUSAL),
        keys.Key("rope.dimension_sections", "i32", SECTIONS, array=True),
    ),
    drop=(
        FREQUENCIES,
        *LEFT_OUT,
        Drop("model.embed_tokens.weight", "those of the target are used", when=WITHOUT_OWN),
    ),
    spellings=(INSIDE, Rename(r"self_attn\.sinks\.weight$", "self_attn.sinks")),
    derive=(drafted, of_draft),
    assumes=(assumptions.silu, assumptions.yarn_temperature),
    unserved=UNSERVED,
    drafts=True,
    borrows=True,
)  # fmt: skip


def of_spark(hparams: Hparams) -> Mapping[str, Any]:
    """What is drafted, and from where. Raises UnsupportedError for a head that looks further back than one token."""
    kind = hparams.values.get("markov_head_type", "vanilla")
    if kind != "vanilla":
        what = f'llama.cpp has no graph for a Markov head of the kind "{shown(str(kind))}", but for "vanilla"'
        raise UnsupportedError(what, key="markov_head_type", hint="run it with the engine that it was made for")
    eagle = "transformer_layer_config" in hparams.values or BEHIND in hparams.values
    return {ANCHORED: hparams.values.get(ANCHORED, not eagle), SHARED_HEAD: not is_reduced(hparams)}


def confidence(hparams: Hparams, tensors: Mapping[str, TensorInfo]) -> Mapping[str, Any]:
    """Whether there is a head that says how sure a draft is."""
    return {SURE: any("confidence_head.proj" in name for name in tensors)}


DSPARK = replace(
    DFLASH,
    name="dspark",
    hf=("Qwen3DSparkModel", "DSparkDraftModel", "DSparkSpeculator", "Lfm2DSparkDraftModel", "LingDSparkModel"),
    defaults={"dspark": QWEN3.defaults["qwen3"]},
    outside=(
        *OUTSIDE,
        *SELECTOR,
        *optional((
            T("markov_head.markov_w1.weight", "markov_w1.weight", Role.OTHER, ANY),
            T("markov_head.markov_w2.weight", "markov_w2.weight", Role.OTHER, ANY),
            T("confidence_head.proj.weight", "conf_proj.weight", Role.OTHER, ANY),
            T("confidence_head.proj.bias", "conf_proj.bias", Role.BIAS, ANY),
        )),
    ),
    keys=(
        *DFLASH.keys,
        keys.Key(ANCHORED, "bool", ANCHORED),
        keys.Key(SURE, "bool", SURE),
    ),
    drop=(*DFLASH.drop, Drop("lm_head.weight", "that of the target is used", when=SHARED_HEAD)),
    derive=(*DFLASH.derive, of_spark),
    seen=(OFFSETS_SEEN, confidence),
    extra=drafted_tokens,
)  # fmt: skip


def layer_types(hparams: Hparams) -> Mapping[str, Any]:
    """All layers attend to a window, where nothing else is said."""
    if hparams.values.get("layer_types") is not None:
        return {}
    return {"layer_types": ["sliding_attention"] * hparams.count(TRUNK)}


def of_muse(hparams: Hparams) -> Mapping[str, Any]:
    """The vocabulary is the target's, and config.json has all numbers at its root."""
    target = any_target_of(hparams)
    tokens = {} if target is None else {VOCABULARY: target.count(VOCABULARY)}
    return {**tokens, "use_sliding_window": bool(hparams.values.get("sliding_window"))}


MUSE_GLIMMER = replace(
    DFLASH,
    name="muse_glimmer_assistant",
    hf=("MuseGlimmerAssistantModel",),
    defaults={
        "muse_glimmer_assistant": {
            "vocab_size": 202048, "hidden_size": 6656, "intermediate_size": 19968, "num_hidden_layers": 5,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "sliding_window": 2048, "block_size": 16,
            "mask_token_id": 201818, "target_layer_ids": [1, 13, 25, 37, 49],
        },
    },
    outside=(
        FINAL_NORM,
        T("encoder.fc.weight", "fc.weight", Role.OTHER, "hidden_size states"),
        T("encoder.output_norm_enc.weight", "enc.output_norm.weight", Role.NORM, "hidden_size"),
    ),
    block=(*NORMS, *without_biases(ATTENTION), *QK_NORMS, *without_biases(MLP)),
    drop=(FREQUENCIES,),
    spellings=(),
    derive=(of_muse, layer_types, *DFLASH.derive),
)  # fmt: skip

FAMILIES = (DFLASH, DSPARK, MUSE_GLIMMER)
