"""Which numbers of a checkpoint become which metadata keys: the entries that families share.

Names, types and the choice of keys are those of llama.cpp's `conversion/*.py` (October 2026). `general.file_type`
and `general.quantization_version` are not here: they describe the artifact and are added by the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Literal

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.expressions import evaluate, is_name
from quantkit.families.hparams import BY_LAYER, CONFIG_HINT, Hparams
from quantkit.families.layers import BLOCKS, TRUNK, Layers, block_count
from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.untrusted import shown

MAX_U32 = 2**32 - 1
SHARED = ("diffusion.", "xielu.", "vision.pos_emb_")
MAX_ENTRIES = 1 << 16  # of a list in config.json that becomes an array


@record
class Key:
    """Metadata key `name` (under the architecture's prefix) holds the value `value`; no value, no key.

    `value` is the name of a number, flag or text, or an expression of numbers ("kv_lora_rank+rope"), whose value is cut
    to a whole number for a count. With `array` it names a list. With `nonzero` a zero is no number either, nor is false
    a flag, nor nothing a list. `when` names a number, flag or text without which there is no key.
    """

    name: str
    kind: Literal["u32", "i32", "f32", "bool", "string"]
    value: str
    default: int | None = None
    nonzero: bool = False
    array: bool = False
    when: str | None = None


KeyRow = Key | Callable[[Hparams], Iterable[KeyValue]]


def per_layer(name: str, kind: Literal["i32", "f32", "bool"], value: str, where: Layers) -> KeyRow:
    """An array with an entry for each block: what `value` says in the blocks `where`, 0 elsewhere. Flags need none."""

    def entries(hparams: Hparams) -> Iterable[KeyValue]:
        blocks = range(block_count(hparams))
        if kind == "bool":
            yield KeyValue(name, kind, tuple(where(hparams, block) for block in blocks), array=True)
            return
        inside = int(_number(value, hparams) or 0) if kind == "i32" else _number(value, hparams) or 0.0
        yield KeyValue(name, kind, tuple(inside if where(hparams, block) else 0 for block in blocks), array=True)

    return entries


def of_blocks(name: str, kind: Literal["i32", "bool"], value: str) -> KeyRow:
    """An array with what each block has by the numbers that a family lists for them, where it does."""

    def entries(hparams: Hparams) -> Iterable[KeyValue]:
        own = hparams.values.get(BY_LAYER)
        if own is not None:
            yield KeyValue(name, kind, tuple(one[value] for one in own[: block_count(hparams)]), array=True)

    return entries


def computed(name: str, kind: Literal["u32", "f32", "bool", "string"], value: Callable[[Hparams], object]) -> KeyRow:
    """A key whose value is computed; None for no key, a tuple for an array."""

    def entries(hparams: Hparams) -> Iterable[KeyValue]:
        found = value(hparams)
        if found is None:
            return ()
        array = isinstance(found, tuple)
        held = list(found) if isinstance(found, tuple) else found
        return number(Key(name, kind, last, array=array), Hparams({last: held}))

    last = name.rpartition(".")[2]

    return entries


def without(rows: Iterable[KeyRow], *names: str) -> tuple[KeyRow, ...]:
    """The rows but for the keys of these names."""
    return tuple(row for row in rows if not (isinstance(row, Key) and row.name in names))


def architecture_metadata(architecture: str, entries: Iterable[KeyRow], hparams: Hparams) -> tuple[KeyValue, ...]:
    """The keys below `architecture.` in table order. Raises InputError for a value that its key cannot hold."""
    found: list[KeyValue] = []
    for entry in entries:
        found += number(entry, hparams) if isinstance(entry, Key) else entry(hparams)
    return tuple(replace(kv, key=_full(architecture, kv.key)) for kv in found)


def _full(architecture: str, key: str) -> str:
    """The name in the file; some stand under a name that all share (xIELU, masked tokens) or none (Kimi)."""
    return key if key.startswith(SHARED) else f"{architecture}.{key}"


def number(key: Key, hparams: Hparams) -> Iterable[KeyValue]:
    """The entry of a key, none without its number. Raises InputError for a value that it cannot hold."""
    if key.when is not None and not hparams.values.get(key.when):
        return ()
    if key.array:
        return _array(key, hparams)
    if key.kind in {"bool", "string"}:
        return _said(key, hparams)
    value = _number(key.value, hparams)
    if value is None:
        value = key.default
    if value is None or (key.nonzero and not value):
        return ()
    return (KeyValue(key.name, key.kind, _entry(key, value)),)


def _number(value: str, hparams: Hparams) -> float | None:
    """What a name or an expression gives, None where one of its numbers is missing."""
    if is_name(value):
        return hparams.number(value)
    missing: list[str] = []

    def number_of(name: str) -> float:
        found = hparams.number(name)
        missing.extend([name] if found is None else [])
        return found or 0.0

    found = evaluate(value, number_of)
    return None if missing else found


def _entry(key: Key, value: float) -> float | int:
    """A number as its key holds it."""
    if key.kind == "f32":
        return value
    whole = int(value) if not is_name(key.value) else value
    low, high = (-(2**31), 2**31 - 1) if key.kind == "i32" else (0, MAX_U32)
    if not low <= whole <= high or whole != int(whole):
        what = f"config.json: {key.value} is {value}, expected a count"
        raise InputError(what, key=key.value, path="config.json", hint=CONFIG_HINT)
    return int(whole)


def _said(key: Key, hparams: Hparams) -> Iterable[KeyValue]:
    """A flag or a text."""
    value = hparams.values.get(key.value, key.default)
    if value is None or (key.nonzero and not value):
        return ()
    return (KeyValue(key.name, key.kind, _word(key, value)),)


def _word(key: Key, value: object) -> bool | str:
    if key.kind == "bool" and value in (True, False):
        return bool(value)
    if key.kind == "string" and isinstance(value, str):
        return value
    what = f"config.json: {key.value} is {shown(repr(value)[:80])}, expected a {key.kind}"
    raise InputError(what, key=key.value, path="config.json", hint=CONFIG_HINT)


def _array(key: Key, hparams: Hparams) -> Iterable[KeyValue]:
    """A list of config.json, each entry as the key's kind holds it."""
    values = hparams.values.get(key.value)
    if values is None or (key.nonzero and not values):
        return ()
    if not isinstance(values, list) or not 0 < len(values) <= MAX_ENTRIES:
        what = f"config.json: {key.value} is {shown(repr(values)[:80])}, expected a list"
        raise InputError(what, key=key.value, path="config.json", hint=CONFIG_HINT)
    if key.kind in {"bool", "string"}:
        return (KeyValue(key.name, key.kind, tuple(_word(key, value) for value in values), array=True),)
    found = (Hparams({key.value: value}).required(key.value) for value in values)
    return (KeyValue(key.name, key.kind, tuple(_entry(key, value) for value in found), array=True),)


def blocks(hparams: Hparams) -> Iterable[KeyValue]:
    """How many blocks there are, those that predict further tokens among them."""
    return number(Key("block_count", "u32", BLOCKS if BLOCKS in hparams.values else TRUNK), hparams)


def causality(hparams: Hparams) -> Iterable[KeyValue]:
    """Only a model that attends in both directions says so."""
    return (KeyValue("attention.causal", "bool", False),) if hparams.values.get("is_causal") is False else ()


# rope type -> the value of rope.scaling.type, and the keys written with it. The types that are missing here
# (default, dynamic, mrope, llama3) have no keys: llama3 becomes a tensor, see placements.rope_freqs.
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
UNSCALED = frozenset({"default", "dynamic", "llama3", "mrope"})


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


def no_rope_scaling(hparams: Hparams) -> Iterable[KeyValue]:
    """A family that says in the file where its positions are not scaled."""
    return () if tuple(rope_scaling(hparams)) else (KeyValue("rope.scaling.type", "string", "none"),)


def both_ways(hparams: Hparams) -> Iterable[KeyValue]:
    """Attention is not causal."""
    return (KeyValue("attention.causal", "bool", False),)


def rotated_part(otherwise: float) -> KeyRow:
    """The dimensions of a head that are rotated, `otherwise` that part of it where nothing else is said."""

    def dimensions(hparams: Hparams) -> int:
        share = hparams.number("rope_partial_factor")
        return int(hparams.count("head") * (otherwise if share is None else share))

    return computed("rope.dimension_count", "u32", dimensions)


def original_layout(hparams: Hparams) -> Iterable[KeyValue]:
    """A name that some of the first families carry; nothing reads it."""
    return (KeyValue("tensor_data_layout", "string", "Meta AI original pth"),)


@record
class FirstOf:
    """The first of several numbers that config.json has, under one key."""

    name: str
    kind: Literal["u32", "f32"]
    places: tuple[str, ...]

    def __call__(self, hparams: Hparams) -> Iterable[KeyValue]:
        place = next((place for place in self.places if hparams.number(place) is not None), self.places[-1])
        return number(Key(self.name, self.kind, place), hparams)


def windows(hparams: Hparams) -> Iterable[KeyValue]:
    """Which layers attend to a window, where there is one: by `layer_types`, by letters ("LLLG"), or all but every
    so many."""
    count, pattern = hparams.count("num_hidden_layers"), hparams.values.get("sliding_window_pattern")
    types = hparams.values.get("layer_types")
    if hparams.number("sliding_window") is None:
        return
    if isinstance(types, list):
        if len(types) != count:
            what = f"config.json: layer_types has {len(types)} entries, there are {count} layers"
            raise InputError(what, key="layer_types", path="config.json", hint=CONFIG_HINT)
        found = [kind == "sliding_attention" for kind in types]
    elif isinstance(pattern, str) and pattern:
        found = [pattern[layer % len(pattern)] == "L" for layer in range(count)]
    elif isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
        found = [(layer + 1) % pattern != 0 for layer in range(count)]
    else:
        return
    yield KeyValue("attention.sliding_window_pattern", "bool", tuple(found), array=True)


def partial_rope(hparams: Hparams) -> Iterable[KeyValue]:
    """The dimensions of a head that are rotated, where this is a part of them."""
    head = hparams.count("hidden_size") // hparams.count("num_attention_heads")
    return (KeyValue("rope.dimension_count", "u32", int(_part(hparams) * head)),)


def partial_rope_of_head(hparams: Hparams) -> Iterable[KeyValue]:
    """The same, of a head whose size config.json may say."""
    return (KeyValue("rope.dimension_count", "u32", int(_part(hparams) * hparams.count("head"))),)


def _part(hparams: Hparams) -> float:
    part = hparams.number("rope_partial_factor")
    return 1.0 if part is None else part


RANK = 4  # llama.cpp's enum llama_pooling_type: what rerankers do
LABELS = ("yes", "no")  # the rows of a reranker's output


def classifier(hparams: Hparams) -> Iterable[KeyValue]:
    """What the outputs of a reranker mean."""
    if hparams.values.get(POOLING_TYPE.value) != RANK:
        return ()
    return (KeyValue("classifier.output_labels", "string", LABELS, array=True),)


SIZES: tuple[KeyRow, ...] = (
    blocks,
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
LAYER_EPSILON = Key("attention.layer_norm_epsilon", "f32", "layer_norm_eps")
VOCAB_SIZE = Key("vocab_size", "u32", "vocab_size")
FREQUENCY_BASE = Key("rope.freq_base", "f32", "rope_theta")
LOGIT_SCALE = Key("logit_scale", "f32", "logit_scale")
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
GATING = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}  # llama.cpp's enum llama_expert_gating_func_type


SCORES = (
    "score_function", "scoring_func", "score_func", "moe_router_activation", "moe_router_activation_func",
    "expert_selection_fn",
)  # fmt: skip


def gating(hparams: Hparams) -> Iterable[KeyValue]:
    """How a router's scores become weights, where config.json says it. Raises UnsupportedError for an unknown way."""
    said = next((hparams.values[key] for key in SCORES if hparams.values.get(key) is not None), None)
    if said is None:
        return ()
    if not isinstance(said, str) or said not in GATING:
        what = f'config.json: scoring_func is "{shown(str(said))}"'
        raise UnsupportedError(what, key="scoring_func", hint=f"known: {', '.join(GATING)}")
    return (KeyValue("expert_gating_func", "u32", GATING[said]),)


def sigmoid_unless_said(hparams: Hparams) -> Iterable[KeyValue]:
    """The same of a model whose code knows a sigmoid alone: config.json as transformers saves it does not say it."""
    return tuple(gating(hparams)) or (KeyValue("expert_gating_func", "u32", GATING["sigmoid"]),)


def rope_sections(*default: int) -> KeyRow:
    """How many pairs of dimensions each axis of a position has, padded to four; `default` where nothing says it.

    Raises InputError where neither does: llama.cpp does not load a file without them.
    """

    def entries(hparams: Hparams) -> Iterable[KeyValue]:
        key = "mrope_section"
        settings = (hparams.values.get("rope_scaling"), hparams.values.get("rope_parameters"))
        said = next((s[key] for s in settings if isinstance(s, Mapping) and key in s), default or None)
        if said is None:
            what = f"config.json: {key} is missing, which says how positions are rotated on three axes"
            raise InputError(what, key=key, path="config.json", hint=CONFIG_HINT)
        sections = [*said, 0, 0, 0, 0][:4] if isinstance(said, (list, tuple)) else said
        return _array(
            Key("rope.dimension_sections", "i32", "mrope_section", array=True), Hparams({"mrope_section": sections})
        )

    return entries


ROUTED: tuple[KeyRow, ...] = (  # beside the counts of COMMON
    Key("expert_group_count", "u32", "n_group"),
    Key("expert_group_used_count", "u32", "topk_group"),
    gating,
)
EXPERT_LENGTHS = (
    Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
    Key("expert_shared_feed_forward_length", "u32", "shared_expert_intermediate_size"),
)
