"""OpenELM: heads and MLPs of another size in every layer.

Source: conversion/openelm.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.errors import InputError
from quantkit.families import keys
from quantkit.families.hparams import BY_LAYER, CONFIG_HINT, Hparams
from quantkit.families.layers import TRUNK
from quantkit.families.placements import first_half, second_half
from quantkit.families.roles import Role
from quantkit.families.rows import OWN_CODE, QK_NORMS, Family, T
from quantkit.families.spellings import Rename
from quantkit.untrusted import shown

HEADS, KV_HEADS, WIDTH = "layer_heads", "layer_kv_heads", "layer_width"
HEAD = 64  # the dimensions of a head where config.json is silent
EPSILON = 1e-6  # of all norms; config.json has no word of it
LISTS = ("num_query_heads", "num_kv_heads", "ffn_multipliers")


def layer_sizes(hparams: Hparams) -> Mapping[str, Any]:
    """The heads and the inner width of each layer. Raises InputError for lists of another length."""
    trunk, head = hparams.count(TRUNK), hparams.count("head_dim")
    said = []
    for key in LISTS:
        found = hparams.values.get(key)
        if not isinstance(found, list) or len(found) != trunk:
            what = f"config.json: {key} is {shown(repr(found)[:80])}, expected a list with an entry for each layer"
            raise InputError(what, key=key, path="config.json", hint=CONFIG_HINT)
        said.append(found)
    layers = []
    for queries, groups, factor in zip(*said, strict=True):
        heads, kv = Hparams({HEADS: queries}).count(HEADS), Hparams({KV_HEADS: groups}).count(KV_HEADS)
        width = Hparams({LISTS[2]: factor}).required(LISTS[2]) * hparams.count("hidden_size")
        rows = {"q_rows": heads * head, "qkv_rows": (heads + 2 * kv) * head}
        layers.append({HEADS: heads, KV_HEADS: kv, WIDTH: divisible(width, hparams.count("ffn_dim_divisor")), **rows})
    return {BY_LAYER: layers, "head": head}


def divisible(width: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to a width, but not less than nine tenths of it (configuration_openelm.py)."""
    found = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return found + divisor if found < 0.9 * width else found


OPENELM = Family(
    name="openelm",
    gguf="openelm",
    hf=("OpenELMForCausalLM",),
    defaults={
        "openelm": {
            "vocab_size": 32000, "hidden_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 0,
            "num_key_value_heads": 0, "head_dim": HEAD, "max_position_embeddings": 2048, "rope_theta": 10000.0,
            "tie_word_embeddings": True, "ffn_dim_divisor": 256,
        },
    },
    outside=(
        T("transformer.token_embeddings.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        T("transformer.norm.weight", "output_norm.weight", Role.NORM, "hidden_size"),
    ),
    source_block="transformer.layers.{}.",
    block=(
        T("attn_norm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        T("ffn_norm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        T("attn.qkv_proj.weight", "attn_qkv.weight", Role.ATTN_QKV, "qkv_rows hidden_size"),
        *QK_NORMS,
        T("attn.out_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
        T("ffn.proj_1.weight", "ffn_gate.weight", Role.FFN_GATE, f"2*{WIDTH} hidden_size", first_half),
        T("ffn.proj_1.weight", "ffn_up.weight", Role.FFN_UP, f"2*{WIDTH} hidden_size", second_half),
        T("ffn.proj_2.weight", "ffn_down.weight", Role.FFN_DOWN, f"hidden_size {WIDTH}"),
    ),
    spellings=(Rename(r"\.attn\.([qk]_norm)\.", r".self_attn.\1."),),
    keys=(
        keys.blocks,
        keys.Key("context_length", "u32", "max_position_embeddings"),
        keys.Key("embedding_length", "u32", "hidden_size"),
        keys.of_blocks("feed_forward_length", "i32", WIDTH),
        keys.of_blocks("attention.head_count", "i32", HEADS),
        keys.of_blocks("attention.head_count_kv", "i32", KV_HEADS),
        keys.FREQUENCY_BASE,
        keys.computed("attention.layer_norm_rms_epsilon", "f32", lambda hparams: EPSILON),
        keys.Key("rope.dimension_count", "u32", "head_dim"),
        *keys.HEAD_LENGTHS,
    ),
    aliases={
        "model_dim": "hidden_size", "num_transformer_layers": TRUNK, "max_context_length": "max_position_embeddings",
        "rope_freq_constant": "rope_theta",
    },
    derive=(layer_sizes,),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (OPENELM,)
