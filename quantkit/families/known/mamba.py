"""Mamba 1 and 2: no attention at all. The rows of a Mamba 2 mixer serve hybrids, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.layouts import column, split, squeeze
from quantkit.families.roles import Role
from quantkit.families.rows import (
    PRESENT,
    Family,
    T,
)

ENDLESS = 1 << 20  # the context of a model without positions


def inner_sizes(hparams: Hparams) -> Mapping[str, Any]:
    """The width inside a Mamba 2 mixer and the channels of its convolution."""
    heads, width = hparams.count("ssm_heads"), hparams.count("ssm_head_dim")
    groups, state = hparams.count("ssm_groups"), hparams.count("ssm_state")
    inner = heads * width
    return {"ssm_inner": inner, "ssm_channels": inner + 2 * groups * state, "endless": ENDLESS, "zero": 0}


def mamba1(module: str, inner: str, state: str, kernel: str) -> tuple[T, ...]:
    """The tensors of a Mamba 1 mixer, by the names of its numbers."""
    return (
        T(f"{module}.in_proj.weight", "ssm_in.weight", Role.OTHER, f"2*{inner} hidden_size"),
        T(f"{module}.conv1d.weight", "ssm_conv1d.weight", Role.OTHER, f"{inner} 1 {kernel}", squeeze),
        T(f"{module}.conv1d.bias", "ssm_conv1d.bias", Role.BIAS, inner, optional=True),
        T(f"{module}.x_proj.weight", "ssm_x.weight", Role.OTHER, f"dt_rank+2*{state} {inner}"),
        T(f"{module}.dt_proj.weight", "ssm_dt.weight", Role.OTHER, f"{inner} dt_rank"),
        T(f"{module}.dt_proj.bias", "ssm_dt.bias", Role.BIAS, inner),
        T(f"{module}.A_log", "ssm_a", Role.OTHER, f"{inner} {state}", value="-exp"),
        T(f"{module}.D", "ssm_d", Role.OTHER, inner),
        T(f"{module}.out_proj.weight", "ssm_out.weight", Role.OTHER, f"hidden_size {inner}"),
    )


def mamba2(module: str, bias: str | None = PRESENT) -> tuple[T, ...]:
    """The tensors of a Mamba 2 mixer; `bias` is that of its projections."""
    return (
        T(f"{module}.in_proj.weight", "ssm_in.weight", Role.OTHER, "ssm_inner+ssm_channels+ssm_heads hidden_size",
          bias=bias),
        T(f"{module}.conv1d.weight", "ssm_conv1d.weight", Role.OTHER, "ssm_channels 1 ssm_conv", squeeze),
        T(f"{module}.conv1d.bias", "ssm_conv1d.bias", Role.BIAS, "ssm_channels", optional=True),
        T(f"{module}.A_log", "ssm_a", Role.OTHER, "ssm_heads", column, value="-exp"),
        T(f"{module}.D", "ssm_d", Role.OTHER, "ssm_heads", column),
        T(f"{module}.dt_bias", "ssm_dt.bias", Role.BIAS, "ssm_heads"),
        T(f"{module}.norm.weight", "ssm_norm.weight", Role.NORM, "ssm_inner",
          split("ssm_groups", "ssm_inner//ssm_groups")),
        T(f"{module}.out_proj.weight", "ssm_out.weight", Role.OTHER, "hidden_size ssm_inner", bias=bias),
    )  # fmt: skip


SSM_KEYS = (
    keys.Key("ssm.conv_kernel", "u32", "ssm_conv"),
    keys.Key("ssm.inner_size", "u32", "ssm_inner"),
    keys.Key("ssm.state_size", "u32", "ssm_state"),
    keys.Key("ssm.time_step_rank", "u32", "ssm_heads"),
    keys.Key("ssm.group_count", "u32", "ssm_groups"),
)


def mixer_of_file(hparams: Hparams, biased: str = "mamba_conv_bias") -> Mapping[str, Any]:
    """What a file says of its Mamba 2 mixers, as config.json has it: the width of a head, and by the flag `biased`
    whether convolutions have biases."""
    inner, heads = hparams.number("ssm_inner"), hparams.number("ssm_heads")
    has = any(name.endswith(".ssm_conv1d.bias") for name in hparams.values["file.tensors"])
    return {"ssm_head_dim": int(inner // heads) if inner and heads else None, biased: has}


def each_layer(said: object, count: int) -> list[int]:
    """A number for each of `count` layers, of a file's list or of its one number for all; 0 where it says nothing."""
    if isinstance(said, list):
        return [*said[:count], *[0] * (count - len(said))]
    return [said if isinstance(said, int) else 0] * count


BACKBONE = (
    T("backbone.embeddings.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
    T("backbone.norm_f.weight", "output_norm.weight", Role.NORM, "hidden_size"),
    T("lm_head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size", unless="tie_word_embeddings"),
)
NO_ATTENTION = {"num_attention_heads": 0, "num_key_value_heads": None, "tie_word_embeddings": False}
RECURRENT_KEYS = (
    keys.Key("context_length", "u32", "endless"),
    keys.Key("embedding_length", "u32", "hidden_size"),
    keys.Key("feed_forward_length", "u32", "zero"),
    keys.Key("attention.head_count", "u32", "zero"),
    keys.blocks,
    keys.Key("attention.layer_norm_rms_epsilon", "f32", "layer_norm_epsilon"),
)

COMPUTES = frozenset({
    "state_size", "conv_kernel", "expand", "time_step_rank", "layer_norm_epsilon", "residual_in_fp32", "use_bias",
    "use_conv_bias",
})  # fmt: skip


def mamba_sizes(hparams: Hparams) -> Mapping[str, Any]:
    """The numbers of a Mamba 1 that config.json may leave out."""
    hidden = hparams.count("hidden_size")
    rank = hparams.values.get("time_step_rank")
    return {
        "intermediate_size": 2 * hidden, "dt_rank": -(-hidden // 16) if rank in (None, "auto") else rank,
        "endless": ENDLESS, "zero": 0, "max_position_embeddings": ENDLESS,
    }  # fmt: skip


def doubled(hparams: Hparams) -> str | None:
    """The inner width is twice the outer."""
    said = hparams.number("expand")
    return None if said in (None, 2) else f"expand is {said:g}, it takes 2"


def unclamped(hparams: Hparams) -> str | None:
    """Time steps are not limited."""
    said = hparams.values.get("time_step_limit")
    if not isinstance(said, (list, tuple)) or len(said) != 2:
        return None
    low, high = (None if isinstance(limit, Mapping) else limit for limit in said)
    endless = high is None or high == float("inf") or high == "Infinity"
    return None if low in (None, 0) and endless else f"it ignores time_step_limit {said}"


def one_epsilon(hparams: Hparams) -> str | None:
    """The norms inside a mixer of Falcon-Mamba have the epsilon of the others."""
    inside, outside = hparams.number("mixer_rms_eps"), hparams.required("layer_norm_epsilon")
    return None if inside in (None, outside) else f"mixer_rms_eps is {inside:g}, it takes {outside:g}"


MAMBA = Family(
    name="mamba",
    gguf="mamba",
    hf=("MambaForCausalLM", "FalconMambaForCausalLM"),
    defaults={
        "mamba": {
            **NO_ATTENTION, "vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 32, "state_size": 16,
            "conv_kernel": 4, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
        },
        "falcon_mamba": {
            **NO_ATTENTION, "vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 32, "state_size": 16,
            "conv_kernel": 4, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "mixer_rms_eps": 1e-6,
        },
    },
    outside=BACKBONE,
    source_block="backbone.layers.{}.",
    block=(
        T("norm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        *mamba1("mixer", "intermediate_size", "state_size", "conv_kernel"),
    ),
    keys=(
        *RECURRENT_KEYS,
        keys.Key("ssm.conv_kernel", "u32", "conv_kernel"),
        keys.Key("ssm.inner_size", "u32", "intermediate_size"),
        keys.Key("ssm.state_size", "u32", "state_size"),
        keys.Key("ssm.time_step_rank", "u32", "dt_rank"),
        keys.computed("ssm.dt_b_c_rms", "bool", lambda hparams: hparams.values.get("model_type") == "falcon_mamba"),
    ),
    computes=COMPUTES | {"intermediate_size", "mixer_rms_eps"},
    derive=(mamba_sizes,),
    assumes=(doubled, one_epsilon),
)  # fmt: skip


def only_mamba(hparams: Hparams) -> Mapping[str, Any]:
    """A context without end, no MLP."""
    return {"max_position_embeddings": ENDLESS, "intermediate_size": None}


def of_mamba2_file(hparams: Hparams) -> Mapping[str, Any]:
    """The mixer's numbers, and how many times it is as wide as the model."""
    return {**mixer_of_file(hparams, "use_conv_bias"), "expand": hparams.size("ssm_inner//hidden_size")}


MAMBA2 = Family(
    name="mamba2",
    gguf="mamba2",
    hf=("Mamba2ForCausalLM",),
    defaults={
        "mamba2": {
            **NO_ATTENTION, "vocab_size": 32768, "hidden_size": 4096, "num_hidden_layers": 64, "ssm_state": 128,
            "ssm_conv": 4, "ssm_heads": 128, "ssm_head_dim": 64, "ssm_groups": 8, "layer_norm_epsilon": 1e-5,
        },
    },
    outside=BACKBONE,
    source_block="backbone.layers.{}.",
    block=(T("norm.weight", "attn_norm.weight", Role.NORM, "hidden_size"), *mamba2("mixer")),
    keys=(*RECURRENT_KEYS, *SSM_KEYS),
    aliases={
        "state_size": "ssm_state", "conv_kernel": "ssm_conv", "num_heads": "ssm_heads", "head_dim": "ssm_head_dim",
        "n_groups": "ssm_groups",
    },
    computes=COMPUTES | {"num_heads", "n_groups", "chunk_size"},
    derive=(inner_sizes, only_mamba),
    graph=of_mamba2_file,
)  # fmt: skip

FAMILIES = (MAMBA, MAMBA2)
