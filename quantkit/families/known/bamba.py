"""Bamba: layers of Mamba 2 and of attention, each with an MLP, in the graph of Granite 4.

Source: conversion/granite.py of llama.cpp, October 2026. Differs from it in the rows of queries and keys: it turns
whole heads as if all of them were rotated, where half of each is, and llama.cpp then computes something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from quantkit.errors import InputError
from quantkit.families import keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.known.granite_hybrid import FINETUNED, FULL, GRANITE_HYBRID, KEYS, MAMBA, mixer_head
from quantkit.families.known.mamba import each_layer, inner_sizes, mamba2, mixer_of_file
from quantkit.families.layers import TRUNK, kind, numbered
from quantkit.families.model import RowOrder
from quantkit.families.placements import Placement, whole
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, EMBEDDING, HEAD, MLP, NORMS, T, at
from quantkit.tensors import TensorInfo

OTHERWISE = ("rope.dimension_count", "feed_forward_length", "attention.head_count_kv")
ROTATED = "attn_rotary_emb"
PART = 0.5  # of a head that is rotated, in the class of transformers


def rotated_dimensions(hparams: Hparams) -> int:
    """The dimensions of a head that are rotated. Raises InputError for more than it has, and for an odd number."""
    head = hparams.count("head")
    if hparams.values.get(ROTATED) is None:
        return int(head * PART)
    said = hparams.count(ROTATED)
    if said > head or said % 2:
        what = f"config.json: {ROTATED} is {said}, expected an even number up to head_dim ({head})"
        raise InputError(what, key=ROTATED, path="config.json", hint=CONFIG_HINT)
    return said


def part_turned(info: TensorInfo, hparams: Hparams) -> Placement:
    """Rotation pairs side by side in the part of each head that is rotated; the rest stays."""
    head, part = hparams.count("head"), rotated_dimensions(hparams)
    pairs = chain.from_iterable((j, part // 2 + j) for j in range(part // 2))
    return replace(whole(info, hparams), row_order=RowOrder("part", (*pairs, *range(part, head))))


def of_file(hparams: Hparams) -> Mapping[str, Any]:
    """Which layers attend, by the file's heads of keys for each."""
    heads = each_layer(hparams.values.get("file.kv_heads"), hparams.count(TRUNK))
    found = mixer_of_file(hparams)
    return {
        **found,
        "attn_layer_indices": [layer for layer, count in enumerate(heads) if count],
        "num_key_value_heads": max(heads),
        "mamba_d_head": found["ssm_head_dim"],
    }


QK = {Role.ATTN_Q, Role.ATTN_K}
BAMBA = replace(
    GRANITE_HYBRID,
    name="bamba",
    hf=("BambaForCausalLM",),
    when=None,
    defaults={
        "bamba": {
            "vocab_size": 128000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "ssm_heads": 128,
            "ssm_head_dim": None, "ssm_groups": 1, "ssm_state": 256, "ssm_conv": 4,
        },
    },
    outside=(EMBEDDING, T("model.final_layernorm.weight", "output_norm.weight", Role.NORM, "hidden_size"), HEAD),
    block=(
        NORMS[0],
        T("pre_ff_layernorm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        *at(kind(MAMBA), mamba2("mamba", bias=None)),
        *at(kind(FULL), tuple(replace(t, place=part_turned) if t.role in QK else t for t in ATTENTION)),
        *(replace(t, source=t.source.replace("mlp.", "feed_forward.")) for t in MLP),
    ),
    keys=(
        *(entry for entry in keys.without(KEYS, *OTHERWISE) if entry is not FINETUNED),
        keys.Key("feed_forward_length", "u32", "intermediate_size"),
        keys.computed("rope.dimension_count", "u32", rotated_dimensions),
        keys.computed("rope.scaling.finetuned", "bool", lambda hparams: True),
    ),
    derive=(
        numbered("attn_layer_indices", FULL, MAMBA),
        lambda hparams: {"ssm_head_dim": mixer_head(hparams)},
        inner_sizes,
    ),
    back={"attention.head_count_kv": "file.kv_heads", "rope.dimension_count": ROTATED},
    graph=of_file,
    computes=frozenset({"attn_layer_indices"}),
    folds=(),
)  # fmt: skip

FAMILIES = (BAMBA,)
