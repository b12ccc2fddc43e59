"""Gemma 4's assistants: small models that predict what a Gemma 4 says next, from its hidden states and keys and values.

llama.cpp runs such a file beside that of the large model (`--model-draft`). Source: conversion/gemma.py of llama.cpp,
October 2026, which leaves out the embeddings in clusters of the smallest ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import keys
from quantkit.families.backwards import not_read
from quantkit.families.hparams import Hparams
from quantkit.families.known.gemma import SHARING
from quantkit.families.known.gemma4 import FIRST_SHARED, GEMMA4
from quantkit.families.layers import TRUNK
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, T

BACKBONE = "backbone_hidden_size"


def unshared(hparams: Hparams) -> Mapping[str, Any]:
    """Its own layers as if none read what an earlier one keeps: there is none."""
    return {SHARING: 0}


def shared(hparams: Hparams) -> Mapping[str, Any]:
    """All layers read keys and values of the large model."""
    return {SHARING: hparams.count(TRUNK), FIRST_SHARED: 0}


GEMMA4_ASSISTANT = replace(
    GEMMA4,
    name="gemma4_assistant",
    gguf="gemma4-assistant",
    when=None,
    hf=("Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM"),
    defaults={"gemma4_assistant": {**GEMMA4.defaults["gemma4_text"], "hidden_size_per_layer_input": 0, BACKBONE: 1536}},
    outside=(
        *GEMMA4.outside,
        T("pre_projection.weight", "nextn.pre_projection.weight", Role.OTHER, f"hidden_size 2*{BACKBONE}"),
        T("post_projection.weight", "nextn.post_projection.weight", Role.OTHER, f"{BACKBONE} hidden_size"),
    ),
    keys=(
        *GEMMA4.keys,
        keys.Key("embedding_length_out", "u32", BACKBONE),
        keys.Key("nextn_predict_layers", "u32", "num_hidden_layers"),
    ),
    drop=(*GEMMA4.drop, Drop("masked_embedding.*", "llama.cpp looks at all tokens, not at clusters of them")),
    inside={},
    graph=not_read("they are parts of other models"),
    derive=(unshared, *GEMMA4.derive, shared),
    drafts=True,
    unwalked="it reads hidden states, keys and values of a large Gemma 4, and nothing of text alone",
)  # fmt: skip

FAMILIES = (GEMMA4_ASSISTANT,)
