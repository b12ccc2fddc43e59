"""DeciLM and the Llama Nemotrons that were found by a search (51B, Super 49B, Ultra 253B): layers of unlike sizes.

A layer of these may have fewer heads for keys and values, a matrix in the place of attention, no attention at all, or
no MLP. Source: conversion/deci.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError
from quantkit.families import assumptions, keys
from quantkit.families.hparams import BY_LAYER, CONFIG_HINT, MAX_COUNT, Hparams
from quantkit.families.known.llama import LLAMA
from quantkit.families.layers import Layers, either
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, MLP, NORMS, OWN_CODE, Condition, T, TokenizerRules, at, rotated
from quantkit.untrusted import shown

BLOCKS = "block_configs"
HEADS, KV_HEADS, WIDTH = "layer_heads", "layer_kv_heads", "layer_width"
ROUNDED_TO = 256  # of the width of an MLP
SEARCHED = Condition("config.json has block_configs", lambda config: config.get(BLOCKS) is not None)
PLAIN = Condition("config.json has no block_configs", lambda config: config.get(BLOCKS) is None)


def unlike_layers(hparams: Hparams) -> Mapping[str, Any]:
    """What each layer has. Raises InputError naming the entry that does not say it."""
    said, count = hparams.values[BLOCKS], hparams.count("num_hidden_layers")
    if not isinstance(said, list) or len(said) != count:
        found = f"has {len(said):,} entries" if isinstance(said, list) else "is no list"
        raise _bad(BLOCKS, f"{found}, expected one for each of {count} layers")
    return {BY_LAYER: [_layer(hparams, number, entry) for number, entry in enumerate(said)]}


def _layer(hparams: Hparams, number: int, entry: object) -> dict[str, int]:
    parts = [entry.get(name) if isinstance(entry, Mapping) else None for name in ("attention", "ffn")]
    attention, ffn = (part if isinstance(part, Mapping) else {} for part in parts)
    if not all(isinstance(part, Mapping) for part in parts):
        raise _bad(f"{BLOCKS}[{number}]", f"is {shown(str(entry)[:80])}, expected attention and ffn")
    heads, head = hparams.count("num_attention_heads"), hparams.count("head")
    group, mult = attention.get("n_heads_in_group"), ffn.get("ffn_mult")
    kv = 0 if group is None else heads // Hparams(attention).count("n_heads_in_group")
    width = 0 if mult is None else int(2 * Hparams(ffn).required("ffn_mult") * hparams.count("hidden_size") / 3)
    if not 0 <= width <= MAX_COUNT:
        raise _bad(f"{BLOCKS}[{number}]", f"has ffn_mult {mult}, which is no width")
    return {
        HEADS: heads if kv or attention.get("replace_with_linear") is True else 0,
        KV_HEADS: kv,
        "kv_rows": kv * head,
        WIDTH: -(-width // ROUNDED_TO) * ROUNDED_TO,
    }


def listed_heads(hparams: Hparams) -> Mapping[str, Any]:
    """The heads for keys and values of each layer, of a DeciLM that lists them."""
    said, count = hparams.values.get("num_key_value_heads_per_layer"), hparams.count("num_hidden_layers")
    if said is None:
        return {"one_kv_heads": hparams.count("num_key_value_heads")}
    if not isinstance(said, list) or len(said) != count:
        found = f"has {len(said):,} entries" if isinstance(said, list) else "is no list"
        raise _bad("num_key_value_heads_per_layer", f"{found}, expected one for each of {count} layers")
    counts = [Hparams({"num_key_value_heads_per_layer": one}).count("num_key_value_heads_per_layer") for one in said]
    head = hparams.count("head")
    return {
        "num_key_value_heads": max(counts),
        BY_LAYER: [{KV_HEADS: one, "kv_rows": one * head} for one in counts],
    }


def _bad(key: str, what: str) -> InputError:
    return InputError(f"config.json: {key} {what}", key=key, path="config.json", hint=CONFIG_HINT)


def having(name: str) -> Layers:
    """In layers where the number called so is not 0."""
    return lambda hparams, layer: bool(hparams.of_layer(layer).values.get(name))


def replaced(hparams: Hparams, layer: int) -> bool:
    """Where a matrix stands in the place of attention."""
    own = hparams.of_layer(layer).values
    return bool(own[HEADS]) and not own[KV_HEADS]


def head_length(hparams: Hparams) -> int:
    return hparams.count("hidden_size") // hparams.count("num_attention_heads")


WIDE = tuple(replace(t, shape=t.shape.replace("intermediate_size", WIDTH)) for t in MLP)
SEARCH = {
    "vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": None, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "tie_word_embeddings": False,
}  # fmt: skip
SMALL = {
    **SEARCH, "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "max_position_embeddings": 8192, "rope_theta": 10000.0,
}  # fmt: skip
DEFAULTS = {"nemotron-nas": SEARCH, "deci": SMALL}

NEMOTRON_NAS = replace(
    LLAMA,
    name="nemotron_nas",
    gguf="deci",
    hf=("DeciLMForCausalLM",),
    defaults=DEFAULTS,
    when=SEARCHED,
    derive=(unlike_layers,),
    block=(
        replace(NORMS[0], where=either(having(KV_HEADS), replaced)),
        *at(having(KV_HEADS), rotated(ATTENTION)),
        T("self_attn.linear_attn.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size",
          where=replaced),
        replace(NORMS[1], where=having(WIDTH)),
        *at(having(WIDTH), WIDE),
    ),
    keys=(
        keys.blocks,
        keys.Key("context_length", "u32", "max_position_embeddings"),
        keys.Key("embedding_length", "u32", "hidden_size"),
        keys.of_blocks("feed_forward_length", "i32", WIDTH),
        keys.of_blocks("attention.head_count", "i32", HEADS),
        keys.of_blocks("attention.head_count_kv", "i32", KV_HEADS),
        keys.FREQUENCY_BASE,
        keys.RMS_EPSILON,
        keys.computed("attention.key_length", "u32", head_length),
        keys.computed("attention.value_length", "u32", head_length),
        keys.VOCAB_SIZE,
        keys.Key("rope.dimension_count", "u32", "head"),
    ),
    assumes=(assumptions.silu,),
    folds=(),
    tokens=TokenizerRules(),
    unserved=OWN_CODE,
)  # fmt: skip
DECI = replace(
    LLAMA,
    name="deci",
    gguf="deci",
    hf=("DeciLMForCausalLM",),
    defaults=DEFAULTS,
    when=PLAIN,
    derive=(listed_heads,),
    keys=(
        *keys.without(keys.LLAMA, "attention.head_count_kv"),
        keys.Key("attention.head_count_kv", "u32", "one_kv_heads"),
        keys.of_blocks("attention.head_count_kv", "i32", KV_HEADS),
    ),
    assumes=(assumptions.silu,),
    folds=(),
    tokens=TokenizerRules(),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (NEMOTRON_NAS, DECI)
