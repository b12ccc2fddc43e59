"""MiniMax Text 01 and M1: linear attention in seven of eight layers, and residuals that are scaled and normalized.

Source: conversion/minimax.py of llama.cpp, October 2026. Tokens whose embeddings are zero are not named in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams, bad_value
from quantkit.families.layers import KINDS, TRUNK, by_rule, first_said, kind, listed, of_period
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    NORMS,
    OUTSIDE,
    Drop,
    Family,
    T,
    at,
    experts,
    without_biases,
)

LINEAR, FULL = "linear_attention", "full_attention"
EVERY = 8  # the last of so many layers attends, the others do not
ALPHAS = tuple(f"{part}_alpha_factor" for part in ("full_attn", "linear_attn", "mlp"))
BETAS = tuple(f"{part}_beta_factor" for part in ("full_attn", "linear_attn", "mlp"))
SCALE = "file.residual_scale"
HINT = "run it with transformers or vLLM"


def kinds(hparams: Hparams) -> Mapping[str, Any]:
    """The kinds of layers as MiniMax says them: 1 for a layer that attends. Raises InputError for other numbers."""
    said = hparams.values.get("attn_type_list")
    if not isinstance(said, list) or hparams.values.get("layer_types") is not None:
        return {}
    if any(word not in (0, 1) for word in said):
        raise bad_value("attn_type_list", said, "0 or 1 for each layer")
    return {"layer_types": [FULL if word else LINEAR for word in said]}


def checked(hparams: Hparams) -> Mapping[str, Any]:
    """What residuals are multiplied by. Raises UnsupportedError for what llama.cpp's graph has no place for."""
    found, expected = (
        hparams.values[KINDS],
        [FULL if n % EVERY == EVERY - 1 else LINEAR for n in range(hparams.count(TRUNK))],
    )
    if found != expected:
        what = f"other layers attend than the last of every {EVERY}, which llama.cpp takes for granted"
        raise UnsupportedError(what, key="attn_type_list", hint=HINT)
    alphas, betas = ({_factor(hparams, name) for name in names} for names in (ALPHAS, BETAS))
    if len(alphas) > 1 or betas != {1.0}:
        what = "residuals are scaled by several numbers, llama.cpp's file has one"
        raise UnsupportedError(what, key=ALPHAS[0], hint=HINT)
    return {"residual": alphas.pop(), "rotary_dim": hparams.values.get("rotary_dim") or hparams.count("head")}


def _factor(hparams: Hparams, name: str) -> float:
    said = hparams.number(name)
    return 1.0 if said is None else said


def of_file(hparams: Hparams) -> Mapping[str, Any]:
    """What the graph takes for granted of a file: one number for all residuals, and which layers attend."""
    kinds_of = [FULL if n % EVERY == EVERY - 1 else LINEAR for n in range(hparams.count(TRUNK))]
    return {**dict.fromkeys(ALPHAS, hparams.required(SCALE)), **dict.fromkeys(BETAS, 1.0), "layer_types": kinds_of}


MINIMAX_01 = Family(
    name="minimax_01",
    gguf="minimax-01",
    hf=("MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM", "MiniMaxForCausalLM"),
    defaults={
        "minimax": {
            "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": False,
            "num_local_experts": 8, "num_experts_per_tok": 2, **dict.fromkeys((*ALPHAS, *BETAS), 1),
        },
    },
    outside=OUTSIDE,
    block=(
        *NORMS,
        *at(kind(FULL), without_biases(ATTENTION)),
        *at(kind(LINEAR), (
            T("self_attn.qkv_proj.weight", "attn_qkv.weight", Role.ATTN_QKV, "3*q_rows hidden_size"),
            T("self_attn.out_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
            T("self_attn.norm.weight", "attn_norm_2.weight", Role.NORM, "q_rows"),
            T("self_attn.output_gate.weight", "attn_gate.weight", Role.OTHER, "q_rows hidden_size"),
        )),
        *experts("intermediate_size", "block_sparse_moe", "w1", "w3", "w2"),
    ),
    keys=(
        *keys.COMMON,
        keys.Key("residual_scale", "f32", "residual"),
        keys.Key("rope.dimension_count", "u32", "rotary_dim"),
    ),
    drop=(
        FREQUENCIES,
        *(Drop(f"*.self_attn.{name}", "how states fade follows from the layer and the head")
          for name in ("slope_rate", "query_decay", "key_decay", "diagonal_decay")),
    ),
    aliases={
        f"layernorm_{theirs}_{which}": f"{ours}_{which}_factor"
        for theirs, ours in (("full_attention", "full_attn"), ("linear_attention", "linear_attn"), ("mlp", "mlp"))
        for which in ("alpha", "beta")
    },
    derive=(
        kinds,
        first_said("layer_types", listed("layer_types", {LINEAR: LINEAR, FULL: FULL}),
                   by_rule(FULL, of_period(EVERY, EVERY - 1), LINEAR)),
        checked,
    ),
    assumes=(assumptions.silu,),
    back={"residual_scale": SCALE},
    graph=of_file,
    computes=frozenset({"block_size", *ALPHAS, *BETAS}),
    folds=(  # none at the norms of blocks: residuals come from them, too
        folds.VALUES,
        folds.Fold("self_attn.norm", ("self_attn.out_proj",), norm=True),
        folds.EXPERT_OUT,
    ),
)  # fmt: skip

FAMILIES = (MINIMAX_01,)
