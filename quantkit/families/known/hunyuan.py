"""Hunyuan, dense: queries and keys normalized under names of their own, positions stretched by a power of alpha."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from quantkit.errors import InputError, UnsupportedError
from quantkit.families import assumptions, folds, keys
from quantkit.families.alone import SECTIONS, Alone, Entries
from quantkit.families.hparams import CONFIG_HINT, MAX_NUMBER, Hparams
from quantkit.families.known.qwen3_next import VISION
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    MLP,
    NORMS,
    OUTSIDE,
    Drop,
    Family,
    T,
    TokenizerRules,
)
from quantkit.metadata import KeyValue

ALPHA = 50.0  # of a dense model whose config.json names none
BASE, CONTEXTS, CONTEXT = 10000.0, (32 << 10, 256 << 10), 256 << 10  # of all models that were published
ORIGINAL, BASE_KEY = "file.original_context", "rope.freq_base"

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


def raised(base: float, alpha: float, head: int) -> float:
    """The base of the rotation of heads of so many dimensions, stretched by alpha. Raises InputError for no base."""
    found = base * alpha ** (head / (head - 2)) if alpha > 0 and head > 2 else 0.0
    if not 0 < found <= MAX_NUMBER:
        message = f"positions are stretched by alpha {alpha:g} in heads of {head}, which is no base"
        raise InputError(message, key="alpha", hint=CONFIG_HINT)
    return found


def frequencies(otherwise: float) -> keys.KeyRow:
    """The base of the rotation, raised by alpha as the model's own code raises it at every length; `otherwise` is alpha
    where config.json names none."""

    def entries(hparams: Hparams) -> Iterable[KeyValue]:
        theta = hparams.required("rope_theta")
        if not stretched(hparams):
            yield KeyValue(BASE_KEY, "f32", theta)
            return
        alpha = hparams.number("rope_alpha")
        stretched_base = raised(theta, otherwise if alpha is None else alpha, hparams.count("head"))
        yield KeyValue(BASE_KEY, "f32", stretched_base)
        yield KeyValue("rope.scaling.type", "string", "none")
        yield KeyValue("rope.scaling.factor", "f32", 1.0)
        yield KeyValue("rope.scaling.original_context_length", "u32", CONTEXT)

    return entries


def of_file(hparams: Hparams) -> Mapping[str, Any]:
    """Alpha, by the base of a file whose positions are stretched: the shortest number that gives the base again."""
    base, head = hparams.required("rope_theta"), hparams.count("head_dim")
    if ORIGINAL not in hparams.values or base <= 0 or head <= 2:
        return {}
    alpha = (base / BASE) ** ((head - 2) / head)
    shorter = (float(f"{alpha:.{digits}g}") for digits in range(1, 17))
    found = next((each for each in shorter if np.float32(raised(BASE, each, head)) == np.float32(base)), alpha)
    return {
        "rope_theta": BASE, "max_position_embeddings": CONTEXT,
        "rope_scaling": {"rope_type": "dynamic", "alpha": found, "factor": 1.0},
    }  # fmt: skip


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
    back={"rope.scaling.original_context_length": ORIGINAL},
    graph=of_file,
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


def on_one_axis(entries: Entries) -> Entries:
    """The entries of a file, by their keys without the architecture, as those of a dense model: a base that is
    stretched already, and no axes, on all of which text has the same position."""
    left = {SECTIONS, *(f"rope.scaling.{key}" for key in ("type", "alpha", "factor", "original_context_length"))}
    kept = {key: entry for key, entry in entries.items() if key not in left}
    keys_of = {"base": BASE_KEY, "alpha": "rope.scaling.alpha", "head": "attention.key_length"}
    said = Hparams({name: entries[key].value for name, key in keys_of.items() if key in entries})
    if "alpha" not in said.values:
        return kept
    base = raised(said.required("base"), said.required("alpha"), said.count("head"))
    return {**kept, BASE_KEY: KeyValue(BASE_KEY, "f32", base)}


HUNYUAN_VL = replace(
    HUNYUAN,
    name="hunyuan_vl",
    gguf="hunyuan_vl",
    hf=("HunYuanVLForConditionalGeneration",),
    defaults={"hunyuan_vl_text": {**HUNYUAN.defaults["hunyuan_v1_dense"], "tie_word_embeddings": True}},
    keys=(*keys.SIZES, keys.RMS_EPSILON, *keys.HEAD_LENGTHS, keys.FREQUENCY_BASE, axes),
    drop=(
        *HUNYUAN.drop,
        *(Drop(pattern, VISION[0].reason, in_memory="vision_tower") for pattern in ("vit.*", "model.vit.*")),
    ),
    strip="language_model.",
    alone=Alone(HUNYUAN.name, on_one_axis),
)

FAMILIES = (HUNYUAN, HUNYUAN_VL)
