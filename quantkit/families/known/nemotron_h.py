"""Nemotron-H, Nemotron Nano 2 and Nemotron 3: one mixer a layer, which is a Mamba 2, attention, an MLP or experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError
from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.known.mamba import BACKBONE, SSM_KEYS, each_layer, inner_sizes, mamba2, mixer_of_file, unclamped
from quantkit.families.layers import (
    AFTER_TRUNK,
    KINDS,
    TRUNK,
    both,
    either,
    first_said,
    flagged,
    further,
    kind,
    lettered,
    listed,
)
from quantkit.families.layouts import stack
from quantkit.families.placements import rope_rows
from quantkit.families.roles import Role
from quantkit.families.rows import PRESENT, Condition, Family, T, at
from quantkit.families.spellings import Rename

MAMBA, ATTENTION, MLP, MOE = "mamba", "attention", "mlp", "moe"
PATTERN, LIST = "hybrid_override_pattern", "layers_block_type"
LETTERS = {"M": MAMBA, "*": ATTENTION, "-": MLP, "E": MOE}
WORDS = {
    "mamba": MAMBA, "linear_attention": MAMBA, "attention": ATTENTION, "full_attention": ATTENTION, "mlp": MLP,
    "moe": MOE,
}  # fmt: skip


def count_layers(hparams: Hparams) -> Mapping[str, Any]:
    """The number of layers, which a list of their kinds says, and which a pattern may say."""
    said, pattern = hparams.values.get(LIST), hparams.values.get(PATTERN)
    if isinstance(said, list):
        return {TRUNK: len(said)}
    counted = hparams.values.get(TRUNK) is None and isinstance(pattern, str)
    return {TRUNK: len(str(pattern))} if counted else {}


def agreeing(hparams: Hparams) -> Mapping[str, Any]:
    """The kinds of layers as a list. Raises InputError where config.json says them in both ways, and they differ."""
    if hparams.values.get(PATTERN) is not None and hparams.values.get(LIST) is not None:
        other = lettered(PATTERN, LETTERS)(hparams)[KINDS]
        if other != hparams.values[KINDS]:
            layer = next(n for n, pair in enumerate(zip(other, hparams.values[KINDS], strict=True)) if len({*pair}) > 1)
            what = f"config.json: {PATTERN} and {LIST} differ in layer {layer}"
            raise InputError(what, key=PATTERN, path="config.json", hint=CONFIG_HINT)
    return {"layer_types": hparams.values[KINDS]}


def mixture_sizes(hparams: Hparams) -> Mapping[str, Any]:
    """The width that experts read: that of the model, or a narrower one that all of them share."""
    latent = bool(hparams.number("moe_latent_size"))
    return {"latent": latent, "expert_hidden": hparams.count("moe_latent_size" if latent else "hidden_size")}


def kinds_said(said: Mapping[str, Any]) -> frozenset[object]:
    """The kinds of layers that config.json names, known or not."""
    listed_kinds, pattern = said.get(LIST), said.get(PATTERN)
    if isinstance(listed_kinds, list):
        return frozenset(WORDS.get(str(word), str(word)) for word in listed_kinds)
    return frozenset(LETTERS.get(letter, letter) for letter in pattern) if isinstance(pattern, str) else frozenset()


KEYS = (
    keys.blocks,
    keys.Key("context_length", "u32", "endless"),
    keys.Key("embedding_length", "u32", "hidden_size"),
    keys.Key("attention.head_count", "u32", "num_attention_heads"),
    keys.per_layer("attention.head_count_kv", "i32", "num_key_value_heads", either(kind(ATTENTION), AFTER_TRUNK)),
    keys.FREQUENCY_BASE,
    keys.Key("attention.layer_norm_epsilon", "f32", "layer_norm_epsilon"),
    # the one that is read: files of the reference lack it where config.json calls it so, and do not load
    keys.Key("attention.layer_norm_rms_epsilon", "f32", "layer_norm_epsilon"),
    *keys.HEAD_LENGTHS,
    keys.VOCAB_SIZE,
    keys.Key("rope.dimension_count", "u32", "hidden_size//num_attention_heads"),
    keys.computed("rope.scaling.finetuned", "bool", lambda hparams: False),  # positions are not rotated
    *SSM_KEYS,
)

BACK = {
    "attention.head_count_kv": "file.kv_heads", "feed_forward_length": "file.widths",
    "expert_feed_forward_length": "moe_intermediate_size", "context_length": "max_position_embeddings",
}  # fmt: skip


def of_file(hparams: Hparams) -> Mapping[str, Any]:
    """The kinds of layers by the file's heads of keys and widths for each, letters as NVIDIA writes them."""
    values, count = hparams.values, hparams.count(TRUNK)
    heads, widths = (each_layer(values.get(name), count) for name in ("file.kv_heads", "file.widths"))
    wide = "-" if values.get("num_local_experts") is None else "E"
    return {
        **mixer_of_file(hparams, "use_conv_bias"),
        PATTERN: "".join("*" if head else wide if width else "M" for head, width in zip(heads, widths, strict=True)),
        "num_key_value_heads": max(heads),
        "intermediate_size": max(widths),
        "mlp_bias": any(name.endswith(".ffn_up.bias") for name in values["file.tensors"]),
        "partial_rotary_factor": None,  # nothing is rotated
    }


NEMOTRON_H = Family(
    name="nemotron_h",
    gguf="nemotron_h",
    hf=("NemotronHForCausalLM",),
    when=Condition("no layer has experts", lambda said: MOE not in kinds_said(said)),
    defaults={
        "nemotron_h": {
            "vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 21504, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 4096, "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "ssm_state": 128,
            "ssm_heads": 128, "ssm_head_dim": 64, "ssm_groups": 8, "ssm_conv": 4,
        },
    },
    outside=BACKBONE,
    source_block="backbone.layers.{}.",
    block=(
        T("norm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        *at(kind(MAMBA), mamba2("mixer", bias=None)),
        # in the order of a rotation, though there is none: as the reference has them, and the same to attention
        *at(either(kind(ATTENTION), AFTER_TRUNK), (
            T("mixer.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "q_rows hidden_size", rope_rows,
              bias="attention_bias"),
            T("mixer.k_proj.weight", "attn_k.weight", Role.ATTN_K, "kv_rows hidden_size", rope_rows,
              bias="attention_bias"),
            T("mixer.v_proj.weight", "attn_v.weight", Role.ATTN_V, "kv_rows hidden_size", bias="attention_bias"),
            T("mixer.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows",
              bias="attention_bias"),
        )),
        *at(kind(MLP), (
            T("mixer.up_proj.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size", bias=PRESENT),
            T("mixer.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size",
              bias=PRESENT),
        )),
    ),
    keys=(*KEYS, keys.per_layer("feed_forward_length", "i32", "intermediate_size", kind(MLP))),
    spellings=(
        Rename(r"^(?:model\.|(?=(?:layers|norm_f|embeddings)\.))", "backbone."),
        Rename(r"e_score_correction\.bias$", "e_score_correction_bias"),
    ),
    aliases={
        "attention_head_dim": "head_dim", "n_routed_experts": "num_local_experts", "ssm_state_size": "ssm_state",
        "mamba_num_heads": "ssm_heads", "mamba_head_dim": "ssm_head_dim", "n_groups": "ssm_groups",
        "mamba_n_groups": "ssm_groups", "conv_kernel": "ssm_conv", "mamba_d_conv": "ssm_conv",
    },
    derive=(
        count_layers,
        first_said(LIST, listed(LIST, WORDS), lettered(PATTERN, LETTERS)),
        agreeing,
        inner_sizes,
        lambda hparams: {"num_local_experts": None},  # transformers' class has a number of experts for every model
    ),
    back=BACK,
    graph=of_file,
    assumes=(
        assumptions.activation("mlp_hidden_act", "relu2"),
        assumptions.activation("mamba_hidden_act", "silu", "swish"),
        unclamped,
    ),
    computes=frozenset({
        PATTERN, LIST, "layer_norm_epsilon", "mlp_hidden_act", "mamba_hidden_act", "mamba_head_dim", "mamba_num_heads",
        "n_groups", "ssm_state_size", "conv_kernel", "chunk_size", "use_bias", "use_conv_bias", "expand",
        "time_step_min", "moe_latent_size", "moe_shared_expert_intermediate_size",
    }),
    folds=(
        *folds.mamba2("norm", "mixer"),
        folds.Fold("norm", ("mixer.q_proj", "mixer.k_proj", "mixer.v_proj"), norm=True),
        folds.Fold("mixer.v_proj", ("mixer.o_proj",), heads=True),
        folds.Fold("norm", ("mixer.up_proj",), norm=True),
    ),
)  # fmt: skip

INNER, OUTER = "moe_intermediate_size expert_hidden", "expert_hidden moe_intermediate_size"
SHARED, BLOCK = "moe_shared_expert_intermediate_size", "backbone.layers.{}."
MIXTURE_KEYS = (
    keys.Key("expert_count", "u32", "num_local_experts"),
    keys.Key("expert_used_count", "u32", "num_experts_per_tok"),
    *keys.ROUTED,
    keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
    keys.Key("expert_shared_feed_forward_length", "u32", SHARED),
    keys.Key("expert_shared_count", "u32", "n_shared_experts"),
    keys.Key("expert_weights_norm", "bool", "norm_topk_prob"),
    keys.Key("expert_weights_scale", "f32", "routed_scaling_factor"),
    keys.Key("moe_latent_size", "u32", "moe_latent_size", nonzero=True),
)
NEMOTRON_H_MOE = replace(
    NEMOTRON_H,
    name="nemotron_h_moe",
    gguf="nemotron_h_moe",
    when=Condition(
        "layers have experts, and none is an MLP", lambda said: MOE in kinds_said(said) and MLP not in kinds_said(said)
    ),
    defaults={
        "nemotron_h": {
            **NEMOTRON_H.defaults["nemotron_h"], "num_local_experts": 8, "num_experts_per_tok": 2,
            "moe_intermediate_size": 7688, SHARED: 7688, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
            "norm_topk_prob": True, "routed_scaling_factor": 1.0,
        },
    },
    block=(
        *(t for t in NEMOTRON_H.block if t.role not in {Role.FFN_UP, Role.FFN_DOWN}),
        *at(either(kind(MOE), AFTER_TRUNK), (
            T("mixer.gate.weight", "ffn_gate_inp.weight", Role.ROUTER, "num_local_experts hidden_size"),
            T("mixer.gate.e_score_correction_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts"),
            T("mixer.experts.{}.up_proj.weight", "ffn_up_exps.weight", Role.FFN_UP, INNER, stack()),
            T("mixer.experts.{}.down_proj.weight", "ffn_down_exps.weight", Role.FFN_DOWN, OUTER, stack()),
            T("mixer.experts.up_proj", "ffn_up_exps.weight", Role.FFN_UP, f"num_local_experts {INNER}"),
            T("mixer.experts.down_proj", "ffn_down_exps.weight", Role.FFN_DOWN, f"num_local_experts {OUTER}"),
            T("mixer.shared_experts.up_proj.weight", "ffn_up_shexp.weight", Role.FFN_UP, f"{SHARED} hidden_size"),
            T("mixer.shared_experts.down_proj.weight", "ffn_down_shexp.weight", Role.FFN_DOWN, f"hidden_size {SHARED}"),
        )),
        *at(both(flagged("latent"), either(kind(MOE), AFTER_TRUNK)), (
            T("mixer.fc1_latent_proj.weight", "ffn_latent_down.weight", Role.OTHER, "moe_latent_size hidden_size"),
            T("mixer.fc2_latent_proj.weight", "ffn_latent_up.weight", Role.OTHER, "hidden_size moe_latent_size"),
        )),
        *at(AFTER_TRUNK, (
            T("eh_proj.weight", "nextn.eh_proj.weight", Role.OTHER, "hidden_size 2*hidden_size"),
            T("enorm.weight", "nextn.enorm.weight", Role.NORM, "hidden_size"),
            T("hnorm.weight", "nextn.hnorm.weight", Role.NORM, "hidden_size"),
            T("post_attention_layernorm.weight", "post_attention_norm.weight", Role.NORM, "hidden_size"),
            T("shared_head.norm.weight", "nextn.shared_head_norm.weight", Role.NORM, "hidden_size"),
        )),
    ),
    keys=(
        *KEYS,
        keys.per_layer("feed_forward_length", "i32", "moe_intermediate_size", either(kind(MOE), AFTER_TRUNK)),
        *MIXTURE_KEYS,
        keys.Key("nextn_predict_layers", "u32", "num_nextn_predict_layers", nonzero=True),
    ),
    spellings=(
        *NEMOTRON_H.spellings,
        Rename(r"^mtp\.layers\.0\.", BLOCK, "mtp.layers.0."),
        # the block that predicts one token more is stored as two: attention, then experts
        Rename(r"^mtp\.layers\.1\.norm\.", f"{BLOCK}post_attention_layernorm.", "mtp.layers.1.norm."),
        Rename(r"^mtp\.layers\.1\.final_layernorm\.", f"{BLOCK}shared_head.norm.", "mtp.layers.1.final_layernorm."),
        *(
            Rename(rf"^mtp\.layers\.1\.mixer\.{part}\.", f"{BLOCK}mixer.{part}.", f"mtp.layers.1.mixer.{part}.")
            for part in ("gate", "experts", "shared_experts", "fc1_latent_proj", "fc2_latent_proj")
        ),
    ),
    derive=(*NEMOTRON_H.derive[:-1], mixture_sizes),
    folds=NEMOTRON_H.folds[:-1],
    seen=(further("backbone.layers.{}.eh_proj.weight", "num_nextn_predict_layers"),),
)  # fmt: skip

FAMILIES = (NEMOTRON_H, NEMOTRON_H_MOE)
