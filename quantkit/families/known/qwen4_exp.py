"""Qwen 3.8 Flash Next: Qwen3.5's linear layers, several streams of hidden states in place of norms, an indexer before
attention, and a table of n-grams that one layer reads.

Source: conversion/qwen4exp.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from quantkit.errors import InputError, UnsupportedError
from quantkit.families import assumptions, keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.known.qwen3_next import (
    ATTENTION,
    FULL,
    LINEAR,
    LINEAR_SIZES,
    MIXED,
    MIXTURE,
    ORDERED,
    SSM_KEYS,
    VISION,
    last_of_interval,
    sizes,
)
from quantkit.families.layers import (
    TRUNK,
    ToldNumbers,
    by_rule,
    first_said,
    flagged,
    kind,
    listed,
    not_,
)
from quantkit.families.layouts import rows, squeeze
from quantkit.families.model import Rows
from quantkit.families.placements import Placement
from quantkit.families.roles import Role, role_of
from quantkit.families.rows import (
    EMBEDDING,
    FREQUENCIES,
    HEAD,
    Drop,
    Family,
    T,
    TokenizerRules,
    at,
    centered,
)
from quantkit.families.spellings import Rename
from quantkit.metadata import KeyValue
from quantkit.tensors import TensorInfo
from quantkit.untrusted import shown

STREAMS, RANK, TABLED = "hc_count", "hc_lowrank", "ple_layers"
ALL, INDEX_Q = f"{STREAMS}*hidden_size", "indexer_n_heads*indexer_head_dim"
TABLE = "ple.ple_embedding."
SHARD = "model.ngram_embedding.{}.weight"


def tables(hparams: Hparams) -> Mapping[str, Any]:
    """Which layers read a table of n-grams, counted from 0.

    A text ends with the last of several ends: there n-grams begin anew. Raises InputError for what are no numbers of
    layers, from 1, UnsupportedError for more than one.
    """
    said, ends = hparams.values.get("ple_layer_ids") or [], hparams.values.get("eos_token_id")
    trunk = hparams.count(TRUNK)
    if not isinstance(said, list) or not all(type(layer) is int and 0 < layer <= trunk for layer in said):
        what = f"config.json: ple_layer_ids is {shown(repr(said)[:80])}, expected numbers of layers, 1 to {trunk}"
        raise InputError(what, key="ple_layer_ids", path="config.json", hint=CONFIG_HINT)
    if len(said) > 1:
        what = f"{len(said)} layers have tables of n-grams, llama.cpp's file has one table"
        raise UnsupportedError(what, key="ple_layer_ids", hint="run it with transformers or vLLM")
    return {
        TABLED: [layer - 1 for layer in said], "has_table": bool(said),
        "shard_rows": 1,  # until the tensors say how many
        "table_width": hparams.size("ple_embed_dim//((ngram_size-1)*heads_per_ngram)") if said else None,
        "n_gram_end": ends[-1] if isinstance(ends, list) and ends else ends,
    }  # fmt: skip


def table_size(hparams: Hparams, tensors: Mapping[str, TensorInfo]) -> Mapping[str, Any]:
    """How many rows a shard of the table has: all have as many."""
    start, _, end = SHARD.partition("{}")
    shards = (info for name, info in tensors.items() if name.startswith(start) and name.endswith(end))
    first = next(shards, None)
    return {} if first is None else {"shard_rows": first.rows}


def shard(info: TensorInfo, hparams: Hparams) -> Placement:
    """Rows of the table, as many as one of its shards has."""
    height = hparams.count("split_ngram_parts") * info.rows
    return Placement((height, info.cols), (Rows(info.name, 0, info.rows),))


def has_table(hparams: Hparams, layer: int) -> bool:
    return layer in hparams.values[TABLED]


def ratios(hparams: Hparams) -> Iterable[KeyValue]:
    """How many tokens an entry of the indexer stands for, in each layer that has one."""
    ratio = int(hparams.number("indexer_compress_ratio") or 0)
    found = tuple(ratio if kind(FULL)(hparams, layer) else 0 for layer in range(hparams.count(TRUNK)))
    yield KeyValue("attention.compress_ratios", "i32", found, array=True)


def sigmoid_gate(hparams: Hparams) -> str | None:
    """What linear attention gives is gated by a sigmoid."""
    said = hparams.values.get("output_gate_type") or hparams.values.get("hidden_act", "silu")
    return None if said == "sigmoid" else f"output_gate_type is {shown(str(said))}, it takes sigmoid"


def told_numbers(name: str, kind: Literal["u64"], value: str) -> keys.KeyRow:
    """An array of whole numbers that a tensor holds (`layers.ToldNumbers`), each as it is; none, no key."""

    def entries(hparams: Hparams) -> Iterable[KeyValue]:
        found = hparams.values.get(value)
        return (KeyValue(name, kind, tuple(found), array=True),) if found else ()

    return entries


def mixed(source: str, target: str) -> tuple[T, ...]:
    """How streams become what a part of a block reads: a norm, and a matrix of low rank.

    llama-quantize takes those of "hc_ffn" for parts of the feed-forward layer, by their names.
    """
    down, up = (f"{target}_{which}.weight" for which in ("down", "up"))
    return (
        *centered((T(f"{source}.hc_norm.weight", f"{target}_norm.weight", Role.NORM, ALL),)),
        T(f"{source}.input_mix_weight_down.weight", down, role_of(down), f"{RANK} {ALL}"),
        T(f"{source}.input_mix_weight_up.weight", up, role_of(up), f"{ALL} {RANK}"),
    )


def streams(source: str, target: str) -> tuple[T, ...]:
    """The same, and how what the part gives goes back into them."""
    inject = T(f"{source}.block_inject_weight.weight", f"{target}_inject.weight", Role.OTHER, f"{STREAMS} {ALL}")
    return (*mixed(source, target), inject)


INDEX = f"{INDEX_Q}+indexer_head_dim"
INDEXER = (
    T("self_attn.indexer.index_qk_proj.weight", "indexer.q_proj.weight", Role.OTHER, f"{INDEX} hidden_size",
      rows("0", INDEX_Q)),
    T("self_attn.indexer.index_qk_proj.weight", "indexer.k_proj.weight", Role.OTHER, f"{INDEX} hidden_size",
      rows(INDEX_Q, INDEX)),
    *centered((
        T("self_attn.indexer.q_layernorm.weight", "indexer.q_norm.weight", Role.NORM, "indexer_head_dim"),
        T("self_attn.indexer.k_layernorm.weight", "indexer.k_norm.weight", Role.NORM, "indexer_head_dim"),
    )),
)  # fmt: skip
N_GRAMS = (
    T("ple.key_proj.weight", "ple_key.weight", Role.OTHER, f"{ALL} ple_embed_dim"),
    T("ple.value_proj.weight", "ple_value.weight", Role.OTHER, "hidden_size ple_embed_dim"),
    T("ple.conv1d.weight", "ple_conv1d.weight", Role.OTHER, f"{ALL} 1 ple_conv_kernel_size", squeeze),
    *centered(tuple(
        T(f"ple.norm_{what}.weight", f"ple_norm_{what}.weight", Role.NORM, ALL) for what in ("key", "query", "conv")
    )),
)  # fmt: skip
NUMBERS = {
    "layer_multipliers": "layer_multipliers", "head_offsets": "ngram_heads_offsets",
    "head_vocab_sizes": "ngram_heads_vocab_sizes",
}  # fmt: skip

QWEN4_EXP = Family(
    name="qwen4_exp",
    gguf="qwen4exp",
    hf=("Qwen4ExpForConditionalGeneration", "Qwen4ExpForCausalLM"),
    defaults={
        "qwen4_exp_text": {
            **LINEAR_SIZES, "vocab_size": 248320, "hidden_size": 2048, "num_hidden_layers": 40,
            "num_attention_heads": 16, "num_key_value_heads": 2, "num_local_experts": 512, "num_experts_per_tok": 10,
            "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, STREAMS: 4, RANK: 320,
            "ple_conv_kernel_size": 4, "ngram_size": 3, "heads_per_ngram": 8, "split_ngram_parts": 512,
        },
    },
    outside=(
        EMBEDDING,
        HEAD,
        *mixed("model.hyper_connection_mixer", "output_hc"),
        T(SHARD, "per_layer_token_embd.weight", Role.TOKEN_EMBD, "shard_rows table_width", shard,
          where=flagged("has_table"), index="split_ngram_parts"),
    ),
    block=(
        *streams("attn_hyper_connection", "hc_attn"),
        *streams("mlp_hyper_connection", "hc_ffn"),
        *ORDERED,
        *ATTENTION,
        *at(kind(FULL), INDEXER),
        *at(has_table, N_GRAMS),
        *MIXTURE,
    ),
    keys=(
        *keys.COMMON,
        *keys.EXPERT_LENGTHS,
        *keys.without(SSM_KEYS, "nextn_predict_layers"),
        keys.rope_sections(11, 11, 10),
        keys.Key("hyper_connection.count", "u32", STREAMS),
        keys.Key("hyper_connection.low_rank", "u32", RANK),
        keys.Key("attention.indexer.head_count", "u32", "indexer_n_heads"),
        keys.Key("attention.indexer.key_length", "u32", "indexer_head_dim"),
        keys.Key("attention.indexer.top_k", "u32", "indexer_budget"),
        ratios,
        keys.Key("ple.layers", "i32", TABLED, nonzero=True, array=True),
        keys.Key("ple.ngram_size", "u32", "ngram_size", when="has_table"),
        keys.Key("ple.heads_per_ngram", "u32", "heads_per_ngram", when="has_table"),
        keys.Key("ple.conv_kernel", "u32", "ple_conv_kernel_size", when="has_table"),
        keys.Key("ple.eos_token_id", "u32", "n_gram_end", when="has_table"),
        keys.Key("ple.image_token_id", "u32", "image_token_id", when="has_table"),
        keys.Key("embedding_length_per_layer_input", "u32", "table_width", when="has_table"),
        *(told_numbers(f"ple.{name}", "u64", name) for name in NUMBERS),
    ),
    drop=(
        FREQUENCIES,
        *VISION,
        *(Drop(f"*.{TABLE}{source}", "its numbers are among the keys of the file") for source in NUMBERS.values()),
        Drop("*mtp.*", "llama.cpp predicts no further tokens with this architecture"),
    ),
    strip="language_model.",
    spellings=(
        Rename(r"^model\.layers\.[0-9]+\.ple\.ple_embedding\.ngram_embedding\.shard_([0-9]+)\.",
               r"model.ngram_embedding.\1."),
    ),
    derive=(
        first_said(
            "layer_types",
            listed("layer_types", {LINEAR: LINEAR, FULL: FULL, "indexed_attention": FULL}),
            by_rule(LINEAR, not_(last_of_interval), FULL),
        ),
        sizes,
        lambda hparams: {"ple_embed_dim": hparams.values.get("ple_embed_dim") or hparams.count("hidden_size")},
        tables,
    ),
    seen=(
        table_size,
        *(ToldNumbers(f"model.layers.{{}}.{TABLE}{source}", name, has_table) for name, source in NUMBERS.items()),
    ),
    assumes=(assumptions.silu, sigmoid_gate),
    tokens=TokenizerRules(slow="Qwen2Tokenizer"),
    folds=MIXED,
    computes=frozenset({
        STREAMS, RANK, "ple_layer_ids", "ple_embed_dim", "ple_conv_kernel_size", "ngram_size", "heads_per_ngram",
        "ngram_vocab_size_base", "make_ngram_vocab_size_divisible_by", "seed", "split_ngram_parts", "indexer_n_heads",
        "indexer_kv_heads", "indexer_head_dim", "indexer_budget", "indexer_compress_ratio", "output_gate_type",
        "eos_token_id",
    }),
)  # fmt: skip

FAMILIES = (QWEN4_EXP,)
