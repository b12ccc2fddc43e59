"""Granite with windows in most layers, a sink in every head and layers without positions; dense, or with experts.

Source: conversion/granite.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from quantkit.errors import InputError
from quantkit.families import keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.known.granite import GRANITE
from quantkit.families.layers import flagged
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, NORMS, T, at, rotated
from quantkit.families.spellings import Rename
from quantkit.metadata import KeyValue

PERIOD, WINDOW = 4, "sliding_attention"  # of so many layers the first one attends to everything
SINKS = T("self_attn.sinks", "attn_sinks.weight", Role.OTHER, "num_attention_heads")


def windows(hparams: Hparams) -> Iterable[KeyValue]:
    """Which layers attend to a window. Raises InputError for a list of another length."""
    types = _listed(hparams, "layer_types")
    layers = range(hparams.count("num_hidden_layers"))
    found = tuple(kind == WINDOW for kind in types) if types else tuple(layer % PERIOD != 0 for layer in layers)
    yield KeyValue("attention.sliding_window_pattern", "bool", found, array=True)


def rotating(hparams: Hparams) -> Iterable[KeyValue]:
    """Which layers rotate positions, where some do not. Raises InputError for a list of another length."""
    said = _listed(hparams, "no_rope_layers")  # which has a 1 for those that do
    if said:
        yield KeyValue("attention.rope_pattern", "bool", tuple(bool(flag) for flag in said), array=True)


def _listed(hparams: Hparams, key: str) -> list[object]:
    said, count = hparams.values.get(key) or [], hparams.count("num_hidden_layers")
    if not isinstance(said, list) or (said and len(said) != count):
        what = f"config.json: {key} is no list of {count} layers"
        raise InputError(what, key=key, path="config.json", hint=CONFIG_HINT)
    return said


def one_base(hparams: Hparams) -> str | None:
    """All layers that rotate positions have the same base."""
    said, base = hparams.values.get("layer_rope_theta"), hparams.required("rope_theta")
    bases = said if isinstance(said, list) else []
    if any(theta not in (None, 0, base) for theta in bases):
        return f"layer_rope_theta has other bases than rope_theta {base:g}"
    if not all(bases) and not hparams.values.get("no_rope_layers"):
        return "layer_rope_theta has layers without positions, and no_rope_layers, from which it knows, none"
    return None


FUSED = "num_local_experts 2*intermediate_size hidden_size"
MIXTURE = (
    T("block_sparse_moe.router.layer.weight", "ffn_gate_inp.weight", Role.ROUTER, "num_local_experts hidden_size"),
    T("block_sparse_moe.input_linear.weight", "ffn_gate_up_exps.weight", Role.FFN_GATE_UP, FUSED),
    T("block_sparse_moe.output_linear.weight", "ffn_down_exps.weight", Role.FFN_DOWN,
      "num_local_experts hidden_size intermediate_size"),
)  # fmt: skip
SHARED_EXPERT = (
    T("shared_mlp.input_linear.weight", "ffn_up_shexp.weight", Role.FFN_UP, "2*shared_intermediate_size hidden_size"),
    T("shared_mlp.output_linear.weight", "ffn_down_shexp.weight", Role.FFN_DOWN,
      "hidden_size shared_intermediate_size"),
)  # fmt: skip
GRANITE_SWA = replace(
    GRANITE,
    name="granite_swa",
    gguf="granite_swa",
    hf=("GraniteSWAForCausalLM",),
    defaults={
        "granite_swa": {
            **GRANITE.defaults["granite"], "vocab_size": 100352, "hidden_size": 2560, "intermediate_size": 8192,
            "num_hidden_layers": 24, "num_attention_heads": 20, "num_key_value_heads": 4,
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "sliding_window": 128,
        },
    },
    block=(*GRANITE.block, SINKS),
    keys=(*GRANITE.keys, keys.SLIDING_WINDOW, windows, rotating),
    computes=GRANITE.computes | {"layer_rope_theta"},
    assumes=(*GRANITE.assumes, one_base),
    folds=(),
)  # fmt: skip
GRANITE_MOE_SWA = replace(
    GRANITE_SWA,
    name="granite_moe_swa",
    hf=("GraniteMoeSWAForCausalLM",),
    defaults={
        "granitemoe_swa": {
            **GRANITE.defaults["granite"], "num_local_experts": 8, "num_experts_per_tok": 2,
            "shared_intermediate_size": 0, "sliding_window": 128,
        },
    },
    block=(*NORMS, *rotated(ATTENTION), SINKS, *MIXTURE, *at(flagged("shares"), SHARED_EXPERT)),
    keys=(
        *GRANITE_SWA.keys,
        keys.Key("expert_shared_feed_forward_length", "u32", "shared_intermediate_size", nonzero=True),
    ),
    derive=(lambda hparams: {"shares": bool(hparams.number("shared_intermediate_size"))},),
    spellings=(
        Rename(r"block_sparse_moe\.router\.weight$", "block_sparse_moe.router.layer.weight"),
        Rename(r"block_sparse_moe\.experts\.gate_up_proj$", "block_sparse_moe.input_linear.weight"),
        Rename(r"block_sparse_moe\.experts\.down_proj$", "block_sparse_moe.output_linear.weight"),
    ),
)  # fmt: skip

FAMILIES = (GRANITE_SWA, GRANITE_MOE_SWA)
