"""Which numbers of a checkpoint become which metadata keys: the entries that families share.

Names, types and the choice of keys are those of llama.cpp's `conversion/*.py` (October 2026). `general.file_type`
and `general.quantization_version` are not here: they describe the artifact and are added by the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.metadata import KeyValue

MAX_U32 = 2**32 - 1


@dataclass(frozen=True)
class Key:
    """Metadata key `name` (under the architecture's prefix) holds the number `value`; no number, no key.

    With `nonzero` a zero is no number either.
    """

    name: str
    kind: Literal["u32", "f32"]
    value: str
    default: int | None = None
    nonzero: bool = False


KeyRow = Key | Callable[[Hparams], Iterable[KeyValue]]


def architecture_metadata(architecture: str, entries: Iterable[KeyRow], hparams: Hparams) -> tuple[KeyValue, ...]:
    """The keys below `architecture.` in table order. Raises InputError for a value that its key cannot hold."""
    found: list[KeyValue] = []
    for entry in entries:
        found += number(entry, hparams) if isinstance(entry, Key) else entry(hparams)
    return tuple(KeyValue(f"{architecture}.{kv.key}", kv.kind, kv.value, kv.array) for kv in found)


def number(key: Key, hparams: Hparams) -> Iterable[KeyValue]:
    """The entry of a key, none without its number. Raises InputError for a value that it cannot hold."""
    value = hparams.number(key.value)
    if value is None:
        value = key.default
    if value is None or (key.nonzero and not value):
        return ()
    if key.kind == "f32":
        return (KeyValue(key.name, "f32", value),)
    if not 0 <= value <= MAX_U32 or value != int(value):
        what = f"config.json: {key.value} is {value}, expected a count"
        raise InputError(what, key=key.value, path="config.json", hint=CONFIG_HINT)
    return (KeyValue(key.name, "u32", int(value)),)


def causality(hparams: Hparams) -> Iterable[KeyValue]:
    """Only a model that attends in both directions says so."""
    return (KeyValue("attention.causal", "bool", False),) if hparams.values.get("is_causal") is False else ()


# rope type -> the value of rope.scaling.type, and the keys written with it. The types that are missing here
# (default, dynamic, llama3) have no keys: llama3 becomes a tensor, see placements.rope_freqs.
SCALING: dict[str, tuple[str, tuple[Key, ...]]] = {
    "linear": ("linear", (Key("rope.scaling.factor", "f32", "rope_factor"),)),
    "yarn": ("yarn", (
        Key("rope.scaling.factor", "f32", "rope_factor"),
        Key("rope.scaling.original_context_length", "u32", "rope_original_context"),
        Key("rope.scaling.yarn_ext_factor", "f32", "rope_extrapolation_factor"),
        Key("rope.scaling.yarn_attn_factor", "f32", "rope_attention_factor"),
        Key("rope.scaling.yarn_beta_fast", "f32", "rope_beta_fast"),
        Key("rope.scaling.yarn_beta_slow", "f32", "rope_beta_slow"),
    )),
    "longrope": ("longrope", ()),
    "su": ("longrope", ()),
}  # fmt: skip
UNSCALED = frozenset({"default", "dynamic", "llama3"})


def rope_scaling(hparams: Hparams) -> Iterable[KeyValue]:
    """The keys of the checkpoint's kind of rope scaling. Raises UnsupportedError for an unknown kind."""
    kind = str(hparams.values.get("rope_type", "default"))
    if kind in UNSCALED:
        return
    if kind not in SCALING:
        known = ", ".join(sorted({*SCALING, *UNSCALED}))
        raise UnsupportedError(f'unknown rope scaling "{kind}"', key="rope_type", hint=f"known: {known}")
    name, keys = SCALING[kind]
    if keys and hparams.number("rope_factor") is None:
        return
    yield KeyValue("rope.scaling.type", "string", name)
    for key in keys:
        yield from number(key, hparams)


RANK = 4  # llama.cpp's enum llama_pooling_type: what rerankers do
LABELS = ("yes", "no")  # the rows of a reranker's output


def classifier(hparams: Hparams) -> Iterable[KeyValue]:
    """What the outputs of a reranker mean."""
    if hparams.values.get(POOLING_TYPE.value) != RANK:
        return ()
    return (KeyValue("classifier.output_labels", "string", LABELS, array=True),)


SIZES = (
    Key("block_count", "u32", "num_hidden_layers"),
    Key("context_length", "u32", "max_position_embeddings"),
    Key("embedding_length", "u32", "hidden_size"),
    Key("feed_forward_length", "u32", "intermediate_size"),
    Key("attention.head_count", "u32", "num_attention_heads"),
    Key("attention.head_count_kv", "u32", "num_key_value_heads"),
)
HEAD_LENGTHS = (
    Key("attention.key_length", "u32", "head_dim"),
    Key("attention.value_length", "u32", "head_dim"),
)
RMS_EPSILON = Key("attention.layer_norm_rms_epsilon", "f32", "rms_norm_eps")
SLIDING_WINDOW = Key("attention.sliding_window", "u32", "sliding_window")
POOLING_TYPE = Key("pooling_type", "u32", "pooling_type")

COMMON: tuple[KeyRow, ...] = (
    *SIZES,
    causality,
    rope_scaling,
    Key("rope.freq_base", "f32", "rope_theta"),
    Key("rope.freq_base_swa", "f32", "rope_theta_swa"),
    RMS_EPSILON,
    Key("expert_count", "u32", "num_local_experts"),
    Key("expert_used_count", "u32", "num_experts_per_tok"),
    *HEAD_LENGTHS,
)
LLAMA: tuple[KeyRow, ...] = (
    *COMMON,
    Key("vocab_size", "u32", "vocab_size"),
    Key("rope.dimension_count", "u32", "head"),
)
EXPERT_LENGTHS = (
    Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
    Key("expert_shared_feed_forward_length", "u32", "shared_expert_intermediate_size"),
)
