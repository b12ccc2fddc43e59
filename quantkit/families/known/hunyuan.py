"""Hunyuan, dense: queries and keys normalized under names of their own, positions stretched by a power of alpha."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from quantkit.errors import InputError, UnsupportedError
from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.known.qwen3_next import VISION
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    MLP,
    NORMS,
    OUTSIDE,
    UNSERVED,
    Drop,
    Family,
    T,
    TokenizerRules,
)
from quantkit.metadata import KeyValue

ALPHA = 50.0  # of a dense model whose config.json names none
BASE, CONTEXTS, CONTEXT = 10000.0, (32 << 10, 256 << 10), 256 << 10  # of all models that were published

QK_NORMS = (
    T("self_attn.query_layernorm.weight", "attn_q_norm.weight", Role.NORM, "head"),
    T("self_attn.key_layernorm.weight", "attn_k_norm.weight", Role.NORM, "head"),
)


def stretched(hparams: Hparams) -> bool:
    return hparams.values.get("rope_type") == "dynamic"


def context(hparams: Hparams) -> Iterable[KeyValue]:
    """The context, which config.json understates where positions are stretched."""
    if not stretched(hparams):
        return keys.number(keys.Key("context_length", "u32", "max_position_embeddings"), hparams)
    if hparams.required("rope_theta") != BASE or hparams.count("max_position_embeddings") not in CONTEXTS:
        message = "positions stretched from other numbers than those of the published Hunyuan models"
        raise UnsupportedError(message, key="rope_theta", hint="is config.json of this model?")
    return (KeyValue("context_length", "u32", CONTEXT),)


def frequencies(otherwise: float) -> keys.KeyRow:
    """The base of the rotation, raised by alpha as the model's own code raises it at every length; `otherwise` is alpha
    where config.json names none."""

    def entries(hparams: Hparams) -> Iterable[KeyValue]:
        theta = hparams.required("rope_theta")
        if not stretched(hparams):
            yield KeyValue("rope.freq_base", "f32", theta)
            return
        alpha, head = hparams.number("rope_alpha"), hparams.count("head")
        if (alpha is not None and alpha <= 0) or head <= 2:
            message = f"config.json: positions are stretched by alpha {alpha} in heads of {head}, which is no base"
            raise InputError(message, key="alpha", path="config.json", hint=CONFIG_HINT)
        yield KeyValue("rope.freq_base", "f32", theta * (otherwise if alpha is None else alpha) ** (head / (head - 2)))
        yield KeyValue("rope.scaling.type", "string", "none")
        yield KeyValue("rope.scaling.factor", "f32", 1.0)
        yield KeyValue("rope.scaling.original_context_length", "u32", CONTEXT)

    return entries


KEYS = (*keys.without(keys.SIZES, "context_length"), context, keys.RMS_EPSILON, *keys.HEAD_LENGTHS)
HUNYUAN = Family(
    name="hunyuan_dense",
    gguf="hunyuan-dense",
    hf=("HunYuanDenseV1ForCausalLM",),
    defaults={
        "hunyuan_v1_dense": {
            "vocab_size": 290943, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    outside=OUTSIDE,
    block=(*NORMS, *ATTENTION, *QK_NORMS, *MLP),
    keys=(*KEYS, frequencies(ALPHA)),
    drop=(FREQUENCIES, Drop("lm_head.weight", "the same values as the embeddings", when="tie_word_embeddings")),
    assumes=(assumptions.silu,),
    folds=folds.DENSE,
    tokens=TokenizerRules(end_key="eod_token_id"),
)  # fmt: skip


def sections(hparams: Hparams) -> list[int] | None:
    """How many pairs of dimensions each axis of a position has, by the one or the other name; None for plain ones."""
    for settings in (hparams.values.get("rope_scaling"), hparams.values.get("rope_parameters")):
        if isinstance(settings, Mapping):
            found = settings.get("xdrope_section", settings.get("mrope_section"))
            if found is not None:
                return list(found) if isinstance(found, (list, tuple)) else found
    return None


def axes(hparams: Hparams) -> Iterable[KeyValue]:
    """What a rotation on several axes needs, which llama.cpp stretches by itself."""
    said = Hparams({**hparams.values, "sections": sections(hparams)})
    if said.values["sections"] is None:
        return
    yield KeyValue("rope.scaling.type", "string", "none")
    for key in (
        keys.Key("rope.scaling.alpha", "f32", "rope_alpha"),
        keys.Key("rope.scaling.factor", "f32", "rope_factor", default=1),
        keys.Key("rope.scaling.original_context_length", "u32", "max_position_embeddings"),
        keys.Key("rope.dimension_sections", "i32", "sections", array=True),
    ):
        yield from keys.number(key, said)


HUNYUAN_VL = replace(
    HUNYUAN,
    name="hunyuan_vl",
    gguf="hunyuan_vl",
    hf=("HunYuanVLForConditionalGeneration",),
    defaults={"hunyuan_vl_text": {**HUNYUAN.defaults["hunyuan_v1_dense"], "tie_word_embeddings": True}},
    keys=(*keys.SIZES, keys.RMS_EPSILON, *keys.HEAD_LENGTHS, keys.FREQUENCY_BASE, axes),
    drop=(*HUNYUAN.drop, Drop("vit.*", VISION[0].reason), Drop("model.vit.*", VISION[0].reason)),
    strip="language_model.",
    unserved=UNSERVED,
)

FAMILIES = (HUNYUAN, HUNYUAN_VL)
