"""Step 3.5: windows with more heads than other layers have, a gate for each head, and a mixture after dense layers.

Source: conversion/step3.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from quantkit.errors import UnsupportedError
from quantkit.families import keys
from quantkit.families.backwards import llama3_settings
from quantkit.families.hparams import BY_LAYER, CONFIG_HINT, MAX_LAYERS, Hparams, bad_value
from quantkit.families.layers import (
    AFTER_TRUNK,
    IN_TRUNK,
    block_count,
    both,
    flagged_layer,
    further,
    not_,
)
from quantkit.families.model import Constant, ModelTensor
from quantkit.families.placements import rope_freqs
from quantkit.families.roles import Role
from quantkit.families.rows import (
    FREQUENCIES,
    MLP,
    NORMS,
    OUTSIDE,
    OWN_CODE,
    QK_NORMS,
    Family,
    T,
    at,
    centered,
    optional,
)
from quantkit.families.spellings import Rename
from quantkit.metadata import KeyValue
from quantkit.untrusted import shown

FURTHER, HIDDEN, WIDTH = "num_nextn_predict_layers", "hidden_size", "moe_intermediate_size"
WINDOW, GLOBAL = "sliding_attention", "full_attention"
HEADS, KV_HEADS, MIXED = "layer_heads", "layer_kv_heads", "is_mixture"
FILE = {name: f"file.{name}" for name in (HEADS, KV_HEADS, "window", "swa", "dense")}  # what keys hold
FRACTION = 0.5  # of a head that is rotated where a layer attends to everything; all of it in windows


def unlike_layers(hparams: Hparams) -> Mapping[str, Any]:
    """How each layer attends, with how many heads, and whether it is a mixture; the bases of the rotation.

    Raises InputError for lists that say something else, UnsupportedError for another part of a head that is rotated.
    """
    trunk = hparams.count("num_hidden_layers")
    blocks = min(trunk + int(hparams.number(FURTHER) or 0), MAX_LAYERS)
    types = _filled(hparams, "layer_types", blocks, GLOBAL)
    rotated = _filled(hparams, "partial_rotary_factors", blocks, FRACTION)
    for layer, (kind, part) in enumerate(zip(types, rotated, strict=True)):
        if part != (1.0 if kind == WINDOW else FRACTION):
            message = f"partial_rotary_factors has {shown(str(part))} for layer {layer}, llama.cpp rotates all of a"
            message += " head in windows and half of it elsewhere"
            raise UnsupportedError(message, key="partial_rotary_factors", hint=CONFIG_HINT)
    inside = hparams.values.get("attention_other_setting") or {}
    if not isinstance(inside, Mapping):
        raise bad_value("attention_other_setting", inside, "an object")
    plain = {HEADS: hparams.count("num_attention_heads"), KV_HEADS: hparams.count("num_key_value_heads")}
    other = Hparams({"num_attention_heads": plain[HEADS], "num_attention_groups": plain[KV_HEADS], **inside})
    windowed = {HEADS: other.count("num_attention_heads"), KV_HEADS: other.count("num_attention_groups")}
    mixtures, head = _mixtures(hparams), hparams.count("head")
    layers = []
    for layer, kind in enumerate(types):
        own = windowed if kind == WINDOW else plain
        rows = {"q_rows": own[HEADS] * head, "kv_rows": own[KV_HEADS] * head}
        layers.append({**own, **rows, "window": kind == WINDOW, MIXED: layer in mixtures})
    bases = hparams.values.get("rope_theta")
    thetas = {"rope_theta": bases[0], "rope_theta_swa": bases[1]} if isinstance(bases, list) and len(bases) > 1 else {}
    return {BY_LAYER: layers, "first_mixture": min(mixtures, default=0), **thetas}


def _filled(hparams: Hparams, key: str, blocks: int, otherwise: object) -> list[Any]:
    """A list with an entry for every block, blocks that it leaves out as full attention has it."""
    said = hparams.values.get(key)
    if said is None:
        said = []
    if not isinstance(said, list) or 0 < len(said) < hparams.count("num_hidden_layers"):
        raise bad_value(key, said, "a list with an entry for each layer")
    return [*said, *[otherwise] * (blocks - len(said))][:blocks]


def _mixtures(hparams: Hparams) -> set[int]:
    """The numbers of the layers that are mixtures: "3,4,5"."""
    said = hparams.values.get("moe_layers_enum")
    if said is None:
        return set(range(hparams.count("num_hidden_layers")))
    parts = said.split(",") if isinstance(said, str) else []
    if not parts or len(parts) > MAX_LAYERS or not all(p.strip().isdecimal() and len(p.strip()) < 7 for p in parts):
        raise bad_value("moe_layers_enum", said, "numbers of layers with commas between")
    return {int(part) for part in parts}


def limits(name: str, kind: Literal["f32"], key: str) -> keys.KeyRow:
    """What SwiGLU is cut off at in each block, 0 for nowhere."""

    def entries(hparams: Hparams) -> Iterable[KeyValue]:
        said, blocks = hparams.values.get(key), block_count(hparams)
        if said is None:
            return
        if not isinstance(said, list) or len(said) > MAX_LAYERS:
            raise bad_value(key, said, "a list of numbers")
        values = [0.0 if value is None else Hparams({key: value}).required(key) for value in said]
        yield KeyValue(name, kind, tuple([*values, *[0.0] * blocks][:blocks]), array=True)

    return entries


def half_rotated(hparams: Hparams) -> tuple[ModelTensor, ...]:
    """Frequency factors of the half that is rotated, filled up with 1 to those of a whole head."""
    part = int(hparams.count("head") * FRACTION)
    found = rope_freqs(replace(hparams, values={**hparams.values, "head": part}))
    if not found:
        return ()
    [factors] = [part.data for part in found[0].parts if isinstance(part, Constant)]
    filled = np.ones(hparams.count("head") // 2)
    filled[: len(factors)] = factors
    return (replace(found[0], shape=filled.shape, parts=(Constant(tuple(filled.tolist())),)),)


def _of_each(hparams: Hparams, name: str, trunk: int) -> list[Any]:
    said = hparams.values.get(FILE[name])
    if not isinstance(said, list) or len(said) < trunk:
        raise bad_value(name, said, "a list with an entry for each layer")
    return said


def of_file(hparams: Hparams) -> Mapping[str, Any]:
    """The lists of config.json, by those of a file and by the layers that have a router. Raises InputError for lists
    that are none."""
    trunk = hparams.count("num_hidden_layers")
    window, heads, kv_heads = (_of_each(hparams, name, trunk) for name in ("window", HEADS, KV_HEADS))
    first, other = (next((n for n, flag in enumerate(window) if flag is which), 0) for which in (False, True))
    bases = {False: hparams.required("rope_theta"), True: hparams.required(FILE["swa"])}
    routed = (n for n in range(trunk) if f"blk.{n}.ffn_gate_inp.weight" in hparams.values["file.tensors"])
    found = {
        "num_attention_heads": heads[first], "num_key_value_heads": kv_heads[first],
        "attention_other_setting": {"num_attention_heads": heads[other], "num_attention_groups": kv_heads[other]},
        "layer_types": [WINDOW if flag else GLOBAL for flag in window],
        "partial_rotary_factors": [1.0 if flag else FRACTION for flag in window],
        "rope_theta": [bases[flag] for flag in window],
        "moe_layers_enum": ",".join(map(str, routed)),
        "moe_router_activation": hparams.values.get("scoring_func"),
    }  # fmt: skip
    factors = hparams.values["file.rope_freqs"]
    if factors:
        found["rope_scaling"] = llama3_settings(factors[: int(len(factors) * FRACTION)], bases[False])
    return found


IS_MIXED = flagged_layer(MIXED)
ATTENTION = (
    T("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "q_rows hidden_size"),
    T("self_attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, "kv_rows hidden_size"),
    T("self_attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, "kv_rows hidden_size"),
    T("self_attn.g_proj.weight", "attn_gate.weight", Role.OTHER, f"{HEADS} hidden_size"),
    T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
)
EXPERTS, INNER, OUTER = "num_local_experts", f"{WIDTH} hidden_size", f"hidden_size {WIDTH}"
MIXTURE = (
    T("moe.gate.weight", "ffn_gate_inp.weight", Role.ROUTER, f"{EXPERTS} hidden_size"),
    T("moe.router_bias", "exp_probs_b.bias", Role.BIAS, EXPERTS),
    T("moe.gate_proj.weight", "ffn_gate_exps.weight", Role.FFN_GATE, f"{EXPERTS} {INNER}"),
    T("moe.up_proj.weight", "ffn_up_exps.weight", Role.FFN_UP, f"{EXPERTS} {INNER}"),
    T("moe.down_proj.weight", "ffn_down_exps.weight", Role.FFN_DOWN, f"{EXPERTS} {OUTER}"),
    T("share_expert.gate_proj.weight", "ffn_gate_shexp.weight", Role.FFN_GATE, "share_expert_dim hidden_size"),
    T("share_expert.up_proj.weight", "ffn_up_shexp.weight", Role.FFN_UP, "share_expert_dim hidden_size"),
    T("share_expert.down_proj.weight", "ffn_down_shexp.weight", Role.FFN_DOWN, "hidden_size share_expert_dim"),
)

STEP35 = Family(
    name="step35",
    gguf="step35",
    hf=("Step3p5ForCausalLM",),
    defaults={
        "step3p5": {
            "vocab_size": 128896, "hidden_size": 4096, "intermediate_size": 11264, "num_hidden_layers": 45,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "moe_every_n_layer": 1,
        },
    },
    aliases={
        "num_attention_groups": "num_key_value_heads", "moe_num_experts": EXPERTS, "moe_top_k": "num_experts_per_tok",
    },
    outside=centered(OUTSIDE),
    block=(
        *centered(NORMS),
        *ATTENTION,
        *centered(QK_NORMS),
        *at(both(IN_TRUNK, IS_MIXED), MIXTURE),
        *at(both(IN_TRUNK, not_(IS_MIXED)), MLP),
        *at(AFTER_TRUNK, (
            *optional((*MLP, *MIXTURE)),
            T("eh_proj.weight", "nextn.eh_proj.weight", Role.OTHER, "hidden_size 2*hidden_size"),
            *centered((
                T("enorm.weight", "nextn.enorm.weight", Role.NORM, HIDDEN),
                T("hnorm.weight", "nextn.hnorm.weight", Role.NORM, HIDDEN),
                *optional((
                    T("transformer.shared_head.norm.weight", "nextn.shared_head_norm.weight", Role.NORM, HIDDEN),
                )),
            )),
            *optional((
                T("transformer.shared_head.output.weight", "nextn.shared_head_head.weight", Role.OTHER,
                  "vocab_size hidden_size"),
                T("embed_tokens.weight", "nextn.embed_tokens.weight", Role.OTHER, "vocab_size hidden_size"),
            )),
        )),
    ),
    spellings=(
        Rename(r"(?<!\.transformer)\.shared_head\.", ".transformer.shared_head."),
        Rename(r"shared_head\.head", "shared_head.output"),
    ),
    derive=(unlike_layers,),
    seen=(further("model.layers.{}.eh_proj.weight", FURTHER),),
    keys=(
        *keys.without(keys.COMMON, "attention.head_count", "attention.head_count_kv"),
        keys.gating,
        keys.of_blocks("attention.head_count", "i32", HEADS),
        keys.of_blocks("attention.head_count_kv", "i32", KV_HEADS),
        keys.SLIDING_WINDOW,
        keys.of_blocks("attention.sliding_window_pattern", "bool", "window"),
        keys.Key("expert_feed_forward_length", "u32", WIDTH),
        keys.Key("expert_shared_feed_forward_length", "u32", "share_expert_dim"),
        keys.Key("expert_weights_scale", "f32", "moe_router_scaling_factor"),
        keys.Key("expert_weights_norm", "bool", "norm_expert_weight"),
        keys.Key("leading_dense_block_count", "u32", "first_mixture"),
        keys.Key("moe_every_n_layers", "u32", "moe_every_n_layer"),
        limits("swiglu_clamp_exp", "f32", "swiglu_limits"),
        limits("swiglu_clamp_shexp", "f32", "swiglu_limits_shared"),
        keys.Key("nextn_predict_layers", "u32", FURTHER, nonzero=True),
    ),
    drop=(FREQUENCIES,),
    extra=half_rotated,
    back={
        "attention.head_count": FILE[HEADS], "attention.head_count_kv": FILE[KV_HEADS],
        "attention.sliding_window_pattern": FILE["window"], "rope.freq_base_swa": FILE["swa"],
        "leading_dense_block_count": FILE["dense"], "swiglu_clamp_exp": "swiglu_limits",
        "swiglu_clamp_shexp": "swiglu_limits_shared",
    },
    graph=of_file,
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (STEP35,)
