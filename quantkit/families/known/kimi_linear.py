"""Kimi Linear: linear attention with a gate for each channel (KDA) in most layers, latent attention without positions
in the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.known.deepseek import ATTENTION as LATENT
from quantkit.families.known.mamba import each_layer
from quantkit.families.layers import before, both, by_rule, first_said, flagged, from_, kind, listed, of_period
from quantkit.families.layouts import lead
from quantkit.families.roles import Role
from quantkit.families.rows import MLP, NORMS, OUTSIDE, Family, T, at, experts, shared_expert, without_biases
from quantkit.families.spellings import Rename

LINEAR, FULL = "linear_attention", "full_attention"
SECTION, LISTED, OTHERS = "linear_attn_config", "full_attn_layers", "kda_layers"
KDA, CONV = "linear_num_heads*linear_head_dim", "linear_conv_kernel_dim"
HINT = "run it with transformers or vLLM"


def section(hparams: Hparams) -> Mapping[str, Any]:
    """The numbers of the linear layers, which the first checkpoints keep apart. Raises InputError for lists of layers
    that do not name each layer once."""
    said = hparams.values.get(SECTION)
    if said is None:
        return {"one": 1}
    if not isinstance(said, Mapping):
        raise _bad(SECTION, "is no object")
    names = {
        "head_dim": "linear_head_dim", "num_heads": "linear_num_heads", "short_conv_kernel_size": CONV,
        "gate_lower_bound": "gate_lower_bound",
    }  # fmt: skip
    found = {"one": 1, **{names[key]: value for key, value in said.items() if key in names}}
    if hparams.values.get("layer_types") is not None or LISTED not in said:
        return found
    count, full, linear = hparams.count("num_hidden_layers"), said[LISTED], said.get(OTHERS)
    if not isinstance(full, list) or not all(isinstance(n, int) and 1 <= n <= count for n in full):
        raise _bad(f"{SECTION}.{LISTED}", f"is no list of layers from 1 to {count}")
    layers = [FULL if number in full else LINEAR for number in range(1, count + 1)]
    missing = next(
        (n for n, name in enumerate(layers, 1) if isinstance(linear, list) and (n in linear) is (name == FULL)), 0
    )
    if missing:
        raise _bad(f"{SECTION}.{OTHERS}", f"and {LISTED} do not name layer {missing} once")
    return {**found, "layer_types": layers}


def checked(hparams: Hparams) -> Mapping[str, Any]:
    """How many layers have no experts. Raises UnsupportedError for what llama.cpp's graph has no place for."""
    if hparams.number("q_lora_rank") is not None:
        raise UnsupportedError(
            "llama.cpp has no queries from a compressed row in Kimi Linear", key="q_lora_rank", hint=HINT
        )
    heads, linear = hparams.count("num_attention_heads"), hparams.count("linear_num_heads")
    if heads != linear:
        what = f"linear layers have {linear} heads and the others {heads}, llama.cpp runs only the same number"
        raise UnsupportedError(what, key="linear_num_heads", hint=HINT)
    kinds, dense = hparams.values.get("mlp_layer_types"), int(hparams.number("first_k_dense_replace") or 0)
    if isinstance(kinds, list):
        dense = next((n for n, word in enumerate(kinds) if word != "dense"), len(kinds))
        if "dense" in kinds[dense:]:
            what = "llama.cpp runs layers without experts only before all with experts"
            raise UnsupportedError(what, key="mlp_layer_types", hint=HINT)
    return {
        "dense_layers": dense, "one": 1, "compressed": False, "tied": hparams.flag("tie_word_embeddings"),
        "layer_types": [LINEAR if word == LINEAR else FULL for word in hparams.values["layer_kinds"]],
    }  # fmt: skip


def _bad(key: str, what: str) -> InputError:
    return InputError(f"config.json: {key} {what}", key=key, path="config.json", hint=CONFIG_HINT)


def activation(hparams: Hparams) -> object:
    """How a router's scores become weights: config.json says it, or transformers' sigmoid."""
    said = hparams.values.get("moe_router_activation_func", "sigmoid")
    if not isinstance(said, str) or said not in keys.GATING:
        raise UnsupportedError(
            f"moe_router_activation_func is {str(said)[:40]!r}", key="moe_router_activation_func",
            hint=f"known: {', '.join(keys.GATING)}",
        )  # fmt: skip
    return keys.GATING[said]


def renormalized(hparams: Hparams) -> str | None:
    """The weights of the chosen experts add up to 1."""
    said = hparams.values.get("moe_renormalize", True)
    return None if said is True else f"moe_renormalize is {str(said)[:20]}, it normalizes"


def ungrouped(hparams: Hparams) -> str | None:
    """Experts are chosen from all, not from groups."""
    groups = hparams.number("num_expert_group")
    return None if groups in (None, 0, 1) else f"num_expert_group is {groups:g}, it has no groups"


def every_layer(hparams: Hparams) -> str | None:
    """All layers after the dense ones have experts."""
    said = hparams.number("moe_layer_freq")
    return None if said in (None, 1) else f"moe_layer_freq is {said:g}, it takes 1"


def without_positions(hparams: Hparams) -> str | None:
    """Nothing is rotated."""
    return "mla_use_nope is false, it rotates nothing" if hparams.values.get("mla_use_nope") is False else None


BACK = {
    "attention.head_count_kv": "file.kv_heads", "attention.key_length": "file.key_length",
    "attention.value_length": "head_dim", "attention.key_length_mla": "qk_head_dim",
    "rope.dimension_count": "qk_rope_head_dim", "leading_dense_block_count": "first_k_dense_replace",
}  # fmt: skip


def of_file(hparams: Hparams) -> Mapping[str, Any]:
    """The kinds of layers by the file's heads of keys for each, and the numbers that are one number in it."""
    heads = each_layer(hparams.values.get("file.kv_heads"), hparams.count("num_hidden_layers"))
    dense = hparams.count("first_k_dense_replace")
    return {
        "layer_types": [FULL if count else LINEAR for count in heads],
        "mlp_layer_types": ["dense" if layer < dense else "sparse" for layer in range(len(heads))],
        "num_key_value_heads": hparams.values.get("num_attention_heads"),
        "linear_num_heads": hparams.values.get("num_attention_heads"),
        "qk_nope_head_dim": hparams.count("qk_head_dim") - hparams.count("qk_rope_head_dim"),
        "moe_router_activation_func": hparams.values.get("scoring_func"),
        "mla_use_nope": True,
        "partial_rotary_factor": None,
    }


ATTN = (("q", Role.ATTN_Q), ("k", Role.ATTN_K), ("v", Role.ATTN_V))
DELTA = (
    *(T(f"self_attn.{n}_proj.weight", f"attn_{n}.weight", role, f"{KDA} hidden_size") for n, role in ATTN),
    *(T(f"self_attn.{n}_conv1d.weight", f"ssm_conv1d_{n}.weight", Role.OTHER, f"{KDA} 1 {CONV}", lead)
      for n, _ in ATTN),
    T("self_attn.f_a_proj.weight", "ssm_f_a.weight", Role.OTHER, "linear_head_dim hidden_size"),
    T("self_attn.f_b_proj.weight", "ssm_f_b.weight", Role.OTHER, f"{KDA} linear_head_dim"),
    T("self_attn.b_proj.weight", "ssm_beta.weight", Role.OTHER, "linear_num_heads hidden_size"),
    T("self_attn.A_log", "ssm_a", Role.OTHER, "1 1 linear_num_heads 1", value="-exp"),
    T("self_attn.dt_bias", "ssm_dt.bias", Role.BIAS, KDA),
    T("self_attn.g_a_proj.weight", "ssm_g_a.weight", Role.OTHER, "linear_head_dim hidden_size"),
    T("self_attn.g_b_proj.weight", "ssm_g_b.weight", Role.OTHER, f"{KDA} linear_head_dim"),
    T("self_attn.o_norm.weight", "ssm_norm.weight", Role.NORM, "linear_head_dim"),
    T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, f"hidden_size {KDA}"),
)  # fmt: skip
MIXTURE = (
    *experts("moe_intermediate_size", "block_sparse_moe", "w1", "w3", "w2"),
    T("block_sparse_moe.gate.e_score_correction_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts"),
    *shared_expert("n_shared_experts*moe_intermediate_size", "block_sparse_moe.shared_experts"),
)
KIMI_LINEAR = Family(
    name="kimi_linear",
    gguf="kimi-linear",
    hf=("KimiLinearForCausalLM",),
    defaults={
        "kimi_linear": {
            "vocab_size": 163840, "hidden_size": 2304, "intermediate_size": 9216, "moe_intermediate_size": 1024,
            "num_hidden_layers": 27, "num_attention_heads": 32, "num_key_value_heads": 32, "kv_lora_rank": 512,
            "q_lora_rank": None, "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128,
            "num_local_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1, "topk_group": 1,
            "routed_scaling_factor": 2.446, "max_position_embeddings": 1048576, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False, "attention_bias": False, "linear_head_dim": 128, "linear_num_heads": 32,
            CONV: 4, "first_k_dense_replace": 1,
        },
    },
    outside=(
        *OUTSIDE,
        # llama.cpp takes no embeddings for a head here
        T("model.embed_tokens.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size", where=flagged("tied")),
    ),
    block=(
        *NORMS,
        *at(kind(LINEAR), DELTA),
        *(replace(t, where=both(kind(FULL), t.where)) for t in without_biases(LATENT)),
        *at(before("dense_layers"), without_biases(MLP)),
        *at(from_("dense_layers"), MIXTURE),
    ),
    keys=(
        *keys.without(keys.COMMON, "attention.head_count_kv", "attention.key_length", "attention.value_length"),
        keys.per_layer("attention.head_count_kv", "i32", "one", kind(FULL)),
        keys.Key("attention.key_length", "u32", "kv_lora_rank+qk_rope_head_dim"),
        keys.Key("attention.value_length", "u32", "head_dim"),
        keys.Key("attention.key_length_mla", "u32", "qk_nope_head_dim+qk_rope_head_dim"),
        keys.Key("attention.value_length_mla", "u32", "v_head_dim"),
        keys.Key("attention.kv_lora_rank", "u32", "kv_lora_rank"),
        keys.VOCAB_SIZE,
        keys.Key("rope.dimension_count", "u32", "qk_rope_head_dim"),
        keys.Key("ssm.conv_kernel", "u32", CONV),
        keys.Key("kda.head_dim", "u32", "linear_head_dim"),
        keys.Key("expert_group_used_count", "u32", "topk_group"),
        keys.computed("expert_gating_func", "u32", activation),
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        keys.Key("expert_shared_count", "u32", "n_shared_experts"),
        keys.Key("leading_dense_block_count", "u32", "dense_layers"),
        keys.Key("expert_weights_scale", "f32", "routed_scaling_factor"),
    ),
    # transformers 5 saves every MLP under the name of experts, and holds those in memory under that of MLPs
    spellings=(
        Rename(r"\.block_sparse_moe\.((?:gate|up|down)_proj\.)", r".mlp.\1"),
        Rename(r"\.mlp\.(gate\.|shared_experts\.)", r".block_sparse_moe.\1"),
        Rename(r"\.forget_gate\.", "."),
    ),
    aliases={
        "num_experts_per_token": "num_experts_per_tok", "num_shared_experts": "n_shared_experts",
        "model_max_length": "max_position_embeddings",
    },
    derive=(
        section,
        first_said("layer_types", listed("layer_types", {LINEAR: LINEAR, FULL: FULL}),
                   by_rule(FULL, both(from_("one"), of_period(4)), LINEAR)),
        checked,
    ),
    assumes=(assumptions.silu, renormalized, ungrouped, every_layer, without_positions),
    back=BACK,
    graph=of_file,
    computes=frozenset({
        SECTION, "linear_head_dim", "linear_num_heads", CONV, "num_experts_per_token", "moe_renormalize",
        "num_expert_group", "num_shared_experts", "model_max_length", "moe_router_activation_func",
    }),
    folds=folds.INNER,
    renamed=("model.layers.{}.mlp.gate", *(f"model.layers.{{}}.self_attn.forget_gate.f_{n}_proj" for n in "ab")),
)  # fmt: skip

FAMILIES = (KIMI_LINEAR,)
