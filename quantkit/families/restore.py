"""A family's rows read backwards: from keys and tensors of a GGUF file to config.json and the names of a checkpoint.

Keys that hold a number by its name are turned round; those that families compute, or share, are known by their own
name. What comes out is a proposal: whoever asks describes it as a checkpoint and compares with the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from quantkit.errors import InputError
from quantkit.families.assumptions import normalized_router
from quantkit.families.backwards import llama3_settings
from quantkit.families.expressions import is_name
from quantkit.families.hparams import MAX_LAYERS, Hparams
from quantkit.families.keys import GATING, FirstOf, Key
from quantkit.families.known import known_families
from quantkit.families.layers import BLOCKS, trunk_of
from quantkit.families.mapping import Row, rows_by_source
from quantkit.families.rows import ALWAYS, PRESENT, Family
from quantkit.families.spellings import spelled
from quantkit.metadata import KeyValue
from quantkit.tensors import DTYPE_BYTES, TensorInfo

Constants = Mapping[str, Sequence[float]]
BEHIND_ENCODER = "ForConditionalGeneration"  # an architecture with an encoder, which is in a file of its own
EMBEDDING, TYPES = "token_embd.weight", "token_types.weight"
DERIVED = frozenset({"head", "tokens", "pooling_type", "q_rows", "kv_rows", "qkv_rows", "rope_dim"})
OF_ROPE = "rope_"
OF_THE_FILE = "file."  # names of numbers that families ask for, and that config.json has not
TENSORS, FACTORS = "file.tensors", "file.rope_freqs"

# Keys that families compute, or write under several names -> the number of config.json.
BACK = {
    "context_length": "max_position_embeddings", "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size", "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads", "vocab_size": "vocab_size",
    "expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size", "expert_weights_norm": "norm_topk_prob",
    "expert_weights_scale": "routed_scaling_factor", "expert_shared_count": "n_shared_experts",
    "expert_group_count": "n_group", "expert_group_used_count": "topk_group",
    "leading_dense_block_count": "first_k_dense_replace", "nextn_predict_layers": "num_nextn_predict_layers",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps", "attention.layer_norm_epsilon": "layer_norm_eps",
    "rope.freq_base": "rope_theta", "rope.freq_base_swa": "rope_local_base_freq",
    "attention.sliding_window": "sliding_window", "attention.key_length": "head_dim",
}  # fmt: skip
SCALING = {  # key below rope.scaling -> the setting
    "factor": "factor", "original_context_length": "original_max_position_embeddings",
    "yarn_ext_factor": "extrapolation_factor", "yarn_attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow",
}  # fmt: skip


def families_of(architecture: str) -> tuple[Family, ...]:
    """The families whose files are of an architecture of llama.cpp: first the one that bears its name, then those that
    transformers runs. None of a draft's, which has no tokenizer of its own."""
    found = [family for family in known_families() if family.gguf == architecture and not family.borrows]
    return tuple(sorted(found, key=lambda family: (family.name != architecture, family.unserved is not None)))


def by_itself(family: Family, values: Mapping[str, KeyValue]) -> tuple[Family, Mapping[str, KeyValue], list[str]]:
    """The family, and the entries by key, of a language model that transformers has only behind an encoder; and the
    keys that are left out, which say how images are read or positions on several axes."""
    if family.alone is None:
        return family, values, []
    alone = next(each for each in known_families() if each.name == family.alone.family)
    prefix = f"{family.gguf}."
    own = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
    kept = family.alone.entries(own)
    others = {key: value for key, value in values.items() if not key.startswith(prefix)}
    named = {f"{alone.gguf}.{key}": replace(value, key=f"{alone.gguf}.{key}") for key, value in kept.items()}
    return alone, {**others, **named}, [prefix + key for key in own if key not in kept]


def plain(entry: KeyValue) -> Any:
    """The value of an entry as JSON has it; a float32 by the shortest decimals that give it again."""
    if entry.kind == "f32":
        found = [float(str(np.float32(value))) for value in entry.items()]
    else:
        found = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in entry.items()]  # type: ignore[misc]
    return found if entry.array else found[0]


def restored_config(
    family: Family, metadata: Sequence[KeyValue], tensors: Mapping[str, TensorInfo], constants: Constants
) -> dict[str, Any]:
    """The config.json of a file's model, as a family has it. `constants` are the values of its rope tensors."""
    said = {kv.key.removeprefix(f"{family.gguf}."): plain(kv) for kv in metadata}
    model_type = next(iter(family.defaults))
    defaults = family.defaults[model_type]
    numbers = dict(_numbers(family, said, defaults))
    if EMBEDDING in tensors:
        numbers["vocab_size"] = tensors[EMBEDDING].rows
    if TYPES in tensors:
        numbers["type_vocab_size"] = tensors[TYPES].rows
    layers = said.get("block_count")
    if isinstance(layers, int):
        if layers > MAX_LAYERS:
            message = f"block_count is {layers:,}, expected {MAX_LAYERS:,} at most"
            raise InputError(message, key="block_count", hint="the file is damaged")
        numbers["num_hidden_layers"] = layers - int(said.get("nextn_predict_layers") or 0)
    numbers |= _attention(said, numbers, defaults)
    numbers |= _flags(family, tensors)
    numbers |= _rope(said, constants, numbers)
    local = numbers.pop("rope_local_base_freq", None)
    if local is not None:  # as transformers 5 writes it, for layers of each kind
        full = numbers.pop("rope_scaling") or {"rope_type": "default"}
        numbers["rope_parameters"] = {
            "full_attention": {**full, "rope_theta": numbers.pop("rope_theta", None)},
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        }
    numbers |= _special(metadata)
    if normalized_router in family.assumes:
        numbers.setdefault("norm_topk_prob", True)  # no key says it
    if numbers.get("sliding_window") == 0:
        numbers["sliding_window"] = None
    if family.graph is not None:
        numbers |= family.graph(
            Hparams({**numbers, TENSORS: frozenset(tensors), FACTORS: constants.get("rope_freqs.weight")})
        )
    for spelling, name in family.aliases.items():
        if name in numbers:
            numbers.setdefault(spelling, numbers[name])
    if "num_local_experts" in numbers:
        numbers.setdefault("num_experts", numbers["num_local_experts"])
    kept = {name: value for name, value in numbers.items() if not name.startswith(OF_THE_FILE)}
    alone = (name for name in family.hf if not name.endswith(BEHIND_ENCODER))
    return {"architectures": [next(alone, family.hf[0])], "model_type": model_type, **kept}


def _numbers(family: Family, said: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Numbers by the names of config.json: what keys hold, false for a flag that only has a key where it is set,
    and null for what has a default and no key."""
    back = {**BACK, **family.back}
    for name, target in back.items():
        if name in said and not (isinstance(said[name], list) and name not in family.back):
            yield target, said[name]
    for row in family.keys:
        if isinstance(row, FirstOf) and row.name in said:
            yield row.places[0], said[row.name]
        if not isinstance(row, Key) or not is_name(row.value) or row.value in DERIVED:
            continue
        if row.value.startswith(OF_ROPE) or row.name in family.back:
            continue
        if row.name in said:
            yield row.value, said[row.name]
        elif row.kind == "bool" and row.nonzero:
            yield row.value, False
        elif row.value in defaults and not row.nonzero and row.default is None:
            yield row.value, None


def _attention(said: Mapping[str, Any], numbers: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Head sizes, windows, the share of a head that is rotated, and how routers score."""
    found: dict[str, Any] = {}
    heads, hidden = numbers.get("num_attention_heads"), numbers.get("hidden_size")
    head = numbers.get("head_dim") or said.get("rope.dimension_count")
    if head is None and isinstance(heads, int) and isinstance(hidden, int) and heads:
        head = hidden // heads
    if "head_dim" in defaults or "attention.key_length" in said:
        found["head_dim"] = head
    elif isinstance(heads, int) and isinstance(hidden, int) and heads:
        head = hidden // heads
    rotated = said.get("rope.dimension_count")
    if isinstance(rotated, int) and isinstance(head, int) and head and rotated != head:
        found["partial_rotary_factor"] = rotated / head
    if said.get("attention.causal") is False:
        found["is_causal"] = False
    pattern = said.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        layers = pattern[: numbers.get("num_hidden_layers")]  # without those that predict further tokens
        found["layer_types"] = ["sliding_attention" if windowed else "full_attention" for windowed in layers]
    scoring = {number: name for name, number in GATING.items()}.get(said.get("expert_gating_func", -1))
    if scoring is not None:
        found["scoring_func"] = scoring
    return found


def _flags(family: Family, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """What config.json says of tensors that are there or not: a head of its own, biases."""
    found: dict[str, Any] = {}
    for rows in rows_by_source(family).values():
        for row in rows:
            there = any(target in tensors for target in _targets(row))
            if row.t.unless is not None:
                found[row.t.unless] = not there
            if row.needed not in (ALWAYS, PRESENT):
                found[row.needed] = found.get(row.needed, False) or there
    return found


def _targets(row: Row) -> Iterator[str]:
    if row.stack is None:
        yield row.t.target
    else:
        yield from (row.t.target.format(layer) for layer in range(64))


def _rope(said: Mapping[str, Any], constants: Constants, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Rope scaling in transformers' older spelling, which newer ones read as well."""
    kind = said.get("rope.scaling.type")
    settings = {to: said[f"rope.scaling.{key}"] for key, to in SCALING.items() if f"rope.scaling.{key}" in said}
    if "rope_freqs.weight" in constants:
        return {"rope_scaling": llama3_settings(constants["rope_freqs.weight"], numbers.get("rope_theta"))}
    if "rope_factors_long.weight" in constants:
        factors = {
            f"{length}_factor": [float(str(np.float32(f))) for f in constants[f"rope_factors_{length}.weight"]]
            for length in ("long", "short")
        }
        original = settings.get("original_max_position_embeddings", numbers.get("max_position_embeddings"))
        return {
            "rope_scaling": {"rope_type": "longrope", **factors}, "original_max_position_embeddings": original,
        }  # fmt: skip
    sections = said.get("rope.dimension_sections")
    more = {} if not isinstance(sections, list) else {"mrope_section": _without_zeros(sections)}
    if kind in (None, "none"):
        return {"rope_scaling": {"rope_type": "default", **more} if more else None}
    return {"rope_scaling": {"rope_type": kind, **settings, **more}}


def _without_zeros(values: list[Any]) -> list[Any]:
    return values[: max((n + 1 for n, value in enumerate(values) if value), default=0)]


def _special(metadata: Sequence[KeyValue]) -> dict[str, Any]:
    """Ids of tokens that config.json names."""
    keys = {f"tokenizer.ggml.{kind}_token_id": f"{short}_token_id" for kind, short in (
        ("bos", "bos"), ("eos", "eos"), ("padding", "pad"),
    )}  # fmt: skip
    return {keys[kv.key]: kv.value for kv in metadata if kv.key in keys}


def restored_tensors(
    family: Family, hparams: Hparams, metadata: Sequence[KeyValue], tensors: Mapping[str, TensorInfo]
) -> dict[str, TensorInfo]:
    """The tensors of a checkpoint that give those of a file, in order, as float32, tables of whole numbers as int64.

    Of several ways in which a checkpoint may hold a tensor, the first of the family's rows counts. Raises InputError
    for a number that is missing.
    """
    owner: dict[tuple[str, int], str] = {}
    found: dict[str, TensorInfo] = {}
    layers = trunk_of(hparams)
    claimed = next((kv.value for kv in metadata if kv.key == f"{family.gguf}.nextn_predict_layers"), 0)
    hparams = Hparams({**hparams.values, BLOCKS: layers + (claimed if isinstance(claimed, int) else 0)})
    for rows in rows_by_source(family).values():
        for row in rows:
            for layer in _blocks(row, hparams):
                target = row.t.target.format(layer)
                slot = (target, row.t.order if row.t.total is not None else 0)
                if target not in tensors or owner.setdefault(slot, row.t.source) != row.t.source:
                    continue
                for name in (spelled(family.spellings, name, layers) for name in _names(row, layer, hparams)):
                    shape = tuple(hparams.of_layer(layer).size(axis) for axis in row.t.shape.split())
                    dtype = "I64" if row.t.stored == "i32" else "F32"
                    found.setdefault(name, TensorInfo(name, dtype, shape, DTYPE_BYTES[dtype] * prod(shape)))
    return found


def _blocks(row: Row, hparams: Hparams) -> Iterator[int | None]:
    if row.stack is None:
        yield from (None,) if row.t.where(hparams, 0) else ()
    else:
        yield from (layer for layer in range(row.stack.count(hparams)) if row.t.where(hparams, layer))


def _names(row: Row, layer: int | None, hparams: Hparams) -> Iterator[str]:
    """The source names of a row in a block: one, or one for each expert."""
    holes = row.t.source.count("{}") - (layer is not None)
    first = () if layer is None else (layer,)
    if holes == 0:
        yield row.t.source.format(*first)
    elif holes == 1:
        yield from (row.t.source.format(*first, number) for number in range(hparams.count(row.t.index)))
    else:
        raise InputError(f"{row.t.source} has two numbers", key=row.t.source, hint="this family is not read backwards")
