"""Laguna: windows with more heads than other layers have, a gate behind attention, and a mixture after dense layers.

Source: conversion/laguna.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import BY_LAYER, Hparams, bad_value
from quantkit.families.known.glm5 import dense_first
from quantkit.families.layers import TRUNK, kind, listed
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    MLP,
    NORMS,
    OUTSIDE,
    QK_NORMS,
    Family,
    T,
    TokenizerRules,
    at,
    experts,
    shared_expert,
    without_biases,
)
from quantkit.families.spellings import Rename

DENSE, SPARSE, SWA, FULL = "dense", "sparse", "sliding_attention", "full_attention"
HEADS, PER_LAYER, GATES = "layer_heads", "num_attention_heads_per_layer", "gate_rows"
HEADWISE, ELEMENTWISE = "per_head", "per_element"
WINDOWED_OF = 4  # of so many layers the first one attends to everything


def unlike_layers(hparams: Hparams) -> Mapping[str, Any]:
    """How many heads and how many gates each layer has.

    Raises InputError for lists of another length and gates of no known kind.
    """
    trunk, head = hparams.count(TRUNK), hparams.count("head")
    said = hparams.values.get(PER_LAYER) or [hparams.count("num_attention_heads")] * trunk
    gates = hparams.values.get("gating_types") or [hparams.values.get("gating")] * trunk
    layers = []
    for key, found in ((PER_LAYER, said), ("gating_types", gates)):
        if not isinstance(found, list) or len(found) != trunk:
            raise bad_value(key, found, "a list with an entry for each layer")
    for count, gate in zip(said, gates, strict=True):
        heads = Hparams({PER_LAYER: count}).count(PER_LAYER)
        rows = {HEADWISE: heads, ELEMENTWISE: heads * head}.get(_gate(gate))
        if rows is None:
            raise bad_value("gating", gate, f'"{HEADWISE}" or "{ELEMENTWISE}"')
        layers.append({HEADS: heads, "q_rows": heads * head, GATES: rows})
    return {BY_LAYER: layers}


def _gate(said: object) -> str:
    """The kind of a gate; the first checkpoints say only that there is one."""
    return HEADWISE if said is True else str(said).replace("-", "_")


def dense_layers(hparams: Hparams) -> Mapping[str, Any]:
    """How many layers have no experts. Raises UnsupportedError where one comes after a mixture."""
    kinds = hparams.values["layer_kinds"]
    dense = next((layer for layer, word in enumerate(kinds) if word != DENSE), len(kinds))
    if DENSE in kinds[dense:]:
        what = "llama.cpp runs layers without experts only before all with experts"
        raise UnsupportedError(what, key="mlp_layer_types", hint="run it with transformers or vLLM")
    return {"dense_layers": dense}


def part_in_windows(hparams: Hparams) -> object:
    """The dimensions of a head that are rotated where a layer attends to a window."""
    settings = hparams.values.get("rope_parameters")
    inside = settings.get(SWA) if isinstance(settings, Mapping) else None
    if not isinstance(inside, Mapping):
        return None
    share = Hparams(inside).number("partial_rotary_factor")
    return int(hparams.count("head") * (1.0 if share is None else share))


def windows(hparams: Hparams) -> str | None:
    """Of four layers the first one attends to everything, the others to a window."""
    layers = hparams.values.get("layer_types")
    if not isinstance(layers, list) or not hparams.number("sliding_window"):
        return None
    expected = [SWA if layer % WINDOWED_OF else FULL for layer in range(len(layers))]
    return None if layers == expected else f"layer_types are not those of a window pattern of {WINDOWED_OF}"


def uncapped(hparams: Hparams) -> str | None:
    """The scores of experts are not capped."""
    said = hparams.number("moe_router_logit_softcapping")
    return None if said in (None, 0.0) else f"it ignores moe_router_logit_softcapping {said:g}"


MIXTURE = (
    *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
    T("mlp.experts.e_score_correction_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts"),
    *shared_expert("shared_expert_intermediate_size", "mlp.shared_expert"),
)

LAGUNA = Family(
    name="laguna",
    gguf="laguna",
    hf=("LagunaForCausalLM",),
    defaults={
        "laguna": {
            "vocab_size": 100352, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 40,
            "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-6, "rope_theta": 500000.0, "rope_local_base_freq": 10000.0,
            "tie_word_embeddings": False, "sliding_window": 512, "num_local_experts": 256, "num_experts_per_tok": 8,
            "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "moe_routed_scaling_factor": 1.0,
            "gating": True, "partial_rotary_factor": 0.5,
        },
    },
    outside=OUTSIDE,
    block=(
        *NORMS,
        *without_biases(ATTENTION),
        *QK_NORMS,
        T("self_attn.g_proj.weight", "attn_gate.weight", Role.OTHER, f"{GATES} hidden_size"),
        *at(kind(DENSE), MLP),
        *at(kind(SPARSE), MIXTURE),
    ),
    keys=(
        *keys.without(keys.COMMON, "attention.head_count"),
        keys.of_blocks("attention.head_count", "i32", HEADS),
        keys.VOCAB_SIZE,
        keys.Key("attention.sliding_window", "u32", "sliding_window", nonzero=True),
        *keys.EXPERT_LENGTHS,
        keys.computed("expert_weights_norm", "bool", lambda hparams: True),
        keys.Key("expert_weights_scale", "f32", "moe_routed_scaling_factor"),
        keys.computed("expert_gating_func", "u32", lambda hparams: keys.GATING["sigmoid"]),
        keys.Key("leading_dense_block_count", "u32", "dense_layers"),
        keys.rotated_part(1.0),
        keys.computed("rope.dimension_count_swa", "u32", part_in_windows),
    ),
    drop=(FREQUENCIES,),
    # transformers 5 holds the expert of every token and the correction under the names of other families
    spellings=(
        Rename(r"\.mlp\.gate\.e_score_correction_bias$", ".mlp.experts.e_score_correction_bias"),
        Rename(r"\.mlp\.shared_experts\.", ".mlp.shared_expert."),
    ),
    derive=(
        unlike_layers,
        lambda hparams: {"mlp_layer_types": dense_first(hparams)},
        listed("mlp_layer_types", {DENSE: DENSE, SPARSE: SPARSE}),
        dense_layers,
    ),
    assumes=(assumptions.silu, assumptions.yarn_temperature, windows, uncapped),
    tokens=TokenizerRules(turn_end=True, control=("</assistant>",)),
    computes=frozenset({
        PER_LAYER, "gating", "moe_routed_scaling_factor", "moe_router_logit_softcapping",
        "moe_apply_router_weight_on_input",
    }),
    folds=(
        folds.Fold("input_layernorm", (*folds.QKV, "self_attn.g_proj"), norm=True),
        folds.VALUES,
        *folds.INNER,
    ),
)  # fmt: skip

FAMILIES = (LAGUNA,)
