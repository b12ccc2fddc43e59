"""EAGLE-3: a block of a Llama that drafts for another model, from hidden states of three of its layers and a token.

Its queries, keys and values see the token's embedding beside the hidden states. Where it has no embeddings or no head,
those of the target are used. Source: conversion/llama.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import assumptions, keys
from quantkit.families.drafts import (
    DRAFTED,
    LEFT_OUT,
    OFFSETS_SEEN,
    UNSERVED,
    drafted,
    drafted_tokens,
    numbers_of_layers,
    require_states,
    target_of,
)
from quantkit.families.hparams import Hparams
from quantkit.families.known.llama import LLAMA
from quantkit.families.layers import TRUNK
from quantkit.families.model import ModelTensor
from quantkit.families.placements import rope_freqs
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    FREQUENCIES,
    MLP,
    NORMS,
    Condition,
    Family,
    T,
    optional,
    rotated,
)
from quantkit.families.spellings import Rename

LAYERS, WIDTH, JOINED = "target_layers", "target_hidden_size", "joined_states"
LEAST_LAYERS = 3  # of a target, where nothing says which are read
SAID = "eagle_aux_hidden_state_layer_ids"
BESIDE = tuple(  # of what comes from the target and the embedding, side by side
    replace(t, shape=t.shape.replace("hidden_size", "2*hidden_size")) if t.role is not Role.ATTN_OUTPUT else t
    for t in rotated(ATTENTION)
)


def of_target(hparams: Hparams) -> Mapping[str, Any]:
    """Which layers of the target are read, and how wide they are: of a draft seen alone, as wide as its own.

    Raises UnsupportedError for a draft of more blocks than one, InputError for layers that are no numbers of any, and
    for hidden states that the target has not.
    """
    if hparams.count(TRUNK) != 1:
        what = f"the draft has {hparams.count(TRUNK)} layers, llama.cpp's graph of EAGLE-3 has one"
        raise UnsupportedError(what, key=TRUNK, hint="run it with the engine that it was made for")
    target = target_of(hparams)
    count = target.count(TRUNK) if target else LEAST_LAYERS
    layers = numbers_of_layers(hparams.values.get(SAID) or [2, count // 2, count - 3], SAID)
    width = hparams.count(WIDTH) if hparams.values.get(WIDTH) else (target or hparams).count("hidden_size")
    require_states(target, layers, width, SAID)
    return {LAYERS: layers, WIDTH: width, JOINED: len(layers) * width}


def layers_said(hparams: Hparams) -> str | None:
    """What stands in `eagle_config` names no other layers: llama.cpp's converter does not look there."""
    config = hparams.values.get("eagle_config")
    said = config.get(SAID) if isinstance(config, Mapping) else None
    written = hparams.values.get(LAYERS)
    if said is None or written is None or said == written:
        return None
    return f"eagle_config reads layers {said} of the target, the file says {written}"


def tables(hparams: Hparams) -> tuple[ModelTensor, ...]:
    """Factors of rotary frequencies, and the tokens that are drafted."""
    return (*rope_freqs(hparams), *drafted_tokens(hparams))


EAGLE3 = Family(
    name="eagle3",
    gguf="eagle3",
    hf=("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Speculator", "Eagle3DraftModel"),
    defaults={
        "eagle3": {
            **LLAMA.defaults["llama"], "num_hidden_layers": 1, "norm_before_residual": False, "norm_before_fc": False,
        },
    },
    outside=(
        *optional((EMBEDDING,)),
        FINAL_NORM,
        T("lm_head.weight", "output.weight", Role.OUTPUT, f"{DRAFTED} hidden_size", optional=True),
        T("fc.weight", "fc.weight", Role.OTHER, f"hidden_size {JOINED}"),
        T("input_norm.weight", "enc.output_norm.weight", Role.NORM, JOINED, optional=True),
    ),
    block=(
        *NORMS,
        T("hidden_norm.weight", "attn_norm_2.weight", Role.NORM, "hidden_size"),
        *BESIDE,
        *MLP,
    ),
    keys=(
        *keys.LLAMA,
        keys.Key("target_layers", "i32", LAYERS, array=True),
        keys.Key("target_hidden_size", "u32", WIDTH),
        keys.Key("norm_before_residual", "bool", "norm_before_residual"),
        keys.Key("norm_before_fc", "bool", "norm_before_fc"),
    ),
    drop=(FREQUENCIES, *LEFT_OUT),
    spellings=(Rename(r"^midlayer\.", "model.layers.0."),),
    extra=tables,
    derive=(drafted, of_target),
    seen=(OFFSETS_SEEN,),
    assumes=(assumptions.silu, assumptions.yarn_temperature, layers_said),
    unserved=UNSERVED,
    drafts=True,
    borrows=True,
)  # fmt: skip

UNNAMED = replace(  # as the first of them are called
    EAGLE3,
    name="eagle3_llama",
    hf=("LlamaForCausalLM",),
    when=Condition("config.json has draft_vocab_size", lambda said: said.get(DRAFTED) is not None),
)

FAMILIES = (EAGLE3, UNNAMED)
