"""MiMo V2: a mixture whose windows have more heads for keys and values than other layers, and a sink for each head.

Source: conversion/mimo.py of llama.cpp, October 2026. Read are the config.json that Xiaomi publishes and the one that
transformers saves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import BY_LAYER, CONFIG_HINT, Hparams
from quantkit.families.layers import (
    AFTER_TRUNK,
    IN_TRUNK,
    both,
    flagged,
    flagged_layer,
    further,
    not_,
)
from quantkit.families.roles import Role
from quantkit.families.rows import FREQUENCIES, MLP, NORMS, OUTSIDE, Drop, Family, T, at, experts
from quantkit.families.spellings import Rename
from quantkit.tensors import TensorInfo
from quantkit.untrusted import shown

ENCODERS = "it sees or hears, and belongs into a file of its own"
FURTHER, HIDDEN, WINDOW = "num_nextn_predict_layers", "hidden_size", "sliding_attention"
KV_HEADS, IS_WINDOW, IS_MIXTURE, FUSED = "layer_kv_heads", "layer_window", "is_mixture", "fused_qkv"
AFTER = 8  # blocks after the last layer that may be there; three are published
SAME = {"swa_head_dim": "head_dim", "swa_v_head_dim": "v_head_dim", "swa_num_attention_heads": "num_attention_heads"}


def unlike_layers(hparams: Hparams) -> Mapping[str, Any]:
    """Which layers attend to a window, with how many heads for keys and values, and which are mixtures.

    Raises UnsupportedError where heads in windows have another size, InputError for a list of another length.
    """
    values = hparams.values
    other = next((k for k, same in SAME.items() if values.get(k, values[same]) != values[same]), None)
    if other is not None:
        message = f"{other} is {shown(str(hparams.values[other]))}, {SAME[other]} is {hparams.values[SAME[other]]}"
        raise UnsupportedError(message, key=other, hint="llama.cpp knows heads of one size alone")
    count = hparams.count("num_hidden_layers")
    windows = _flags(hparams, count, ("hybrid_layer_pattern", 1), ("layer_types", WINDOW))
    windows = windows or [bool(layer and (layer + 1) % 6) for layer in range(count)]
    mixtures = _flags(hparams, count, ("moe_layer_freq", 1), ("mlp_layer_types", "sparse"))
    mixtures = mixtures or [layer > 0 for layer in range(count)]
    plain = hparams.count("num_key_value_heads")
    inside = hparams.values.get("swa_num_key_value_heads")
    inside = 2 * plain if inside is None else hparams.count("swa_num_key_value_heads")
    layers = [
        {
            KV_HEADS: inside if window else plain,
            IS_WINDOW: int(window),
            "windowed": window,
            IS_MIXTURE: mixture,
        }
        for window, mixture in zip([*windows, *[True] * AFTER], [*mixtures, *[False] * AFTER], strict=True)
    ]
    return {BY_LAYER: layers}


def _flags(hparams: Hparams, count: int, *said: tuple[str, object]) -> list[bool]:
    """Whether each layer is what the first of the lists that are there says; [] where none is."""
    for key, word in said:
        found = hparams.values.get(key)
        if found is None:
            continue
        if not isinstance(found, list) or len(found) != count:
            what = f"has {len(found):,} entries" if isinstance(found, list) else "is no list"
            message = f"config.json: {key} {what}, expected one for each of {count} layers"
            raise InputError(message, key=key, path="config.json", hint=CONFIG_HINT)
        return [one == word for one in found]
    return []


def fused(hparams: Hparams, tensors: Mapping[str, TensorInfo]) -> Mapping[str, Any]:
    """Whether queries, keys and values lie in one matrix. Raises UnsupportedError for one in 8 bits, whose rows lie as
    the machines did that held them."""
    found = any(name.endswith(".self_attn.qkv_proj.weight") for name in tensors)
    if found and hparams.values.get("quantization_config") is not None:
        message = "queries, keys and values in 8 bits lie in one matrix, by the machines that held them"
        raise UnsupportedError(message, key="quantization_config", hint="use llama.cpp's converter for this checkpoint")
    return {FUSED: found}


def unscaled_experts(hparams: Hparams) -> str | None:
    """What experts give is not scaled."""
    scale = hparams.number("routed_scaling_factor")
    return None if scale in (None, 1.0) else f"it ignores routed_scaling_factor {scale:g}"


def window_with_its_token(hparams: Hparams) -> str | None:
    """A window is `sliding_window` tokens with the one that looks, as transformers counts them."""
    before, said = hparams.number("sliding_window_size"), hparams.number("sliding_window")
    if before is None or said is None or said == before + 1:
        return None
    return f"sliding_window_size is {before:g} tokens before each one, it attends to {said - 1:g}"


K_ROWS, V_ROWS, OUT = f"{KV_HEADS}*head", f"{KV_HEADS}*v_head_dim", "num_attention_heads*v_head_dim"
ATTENTION = (
    *at(not_(flagged(FUSED)), (
        T("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "q_rows hidden_size", bias="attention_bias"),
        T("self_attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, f"{K_ROWS} hidden_size", bias="attention_bias"),
        T("self_attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, f"{V_ROWS} hidden_size", bias="attention_bias"),
    )),
    *at(flagged(FUSED), (
        T("self_attn.qkv_proj.weight", "attn_qkv.weight", Role.ATTN_QKV, f"q_rows+{K_ROWS}+{V_ROWS} hidden_size"),
    )),
    T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, f"hidden_size {OUT}"),
    T("self_attn.attention_sink_bias", "attn_sinks.weight", Role.OTHER, "num_attention_heads", optional=True,
      where=flagged_layer("windowed"), sure=both(IN_TRUNK, flagged_layer("windowed"))),
)  # fmt: skip

MIMO2 = Family(
    name="mimo2",
    gguf="mimo2",
    hf=("MiMoV2FlashForCausalLM", "MiMoV2ForCausalLM"),
    defaults={
        "mimo_v2_flash": {
            "vocab_size": 152576, "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 48,
            "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128,
            "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 5e6,
            "rope_local_base_freq": 10000.0, "partial_rotary_factor": 0.334, "tie_word_embeddings": False,
            "num_local_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "n_group": 1,
            "topk_group": 1, "norm_topk_prob": True, "sliding_window": 129, "attention_value_scale": 0.707,
        },
    },
    aliases={
        "n_routed_experts": "num_local_experts", "layernorm_epsilon": "rms_norm_eps",
        "swa_rope_theta": "rope_local_base_freq",
    },
    outside=OUTSIDE,
    block=(
        NORMS[0],
        *at(IN_TRUNK, (NORMS[1],)),
        *ATTENTION,
        *at(both(IN_TRUNK, flagged_layer(IS_MIXTURE)), (
            *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
            T("mlp.gate.e_score_correction_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts"),
        )),
        *at(not_(flagged_layer(IS_MIXTURE)), MLP),
        *at(AFTER_TRUNK, (
            T("pre_mlp_layernorm.weight", "ffn_norm.weight", Role.NORM, HIDDEN),
            T("final_layernorm.weight", "layer_output_norm.weight", Role.NORM, HIDDEN),
            T("eh_proj.weight", "nextn.eh_proj.weight", Role.OTHER, "hidden_size 2*hidden_size"),
            T("enorm.weight", "nextn.enorm.weight", Role.NORM, HIDDEN),
            T("hnorm.weight", "nextn.hnorm.weight", Role.NORM, HIDDEN),
        )),
    ),
    spellings=(
        Rename(r"^model\.mtp\.layers\.([0-9]+)\.", "model.layers.{}."),
        Rename(r"self_attn\.sinks$", "self_attn.attention_sink_bias"),
    ),
    derive=(unlike_layers,),
    seen=(fused, further("model.layers.{}.eh_proj.weight", FURTHER)),
    keys=(
        *keys.without(keys.COMMON, "attention.head_count_kv", "attention.value_length"),
        *keys.ROUTED,
        keys.of_blocks("attention.head_count_kv", "i32", KV_HEADS),
        keys.SLIDING_WINDOW,
        keys.of_blocks("attention.sliding_window_pattern", "i32", IS_WINDOW),
        keys.Key("attention.value_length", "u32", "v_head_dim"),
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        keys.rotated_part(1.0),
        keys.Key("attention.value_scale", "f32", "attention_value_scale"),
        keys.Key("nextn_predict_layers", "u32", FURTHER, nonzero=True),
    ),
    drop=(
        FREQUENCIES,
        *(Drop(f"{part}*", ENCODERS) for part in ("visual.", "audio_encoder.", "speech_embeddings.")),
    ),
    assumes=(assumptions.silu, assumptions.normalized_router, unscaled_experts, window_with_its_token),
    computes=frozenset({"attention_value_scale", "sliding_window_size"}),
    folds=(folds.ATTENTION_IN, folds.MLP_OUT, folds.EXPERT_OUT),
)  # fmt: skip

FAMILIES = (MIMO2,)
