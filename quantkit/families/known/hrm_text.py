"""HRM-Text: two stacks of layers that a text goes through many times, a low one several times for each high one.

A file has the layers of both stacks, the low one's first, and says how often each is gone through; its number of blocks
is that of all passes, of which each has a cache of its own. Source: conversion/hrm_text.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams, bad_value
from quantkit.families.layers import BLOCKS, HELD, PASSES, PER_STACK, STATES, TRUNK, TWO_STACKS
from quantkit.families.layouts import rows
from quantkit.families.placements import first_half, second_half
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, FREQUENCIES, HEAD, MLP, Family, T, without_biases
from quantkit.families.spellings import Published, Rename

FUSED = "4*q_rows hidden_size"
HIGH, LOW = "H_cycles", "L_cycles"
PIECES = {  # conversion_mapping.py of transformers 5.24
    "attn.gqkv_proj": ("self_attn.gate_proj", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.o_proj": ("self_attn.o_proj",),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}


def stacks(hparams: Hparams) -> Mapping[str, Any]:
    """The layers of the low stack, of both, and of all passes. Keys have as many heads as queries.

    What was trained says the layers of a stack in the place where transformers says those of all passes.
    """
    each = hparams.count(TRUNK if hparams.number(PER_STACK) is None else PER_STACK)
    heads, high, low = (hparams.count(key) for key in ("num_attention_heads", HIGH, LOW))
    return {
        "num_key_value_heads": heads,
        "kv_rows": heads * hparams.count("head"),
        TRUNK: each,
        BLOCKS: 2 * each,
        TWO_STACKS: True,
        PER_STACK: each,
        PASSES: each * high * (low + 1),
        STATES: 2,
        HELD: high * low + 2 * high + 2,
        "embedding_scale": embedding_scale(hparams),
    }


def embedding_scale(hparams: Hparams) -> float:
    """What embeddings are multiplied by: the inverse of how wide they were at first, where nothing else is said."""
    said, width = hparams.number("embedding_scale"), hparams.required("initializer_range")
    if said is None and width <= 0:
        raise bad_value("initializer_range", width, "a number above 0")
    return 1 / width if said is None else said


HRM_TEXT = Family(
    name="hrm_text",
    gguf="hrm_text",
    hf=("HrmTextForCausalLM",),
    defaults={
        "hrm_text": {
            "vocab_size": 151808, "hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 16,
            "num_attention_heads": 12, "num_key_value_heads": None, "head_dim": 128, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False, "initializer_range": 0.02,
            HIGH: 2, LOW: 3, "prefix_lm": True,
        },
    },
    source_block="model.L_module.layers.{}.",
    outside=(
        T("model.embed_tokens.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        HEAD,
        T("model.z_L_init", "hrm.z_l_init", Role.OTHER, "hidden_size"),
    ),
    block=(
        T("attn.gqkv_proj.weight", "attn_gate.weight", Role.OTHER, FUSED, rows("0", "q_rows")),
        T("attn.gqkv_proj.weight", "attn_q.weight", Role.ATTN_Q, FUSED, rows("q_rows", "2*q_rows")),
        T("attn.gqkv_proj.weight", "attn_k.weight", Role.ATTN_K, FUSED, rows("2*q_rows", "3*q_rows")),
        T("attn.gqkv_proj.weight", "attn_v.weight", Role.ATTN_V, FUSED, rows("3*q_rows", "4*q_rows")),
        T("self_attn.gate_proj.weight", "attn_gate.weight", Role.OTHER, "q_rows hidden_size"),
        *without_biases(ATTENTION),
        T("mlp.gate_up_proj.weight", "ffn_gate.weight", Role.FFN_GATE, "2*intermediate_size hidden_size", first_half),
        T("mlp.gate_up_proj.weight", "ffn_up.weight", Role.FFN_UP, "2*intermediate_size hidden_size", second_half),
        *without_biases(MLP),
    ),
    spellings=(
        Rename(r"\.attn\.o_proj\.", ".self_attn.o_proj."),
        Rename(r"^model\.H_module\.layers\.(\d+)\.", "model.L_module.layers.{}."),
    ),
    keys=(
        keys.Key("block_count", "u32", PASSES),
        *(entry for entry in keys.without(keys.COMMON, "attention.head_count_kv") if entry is not keys.blocks),
        keys.Key("rope.dimension_count", "u32", "head"),
        keys.Key("embedding_scale", "f32", "embedding_scale"),
        keys.Key("hrm.layers_per_stack", "u32", PER_STACK),
        keys.Key("hrm.h_cycles", "u32", HIGH),
        keys.Key("hrm.l_cycles", "u32", LOW),
        keys.Key("hrm.prefix_lm", "bool", "prefix_lm"),
    ),
    published=Published(pieces=PIECES),
    drop=(FREQUENCIES,),
    derive=(stacks,),
    assumes=(assumptions.silu,),
    folds=(folds.VALUES, folds.MLP_OUT),  # its norms have no weights
    computes=frozenset({PER_STACK, HIGH, LOW, "embedding_scale", "initializer_range", "prefix_lm"}),
)  # fmt: skip

FAMILIES = (HRM_TEXT,)
