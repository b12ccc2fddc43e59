"""A GGUF file as a source: roles from tensor names, numbers from metadata, so that any architecture works."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.cache import read_cache
from quantkit.families.model import Model, ModelTensor, Rows, Shape
from quantkit.families.roles import role_of, stays_f32
from quantkit.metadata import KeyValue
from quantkit.tensors import TensorInfo

LAYER = re.compile(r"blk\.([0-9]{1,6})\.")
EXPERT = re.compile(r"blk\.[0-9]{1,6}\.ffn_(?:gate|up|down)\.[0-9]{1,6}\.weight")

# What describes the source file and not the model (llama-quant.cpp drops or rewrites these).
FILE_KEYS = frozenset({"general.file_type", "general.quantization_version", "general.alignment"})

TOKENS, TOKEN_TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"


def describe_gguf(tensors: Mapping[str, TensorInfo], metadata: tuple[KeyValue, ...]) -> Model:
    """Describe the target of a GGUF source: the same tensors, and its metadata without what is about the file.

    What the families keep in f32 keeps the type it has. Raises InputError if the file names no architecture or its
    vocabulary is not that of its embedding.
    """
    values = {kv.key: kv for kv in metadata}
    named = values.get("general.architecture")
    architecture = named.value if named else None
    if not isinstance(architecture, str) or not architecture:
        message = "the GGUF file has no general.architecture"
        raise InputError(message, key="general.architecture", hint="is this a model, and not an adapter or imatrix?")
    _require_stacks(tensors)
    _require_vocabulary(tensors, values)
    return Model(
        family=architecture,
        architecture=architecture,
        gguf_architecture=architecture,
        shape=_shape(architecture, values),
        tensors=tuple(_tensor(info) for info in tensors.values()),
        metadata=tuple(kv for kv in metadata if kv.key not in FILE_KEYS and not kv.key.startswith("split.")),
        tokenizer_sha256=None,
        dropped={},
    )


def _require_stacks(tensors: Mapping[str, TensorInfo]) -> None:
    """Raise UnsupportedError for a mixture with a tensor per expert: llama.cpp reads stacks only, since 2024."""
    single = [name for name in tensors if EXPERT.fullmatch(name)]
    if single:
        what = f'"{single[0]}" is the tensor of one expert, and llama.cpp no longer reads files with such'
        hint = "make the file again from the checkpoint, which stacks the experts"
        raise UnsupportedError(what, tensor=single[0], hint=hint)


def _require_vocabulary(tensors: Mapping[str, TensorInfo], values: Mapping[str, KeyValue]) -> None:
    """A token for each row of the embedding, and a score and a type for each token: llama.cpp loads nothing else."""
    tokens, embedding = values.get(TOKENS), tensors.get("token_embd.weight")
    if tokens is None:
        return
    count = len(tokens.items())
    sizes = {key: len(values[key].items()) for key in ("tokenizer.ggml.scores", TOKEN_TYPES) if key in values}
    if embedding is not None:
        sizes["token_embd.weight"] = embedding.rows
    for name, size in sizes.items():
        if size != count:
            what = f"{name} has {size:,} entries, the vocabulary of the file {count:,} tokens"
            raise InputError(what, key=name, hint="the file is damaged: make it again from its checkpoint")


def _tensor(info: TensorInfo) -> ModelTensor:
    name, layer = info.name, LAYER.match(info.name)
    vector = len(info.shape) == 1 or info.rows == 1
    kept = vector or stays_f32(name, len(info.shape))
    return ModelTensor(
        name=name,
        role=role_of(name),
        shape=info.shape,
        parts=(Rows(name, 0, info.rows),),
        layer=int(layer[1]) if layer else None,
        stored=info.dtype.lower() if kept else None,
    )


def _shape(architecture: str, values: Mapping[str, KeyValue]) -> Shape:
    def count(key: str, default: int = 0) -> int:
        """A count, layer 0's where every layer has its own; `default` where the file does not say."""
        entry = values.get(f"{architecture}.{key}")
        found = entry.items()[:1] if entry else []
        return found[0] if found and isinstance(found[0], int) else default

    hidden, heads = count("embedding_length"), count("attention.head_count")
    tokens = values.get(TOKENS)
    head = count("attention.key_length") or (hidden // heads if heads else 0)

    def each(key: str) -> list[int]:
        """The numbers of all layers, truths as 0 and 1; none where the file has one for all."""
        entry = values.get(f"{architecture}.{key}")
        return [int(one) for one in entry.items() if isinstance(one, int)] if entry and entry.array else []

    said: dict[str, Any] = {
        "num_hidden_layers": count("block_count") - count("nextn_predict_layers"),
        "num_key_value_heads": max([count("attention.head_count_kv", heads), *each("attention.head_count_kv")]),
        "head": head,
        "sliding_window": count("attention.sliding_window"),
        "kv_lora_rank": count("attention.kv_lora_rank"),
        "qk_rope_head_dim": count("rope.dimension_count"),
        "full_attention_interval": count("full_attention_interval"),
    }
    windows, heads_of = each("attention.sliding_window_pattern"), each("attention.head_count_kv")
    if windows:
        said["layer_types"] = ["sliding_attention" if one else "full_attention" for one in windows]
    elif 0 in heads_of:
        said["layer_types"] = ["full_attention" if one else "recurrent" for one in heads_of]
    return Shape(
        layers=count("block_count"),
        hidden=hidden,
        heads=heads,
        kv_heads=count("attention.head_count_kv", heads),
        head_dim=head,
        experts=count("expert_count"),
        experts_used=count("expert_used_count"),
        vocab=count("vocab_size") or (len(tokens.items()) if tokens else 0),
        context=count("context_length"),
        cache=read_cache(said, architecture),
    )
