"""LFM2 and LFM2-MoE: short convolutions in most layers, attention in the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import keys
from quantkit.families.folds import Fold
from quantkit.families.hparams import Hparams
from quantkit.families.layers import before, first_said, from_, kind, listed, numbered
from quantkit.families.layouts import squeeze, stack
from quantkit.families.roles import Role
from quantkit.families.rows import EMBEDDING, OWN_CODE, PRESENT, Family, T, at
from quantkit.families.spellings import Rename

CONV, ATTENTION = "conv", "full_attention"


def adjusted_width(hparams: Hparams) -> Mapping[str, Any]:
    """The inner width of the dense layers: two thirds of what config.json says, rounded up, where it says so."""
    width = hparams.count("block_ff_dim" if hparams.values.get("block_ff_dim") else "intermediate_size")
    if hparams.flag("block_auto_adjust_ff_dim"):
        multiple, factor = hparams.count("block_multiple_of"), hparams.number("block_ffn_dim_multiplier")
        width = 2 * width // 3
        width = width if factor is None else int(factor * width)
        width = -(-width // multiple) * multiple
    return {"dense_width": width}


def gated(width: str) -> tuple[T, ...]:
    """An MLP of inner width `width`."""
    return (
        T("feed_forward.w1.weight", "ffn_gate.weight", Role.FFN_GATE, f"{width} hidden_size"),
        T("feed_forward.w3.weight", "ffn_up.weight", Role.FFN_UP, f"{width} hidden_size"),
        T("feed_forward.w2.weight", "ffn_down.weight", Role.FFN_DOWN, f"hidden_size {width}"),
    )


OUTSIDE = (
    EMBEDDING,
    T("model.embedding_norm.weight", "token_embd_norm.weight", Role.NORM, "hidden_size"),
    T("lm_head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size", unless="tie_word_embeddings"),
)
MIXERS = (
    T("operator_norm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
    T("ffn_norm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
    *at(kind(CONV), (
        T("conv.in_proj.weight", "shortconv.in_proj.weight", Role.OTHER, "3*hidden_size hidden_size", bias=PRESENT),
        T("conv.conv.weight", "shortconv.conv.weight", Role.OTHER, "hidden_size 1 conv_L_cache", squeeze),
        T("conv.out_proj.weight", "shortconv.out_proj.weight", Role.OTHER, "hidden_size hidden_size", bias=PRESENT),
    )),
    *at(kind(ATTENTION), (
        T("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "q_rows hidden_size"),
        T("self_attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, "kv_rows hidden_size"),
        T("self_attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, "kv_rows hidden_size"),
        T("self_attn.out_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
        T("self_attn.q_layernorm.weight", "attn_q_norm.weight", Role.NORM, "head"),
        T("self_attn.k_layernorm.weight", "attn_k_norm.weight", Role.NORM, "head"),
    )),
)  # fmt: skip
KEYS = (
    *keys.without(keys.COMMON, "attention.head_count_kv", "feed_forward_length"),
    keys.per_layer("attention.head_count_kv", "i32", "num_key_value_heads", kind(ATTENTION)),
    keys.Key("vocab_size", "u32", "vocab_size"),
    keys.Key("shortconv.l_cache", "u32", "conv_L_cache"),
    keys.Key("feed_forward_length", "u32", "dense_width"),
)
BACK = {"attention.head_count_kv": "file.kv_heads"}


def numbers_of_layers(hparams: Hparams) -> Mapping[str, Any]:
    """Which layers convolve, by their heads; the inner width is that of the file, whatever it was adjusted from."""
    heads = hparams.values.get("file.kv_heads")
    if not isinstance(heads, list):
        return {}
    width = hparams.values.get("dense_width", hparams.values.get("intermediate_size"))
    return {
        "layer_types": [ATTENTION if count else CONV for count in heads], "num_key_value_heads": max(heads),
        "intermediate_size": width, "block_auto_adjust_ff_dim": False,
    }  # fmt: skip


KINDS = listed("layer_types", {CONV: CONV, ATTENTION: ATTENTION})

# the first checkpoints number the layers that attend
LISTED_OR_NUMBERED = first_said("layer_types", KINDS, numbered("full_attn_idxs", ATTENTION, CONV))

LFM2 = Family(
    name="lfm2",
    gguf="lfm2",
    hf=("Lfm2ForCausalLM", "LFM2ForCausalLM"),
    defaults={
        "lfm2": {
            "vocab_size": 65536, "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": True, "conv_L_cache": 3,
            "block_auto_adjust_ff_dim": True, "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256,
        },
    },
    outside=OUTSIDE,
    block=(*MIXERS, *gated("dense_width")),
    keys=KEYS,
    inside={"Lfm2Model": "Lfm2ForCausalLM"},
    spellings=(Rename(r"^embedding_norm\.", "model.embedding_norm."),),
    aliases={"norm_eps": "rms_norm_eps", "tie_embedding": "tie_word_embeddings"},
    derive=(LISTED_OR_NUMBERED, adjusted_width),
    folds=(Fold("feed_forward.w3", ("feed_forward.w2",)),),
    computes=frozenset({"tie_embedding"}),
    back=BACK,
    graph=numbers_of_layers,
)  # fmt: skip
LFM2_MOE = replace(
    LFM2,
    name="lfm2_moe",
    gguf="lfm2moe",
    hf=("Lfm2MoeForCausalLM",),
    defaults={
        "lfm2_moe": {
            "vocab_size": 65536, "hidden_size": 2048, "intermediate_size": 7168, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": True, "conv_L_cache": 3,
            "num_local_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 1792, "num_dense_layers": 2,
        },
    },
    block=(
        *MIXERS,
        *at(before("num_dense_layers"), gated("intermediate_size")),
        *at(from_("num_dense_layers"), (
            T("feed_forward.gate.weight", "ffn_gate_inp.weight", Role.ROUTER, "num_local_experts hidden_size"),
            T("feed_forward.expert_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts", optional=True),
            T("feed_forward.experts.{}.w1.weight", "ffn_gate_exps.weight", Role.FFN_GATE,
              "moe_intermediate_size hidden_size", stack()),
            T("feed_forward.experts.{}.w3.weight", "ffn_up_exps.weight", Role.FFN_UP,
              "moe_intermediate_size hidden_size", stack()),
            T("feed_forward.experts.{}.w2.weight", "ffn_down_exps.weight", Role.FFN_DOWN,
              "hidden_size moe_intermediate_size", stack()),
        )),
    ),
    keys=(
        *keys.without(KEYS, "feed_forward_length"),
        keys.Key("feed_forward_length", "u32", "intermediate_size"),
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        keys.Key("leading_dense_block_count", "u32", "num_dense_layers"),
        keys.computed("expert_gating_func", "u32", lambda hparams: keys.GATING["sigmoid"]),
    ),
    inside={},
    derive=(KINDS,),
)  # fmt: skip

LFM2_BIDIRECTIONAL = replace(
    LFM2,
    name="lfm2_bidirectional",
    hf=("Lfm2BidirectionalModel",),
    defaults={"lfm2_bidirectional": LFM2.defaults["lfm2"]},
    outside=OUTSIDE[:2],
    keys=(*KEYS, keys.both_ways, keys.POOLING_TYPE),
    inside={},
    folds=(),
    graph=None,
    back={},
    embeds=True,
    unserved=OWN_CODE,
)

FAMILIES = (LFM2, LFM2_BIDIRECTIONAL, LFM2_MOE)
