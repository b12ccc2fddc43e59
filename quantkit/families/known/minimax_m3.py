"""MiniMax M3: a mixture after dense layers, whose attention goes to blocks of tokens that an indexer chooses.

Source: conversion/minimax.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import BY_LAYER, Hparams, bad_value
from quantkit.families.known.gemma import VISION
from quantkit.families.known.gpt_oss import clamped
from quantkit.families.layers import TRUNK, before, flagged_layer, from_
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    MLP,
    NORMS,
    OUTSIDE,
    QK_NORMS,
    Drop,
    Family,
    T,
    at,
    centered,
    experts,
    shared_expert,
    without_biases,
)

SECTION, CHOOSES, DENSE = "sparse_attention_config", "chooses", "dense_layers"
# the number here -> its name in the section that the first checkpoints have
INDEX = {
    "index_n_heads": "sparse_num_index_heads", "index_head_dim": "sparse_index_dim",
    "index_topk_blocks": "sparse_topk_blocks", "index_block_size": "sparse_block_size",
    "index_local_blocks": "sparse_local_block",
}  # fmt: skip
INDEX_ROWS, INDEX_HEAD = "index_n_heads*index_head_dim", "index_head_dim"


def sections(hparams: Hparams) -> Mapping[str, Any]:
    """The indexer's numbers, which layers have one, and how many layers have no experts.

    Raises InputError for lists that do not go with the layers, UnsupportedError for a dense layer after a mixture.
    """
    said = hparams.values.get(SECTION)
    if said is not None and not isinstance(said, Mapping):
        raise bad_value(SECTION, said, "an object")
    inside = said or {}
    found = {ours: inside[theirs] for ours, theirs in INDEX.items() if theirs in inside}
    trunk = hparams.count(TRUNK)
    mixtures = _flags(hparams.values, "moe_layer_freq", "mlp_layer_types", "sparse", trunk, otherwise=True)
    chooses = _flags(
        {"layer_types": hparams.values.get("layer_types"), **inside},
        "sparse_attention_freq", "layer_types", "minimax_m3_sparse", trunk, otherwise=False,
    )  # fmt: skip
    dense = mixtures.index(True) if True in mixtures else trunk
    if False in mixtures[dense:]:
        what = "llama.cpp runs layers without experts only before all with experts"
        raise UnsupportedError(what, key="moe_layer_freq", hint="run it with transformers or vLLM")
    return {**found, DENSE: dense, BY_LAYER: [{CHOOSES: each} for each in chooses]}


def _flags(said: Mapping[str, Any], numbers: str, words: str, word: str, trunk: int, *, otherwise: bool) -> list[bool]:
    """Of each layer, whether a list of numbers says 1 or a list of words says `word`; `otherwise` without a list."""
    key = words if said.get(words) is not None else numbers
    found = said.get(key)
    if found is None:
        return [otherwise] * trunk
    if not isinstance(found, list) or len(found) != trunk:
        raise bad_value(key, found, "a list with an entry for each layer")
    return [each == word if key == words else bool(each) for each in found]


INDEXER = (
    T("self_attn.index_q_proj.weight", "indexer.q_proj.weight", Role.OTHER, f"{INDEX_ROWS} hidden_size", f32=True),
    T("self_attn.index_k_proj.weight", "indexer.k_proj.weight", Role.OTHER, f"{INDEX_HEAD} hidden_size", f32=True),
    *centered((
        T("self_attn.index_q_norm.weight", "indexer.q_norm.weight", Role.NORM, INDEX_HEAD),
        T("self_attn.index_k_norm.weight", "indexer.k_norm.weight", Role.NORM, INDEX_HEAD),
    )),
)  # fmt: skip
MIXTURE = (
    *experts("intermediate_size", "block_sparse_moe", "w1", "w3", "w2"),
    T("block_sparse_moe.e_score_correction_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts"),
    *shared_expert("shared_intermediate_size", "block_sparse_moe.shared_experts"),
)

WIDE = tuple(
    replace(t, shape=t.shape.replace("intermediate_size", "dense_intermediate_size")) for t in without_biases(MLP)
)

MINIMAX_M3 = Family(
    name="minimax_m3",
    gguf="minimax-m3",
    hf=("MiniMaxM3SparseForConditionalGeneration", "MiniMaxM3SparseForCausalLM"),
    defaults={
        "minimax_m3_vl_text": {
            "vocab_size": 200064, "hidden_size": 6144, "intermediate_size": 3072, "num_hidden_layers": 60,
            "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 524288,
            "rms_norm_eps": 1e-6, "rope_theta": 5e6, "tie_word_embeddings": False, "num_local_experts": 128,
            "num_experts_per_tok": 4, "dense_intermediate_size": 12288, "shared_intermediate_size": 3072,
            "routed_scaling_factor": 2.0, "rotary_dim": 64, "index_n_heads": 4, "index_head_dim": 128,
            "index_block_size": 128, "index_topk_blocks": 16, "index_local_blocks": 1,
        },
    },
    outside=centered(OUTSIDE),
    block=(
        *centered(NORMS),
        *without_biases(ATTENTION),
        *centered(QK_NORMS),
        *at(flagged_layer(CHOOSES), INDEXER),
        *at(before(DENSE), WIDE),
        *at(from_(DENSE), MIXTURE),
    ),
    keys=(
        *keys.without(keys.COMMON, "feed_forward_length"),
        keys.Key("feed_forward_length", "u32", "dense_intermediate_size"),
        keys.sigmoid_unless_said,
        keys.Key("expert_feed_forward_length", "u32", "intermediate_size"),
        keys.Key("rope.dimension_count", "u32", "rotary_dim"),
        keys.Key("expert_shared_count", "u32", "n_shared_experts", default=1),
        keys.Key("expert_weights_scale", "f32", "routed_scaling_factor"),
        keys.computed("expert_weights_norm", "bool", lambda hparams: True),
        keys.Key("attention.indexer.head_count", "u32", "index_n_heads"),
        keys.Key("attention.indexer.key_length", "u32", INDEX_HEAD),
        keys.Key("attention.indexer.top_k", "u32", "index_topk_blocks"),
        keys.Key("attention.indexer.block_size", "u32", "index_block_size"),
        keys.Key("attention.indexer.local_blocks", "u32", "index_local_blocks"),
        keys.Key("leading_dense_block_count", "u32", DENSE),
    ),
    drop=(
        FREQUENCIES,
        *VISION,
        Drop("patch_merge_mlp.*", "the vision encoder belongs into a file of its own"),
        Drop("*mtp.*", "llama.cpp predicts no further tokens with this architecture"),
    ),
    strip="language_model.",
    derive=(sections,),
    assumes=(clamped, assumptions.yarn_temperature),
    computes=frozenset({SECTION, "moe_layer_freq", "dense_intermediate_size", "rotary_dim", *INDEX}),
    renamed=tuple(
        f"model.{inner}layers.{{}}.self_attn.indexer.{each}_proj" for inner in ("language_model.", "") for each in "qk"
    ),
    folds=(  # what up gives is cut off in every MLP
        folds.Fold(
            "input_layernorm", (*folds.QKV, "self_attn.indexer.q_proj", "self_attn.indexer.k_proj"), norm=True,
            centered=True,
        ),
        folds.VALUES,
    ),
)  # fmt: skip

FAMILIES = (MINIMAX_M3,)
