"""Jamba: Mamba 1 in most layers and attention in the others, experts in some of them; no positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.mamba import each_layer, mamba1
from quantkit.families.layers import TRUNK, both, by_rule, flagged, kind, not_, of_period, period_of
from quantkit.families.layouts import stack
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, EMBEDDING, HEAD, MLP, NORMS, Family, T, at, without_biases
from quantkit.families.spellings import Rename

MAMBA, FULL = "mamba", "attention"


def sizes(hparams: Hparams) -> Mapping[str, Any]:
    """What config.json leaves to be computed."""
    hidden, rank = hparams.count("hidden_size"), hparams.values.get("mamba_dt_rank")
    return {
        "ssm_inner": hparams.count("mamba_expand") * hidden, "one": 1,
        "dt_rank": -(-hidden // 16) if rank in (None, "auto") else rank,
        "mixed": (hparams.number("num_local_experts") or 0) > 1,
    }  # fmt: skip


BACK = {"attention.head_count_kv": "file.kv_heads", "ssm.time_step_rank": "mamba_dt_rank"}


def of_file(hparams: Hparams) -> Mapping[str, Any]:
    """Which layers are of which kind, by their tensors. Raises UnsupportedError for layers that no period gives."""
    there, count = hparams.values["file.tensors"], hparams.count(TRUNK)
    inner = hparams.number("ssm_inner")
    found: dict[str, Any] = {
        "num_key_value_heads": max(each_layer(hparams.values.get("file.kv_heads"), count)),
        "mamba_expand": int(inner // hparams.count("hidden_size")) if inner else 0,
        "mamba_conv_bias": any(name.endswith(".ssm_conv1d.bias") for name in there),
    }
    for kind_of, tensor in (("attn", "attn_q.weight"), ("expert", "ffn_gate_inp.weight")):
        layers = [layer for layer in range(count) if f"blk.{layer}.{tensor}" in there]
        found[f"{kind_of}_layer_period"], found[f"{kind_of}_layer_offset"] = period_of(layers, count)
    return found


NORMS_INSIDE = (
    T("mamba.dt_layernorm.weight", "ssm_dt_norm.weight", Role.NORM, "dt_rank"),
    T("mamba.b_layernorm.weight", "ssm_b_norm.weight", Role.NORM, "ssm_state"),
    T("mamba.c_layernorm.weight", "ssm_c_norm.weight", Role.NORM, "ssm_state"),
)
DENSE = tuple(replace(t, source=t.source.replace("mlp.", "feed_forward.")) for t in without_biases(MLP))
MIXED = both(flagged("mixed"), of_period("expert_layer_period", "expert_layer_offset"))
INNER, OUTER = "intermediate_size hidden_size", "hidden_size intermediate_size"

JAMBA = Family(
    name="jamba",
    gguf="jamba",
    hf=("JambaForCausalLM",),
    defaults={
        "jamba": {
            "vocab_size": 65536, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "num_local_experts": 16, "num_experts_per_tok": 2,
            "expert_layer_period": 2, "expert_layer_offset": 1, "attn_layer_period": 8, "attn_layer_offset": 4,
            "ssm_state": 16, "ssm_conv": 4, "mamba_expand": 2, "mamba_dt_rank": "auto",
        },
    },
    outside=(EMBEDDING, T("model.final_layernorm.weight", "output_norm.weight", Role.NORM, "hidden_size"), HEAD),
    block=(
        NORMS[0],
        T("pre_ff_layernorm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        *at(kind(FULL), without_biases(ATTENTION)),
        *at(kind(MAMBA), (*mamba1("mamba", "ssm_inner", "ssm_state", "ssm_conv"), *NORMS_INSIDE)),
        *at(not_(MIXED), DENSE),
        *at(MIXED, (
            T("feed_forward.router.weight", "ffn_gate_inp.weight", Role.ROUTER, "num_local_experts hidden_size"),
            T("feed_forward.experts.{}.gate_proj.weight", "ffn_gate_exps.weight", Role.FFN_GATE, INNER, stack()),
            T("feed_forward.experts.{}.up_proj.weight", "ffn_up_exps.weight", Role.FFN_UP, INNER, stack()),
            T("feed_forward.experts.{}.down_proj.weight", "ffn_down_exps.weight", Role.FFN_DOWN, OUTER, stack()),
        )),
        # the first checkpoints call an MLP the only one of its experts
        *at(not_(MIXED), tuple(
            replace(t, source=t.source.replace("feed_forward.", "feed_forward.experts.{}."), index="one") for t in DENSE
        )),
    ),
    keys=(
        *keys.without(keys.SIZES, "attention.head_count_kv"),
        keys.per_layer("attention.head_count_kv", "i32", "num_key_value_heads", kind(FULL)),
        keys.RMS_EPSILON,
        keys.Key("ssm.conv_kernel", "u32", "ssm_conv"),
        keys.Key("ssm.inner_size", "u32", "ssm_inner"),
        keys.Key("ssm.state_size", "u32", "ssm_state"),
        keys.Key("ssm.time_step_rank", "u32", "dt_rank"),
        keys.Key("expert_count", "u32", "num_local_experts"),
        keys.Key("expert_used_count", "u32", "num_experts_per_tok"),
    ),
    spellings=(Rename(r"\.moe\.", ".feed_forward."),),
    aliases={"mamba_d_state": "ssm_state", "mamba_d_conv": "ssm_conv"},
    derive=(by_rule(FULL, of_period("attn_layer_period", "attn_layer_offset"), MAMBA), sizes),
    assumes=(assumptions.silu,),
    back=BACK,
    graph=of_file,
    computes=frozenset({
        "expert_layer_period", "expert_layer_offset", "attn_layer_period", "attn_layer_offset", "mamba_dt_rank",
    }),
    folds=(
        folds.ATTENTION_IN,
        folds.VALUES,
        folds.Fold("input_layernorm", ("mamba.in_proj",), norm=True),
        folds.Fold("feed_forward.up_proj", ("feed_forward.down_proj",)),
        folds.Fold("feed_forward.experts.{}.up_proj", ("feed_forward.experts.{}.down_proj",), expert=True),
    ),
)  # fmt: skip

FAMILIES = (JAMBA,)
