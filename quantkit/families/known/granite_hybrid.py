"""Granite 4: layers of Mamba 2 and of attention, or of attention alone, each with an MLP or with experts.

All of them are one architecture of transformers. llama.cpp has a graph for those with Mamba layers; the others are a
Granite, or one with experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.granite import GRANITE, SCALES, head_lengths
from quantkit.families.known.granite_moe import MIXTURE, SHARED, SHARED_EXPERT
from quantkit.families.known.mamba import SSM_KEYS, doubled, each_layer, inner_sizes, mamba2, mixer_of_file, unclamped
from quantkit.families.layers import TRUNK, by_rule, every, first_said, flagged, kind, listed, not_
from quantkit.families.placements import first_half, second_half
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, NORMS, Condition, Family, T, at, rotated

MAMBA, FULL = "mamba", "attention"
WORDS = {"mamba": MAMBA, "linear_attention": MAMBA, "attention": FULL, "full_attention": FULL}


def mixer_head(hparams: Hparams) -> int:
    """The width of a head of a Mamba layer. Raises UnsupportedError for a mixer not twice as wide as the model."""
    heads, hidden = hparams.count("ssm_heads"), hparams.count("hidden_size")
    said = hparams.values.get("ssm_head_dim")
    head = 2 * hidden // heads if said in (None, "auto") else hparams.count("ssm_head_dim")
    if heads * head != 2 * hidden and has_mamba(hparams.values):
        what = (
            f"the Mamba layers are {heads * head} wide, llama.cpp runs only those of twice hidden_size ({2 * hidden})"
        )
        raise UnsupportedError(what, key="mamba_n_heads", hint="run it with transformers")
    return head


def sizes(hparams: Hparams) -> Mapping[str, Any]:
    """What the layers have. Raises UnsupportedError for a mixer that is not twice as wide as the model."""
    mixed = bool(hparams.number("num_local_experts"))
    shared = bool(hparams.number("shared_intermediate_size"))
    # of a model without experts the shared one is the MLP, and intermediate_size is of no use
    width = hparams.count("intermediate_size" if mixed else "shared_intermediate_size")
    return {"ssm_head_dim": mixer_head(hparams), "mixed": mixed, "shares": mixed and shared, "width": width}


def has_mamba(said: Mapping[str, Any]) -> bool:
    """Whether config.json has layers of another kind than attention; without a list all are."""
    kinds = said.get("layer_types")
    return not isinstance(kinds, list) or any(WORDS.get(str(word)) != FULL for word in kinds)


def has_experts(said: Mapping[str, Any]) -> bool:
    return said.get("num_local_experts", 8) not in (None, 0)


def turns(hparams: Hparams) -> bool:
    """Whether attention rotates positions; a flag that this architecture reads as such."""
    return hparams.values.get("position_embedding_type") == "rope"


DENSE = (
    T("shared_mlp.input_linear.weight", "ffn_gate.weight", Role.FFN_GATE, SHARED, first_half),
    T("shared_mlp.input_linear.weight", "ffn_up.weight", Role.FFN_UP, SHARED, second_half),
    T("shared_mlp.output_linear.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size shared_intermediate_size"),
)
FINETUNED = keys.computed("rope.scaling.finetuned", "bool", turns)  # by which llama.cpp knows whether to rotate
KEYS = (
    *(entry for entry in keys.without(keys.LLAMA, "feed_forward_length") if entry not in keys.HEAD_LENGTHS),
    keys.Key("feed_forward_length", "u32", "width"),
    head_lengths,
    *SCALES,
    keys.Key("expert_shared_feed_forward_length", "u32", "shared_intermediate_size", nonzero=True),
    *SSM_KEYS,
    keys.per_layer("attention.head_count_kv", "i32", "num_key_value_heads", kind(FULL)),
    FINETUNED,
)

BACK = {
    "attention.head_count_kv": "file.kv_heads", "feed_forward_length": "file.widths",
    "context_length": "max_position_embeddings", "rope.scaling.finetuned": "file.turns",
}  # fmt: skip


def of_file(hparams: Hparams) -> Mapping[str, Any]:
    """The kinds of layers by the file's heads of keys for each, and whether it has experts and rotates."""
    count, width = hparams.count(TRUNK), hparams.number("file.widths")
    heads = each_layer(hparams.values.get("file.kv_heads"), count)
    experts = hparams.number("num_local_experts") or 0
    return {
        **mixer_of_file(hparams),
        "layer_types": [FULL if head else MAMBA for head in heads],
        "num_key_value_heads": max(heads),
        "intermediate_size": int(width or 0),
        "num_local_experts": int(experts),
        "position_embedding_type": "rope" if hparams.flag("file.turns") else "nope",
        **({} if experts else {"shared_intermediate_size": int(width or 0), "num_experts_per_tok": 0}),
    }


GRANITE_HYBRID = Family(
    name="granite_hybrid",
    gguf="granitehybrid",
    hf=("GraniteMoeHybridForCausalLM",),
    when=Condition("layers are of Mamba", has_mamba),
    defaults={
        "granitemoehybrid": {
            **GRANITE.defaults["granite"], "num_local_experts": 8, "num_experts_per_tok": 2,
            "shared_intermediate_size": 1024, "ssm_heads": 128, "ssm_head_dim": None, "ssm_groups": 1,
            "ssm_state": 256, "ssm_conv": 4,
        },
    },
    outside=GRANITE.outside,
    block=(
        *NORMS,
        *at(kind(MAMBA), mamba2("mamba", bias=None)),
        *at(kind(FULL), rotated(ATTENTION)),
        *at(flagged("mixed"), MIXTURE),
        *at(flagged("shares"), SHARED_EXPERT),
        *at(not_(flagged("mixed")), DENSE),
    ),
    keys=(
        *keys.without(KEYS, "attention.head_count_kv", "context_length"),
        keys.Key("context_length", "u32", "context"),
    ),
    drop=GRANITE.drop,
    aliases={
        "mamba_n_heads": "ssm_heads", "mamba_d_head": "ssm_head_dim", "mamba_n_groups": "ssm_groups",
        "mamba_d_state": "ssm_state", "mamba_d_conv": "ssm_conv",
    },
    derive=(
        first_said("layer_types", listed("layer_types", WORDS), by_rule(MAMBA, every, FULL)),
        sizes,
        inner_sizes,
        # a model without positions has no end of its context
        lambda hparams: {"context": hparams.count("max_position_embeddings" if turns(hparams) else "endless")},
    ),
    assumes=(assumptions.silu, doubled, unclamped),
    computes=GRANITE.computes | {"position_embedding_type"},
    back=BACK,
    graph=of_file,
    folds=(
        folds.ATTENTION_IN,
        folds.VALUES,
        *folds.mamba2("input_layernorm", "mamba"),
        folds.Fold("shared_mlp.input_linear", ("shared_mlp.output_linear",)),
    ),
    tokens=GRANITE.tokens,
)  # fmt: skip
GRANITE_4 = replace(
    GRANITE_HYBRID,
    name="granite_4",
    gguf="granite",
    when=Condition(
        "all layers are of attention, none has experts", lambda said: not has_mamba(said) and not has_experts(said)
    ),
    keys=keys.without(KEYS, "attention.head_count_kv"),
    extra=GRANITE.extra,
    assumes=(assumptions.silu, assumptions.yarn_temperature),
)
GRANITE_4_MOE = replace(
    GRANITE_4,
    name="granite_4_moe",
    gguf="granitemoe",
    when=Condition("all layers are of attention, with experts", lambda said: not has_mamba(said) and has_experts(said)),
)

FAMILIES = (GRANITE_HYBRID, GRANITE_4, GRANITE_4_MOE)
