"""A checkpoint as its family sees it: every tensor of the target and every metadata key, from headers alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, NamedTuple, Protocol

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.assumptions import engine_warnings, name_warnings, rotation_warnings
from quantkit.families.cache import Cache, read_cache
from quantkit.families.general import ReadFile, general_metadata
from quantkit.families.heads import architecture_of, first_named, head_warnings, headed, without_head
from quantkit.families.hparams import Hparams, merged, nested_part
from quantkit.families.keys import POOLING_TYPE, RANK, architecture_metadata
from quantkit.families.known import families_with, known_families
from quantkit.families.layers import DECODING, HELD, KINDS, PASSES, STATES, block_count
from quantkit.families.mapping import loss_warnings, map_tensors
from quantkit.families.model import Model, Shape
from quantkit.families.no_engine import NO_ENGINE
from quantkit.families.reranker import is_reranker, judging
from quantkit.families.roles import Role
from quantkit.families.rows import Family
from quantkit.families.uncarried import UNCARRIED
from quantkit.families.unread import UNREAD
from quantkit.families.wrapped import WRAPPED
from quantkit.metadata import KeyValue
from quantkit.tensors import TensorInfo
from quantkit.untrusted import listed, shown

STREAMS = ("altup_num_inputs", "hc_count", "hc_mult", STATES)  # how many hidden states a token has
LOOKED_UP = ("has_table", "num_hash_layers")  # of blocks that look something up by the ids of tokens
# sentence-transformers' name of a pooling mode, or the flag that older files set -> llama.cpp's enum llama_pooling_type
POOLING = {
    "mean": 1, "pooling_mode_mean_tokens": 1,
    "cls": 2, "pooling_mode_cls_token": 2,
    "lasttoken": 3, "pooling_mode_lasttoken": 3,
}  # fmt: skip


class ReadTokenizer(Protocol):
    """What a description needs of a tokenizer: its metadata, canonical hash and number of tokens."""

    @property
    def metadata(self) -> tuple[KeyValue, ...]: ...

    @property
    def sha256(self) -> str | None: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def warnings(self) -> tuple[tuple[str, str], ...]: ...


class Named(NamedTuple):
    """A family, and the architecture of config.json that decided it, as its name is with a head."""

    family: Family
    architecture: str


def describe(
    tensors: Mapping[str, TensorInfo],
    config: Mapping[str, Any],
    read_file: ReadFile,
    named: Named,
    vocabulary: ReadTokenizer,
    *,
    name: str,
) -> Model:
    """Describe the target of a Hugging Face checkpoint. Reads side files through `read_file`, never a weight.

    `config` is the parsed config.json, `named` what `find_family` says of it; `name` what a person calls the
    checkpoint. Raises UnsupportedError for a tensor that no row describes; InputError for what is missing or
    contradicts itself.
    """
    family, architecture = named
    hparams = _hparams(config, family, vocabulary.vocab_size, read_file, tensors)
    mapped, dropped = map_tensors(family, without_head(config, hparams, tensors), tensors)
    judge = family.reranks and is_reranker(name, config, read_file)
    if judge:
        hparams = replace(hparams, values={**hparams.values, POOLING_TYPE.value: RANK})
        mapped, tokens = judging(mapped, vocabulary.metadata)
    else:
        tokens = vocabulary.metadata
    general = general_metadata(name, config, read_file, mapped)
    remote = (("remote-code", "config.json names code of its own (auto_map); it is never run"),)
    headless = () if judge else head_warnings(config, hparams, tensors, dropped)
    written = architecture_metadata(family.gguf, family.keys, hparams)
    stretched = any(tensor.role is Role.ROPE for tensor in mapped)
    dense = _further_modules(read_file) if POOLING_TYPE in family.keys else ()
    warnings = (*(remote if "auto_map" in config else ()), *general.warnings, *vocabulary.warnings, *headless, *dense)
    return Model(
        family=family.name,
        architecture=architecture,
        gguf_architecture=family.gguf,
        shape=_as_written(shape_of(hparams), family.gguf, written),
        tensors=mapped,
        metadata=(
            KeyValue("general.architecture", "string", family.gguf),
            *general.metadata,
            *written,
            *tokens,
        ),
        tokenizer_sha256=vocabulary.sha256,
        dropped=dropped,
        warnings=(
            *warnings,
            *loss_warnings(family, dropped),
            *engine_warnings(family.assumes, hparams),
            *(rotation_warnings(hparams, written, factors=stretched) if family.rotates else ()),
            *name_warnings(family.gguf, (*general.metadata, *vocabulary.metadata)),
        ),
    )


def _as_written(shape: Shape, architecture: str, written: Sequence[KeyValue]) -> Shape:
    """The numbers as an engine finds them in the file: layer 0's where every layer has its own."""
    values = {kv.key.removeprefix(f"{architecture}."): kv.items()[0] for kv in written if kv.items()}

    def told(key: str, otherwise: int) -> int:
        found = values.get(key)
        return found if isinstance(found, int) else otherwise

    heads = told("attention.head_count", shape.heads)
    return replace(
        shape,
        heads=heads,
        kv_heads=told("attention.head_count_kv", heads),
        head_dim=told("attention.key_length", shape.head_dim),
        context=told("context_length", shape.context),
    )


def require_fitting(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> None:
    """What has to hold before a tokenizer is read.

    Raises UnsupportedError for weights that are quantized already, InputError for more tokens than any tensor has rows:
    a vocabulary of that size would be built.
    """
    _check_unquantized(config)
    size = merged(config).get("vocab_size")
    most = max((info.shape[0] for info in tensors.values() if info.shape), default=0)
    if isinstance(size, int) and size > most:
        message = f"config.json: vocab_size is {shown(str(size), 20)}, the largest tensor has {most:,} rows"
        hint = "the configuration and the weights are of different models: fetch both again"
        raise InputError(message, path="config.json", key="vocab_size", hint=hint)


def find_family(config: Mapping[str, Any]) -> Named:
    """The family of a parsed config.json, and the architecture that decided it, as its name is with a head.

    By `architectures` (a nested `text_config`'s first), else by `model_type`; never by the name of the checkpoint.
    What AutoModel and sentence-transformers save ("Qwen3Model") is what it is with a head ("Qwen3ForCausalLM"). Of a
    model around a language model (`families.wrapped`) it is that of the latter, which reads the names of the former.
    Raises UnsupportedError naming the architecture and the nearest known ones, InputError if there is none.
    """
    outer = first_named(config)
    around = WRAPPED.get(outer) if outer else None
    said, model_type = around.inside if around else architecture_of(config), config.get("model_type")
    architecture = (headed(said) or said) if said else None
    if architecture is not None:
        rows = [family for family in families_with(architecture) if architecture in family.hf]
    else:
        rows = _of_type(model_type)
    if rows:
        family = _the_one(rows, config, architecture or str(model_type))
        if merged(config).get("use_bidirectional_attention") is True and not family.embeds:
            what = f'"{shown(said or str(model_type))}" attends in both directions, which llama.cpp does not here'
            raise UnsupportedError(what, key="use_bidirectional_attention", hint="use it with sentence-transformers")
        return Named(around.around(family) if around else family, architecture or family.hf[0])
    wanted = architecture or model_type
    if not isinstance(wanted, str):
        message = "config.json names neither an architecture nor a model type"
        raise InputError(message, path="config.json", key="architectures", hint="is this a transformers checkpoint?")
    if architecture is None:  # a model type of several parts, or of one family among many
        alone = f'its model type "{shown(wanted)}" alone names no family'
        what = f"config.json names no architecture, and {alone}, the nearest known: {_nearest(wanted)}"
        hint = 'add the list of "architectures" to config.json that the model was published with'
        raise UnsupportedError(what, key="architectures", hint=hint)
    raise _unknown(wanted if outer in (None, wanted) else f"{outer} ({wanted})", "auto_map" in config)


def inner_family(config: Mapping[str, Any]) -> Named:
    """The family of the language model inside a model with an encoder, of a parsed config.json.

    By the architectures that name one, else by the model type of its own part: what stands before a Llama is another
    architecture, but the Llama is one. Raises what `find_family` raises.
    """
    try:
        return find_family(config)
    except UnsupportedError:
        part = nested_part(config) or {}
        kind = part.get("model_type")
        rows = _of_type(kind)
        if not rows:
            raise
        family = _the_one(rows, config, str(kind))
        return Named(family, family.hf[0])


def _of_type(model_type: object) -> list[Family]:
    """The families that have a model type of config.json, none for what is no name."""
    return [f for f in families_with(model_type) if isinstance(model_type, str) and model_type in f.defaults]


def _the_one(rows: Sequence[Family], config: Mapping[str, Any], wanted: str) -> Family:
    """Of the rows of one architecture the one whose condition holds. Raises UnsupportedError for none, or several."""
    found = [family for family in rows if family.serves(config)]
    if len(found) == 1:
        return found[0]
    said = "; ".join(f"{family.name}: {family.when.text if family.when else 'always'}" for family in found or rows)
    what = f'{len(found) or "no"} families match "{shown(wanted)}"'
    raise UnsupportedError(f"{what} ({said})", key="architectures", hint="compare config.json with these conditions")


def _unknown(wanted: str, code: bool) -> UnsupportedError:
    if wanted in NO_ENGINE:
        message = f"llama.cpp cannot run {wanted}: {NO_ENGINE[wanted]}"
        raise UnsupportedError(message, key="architectures", hint="run it with transformers, or choose another model")
    if wanted in UNCARRIED:
        message = f"{wanted} is an encoder: {UNCARRIED[wanted].reason}"
        raise UnsupportedError(message, key="architectures", hint=UNCARRIED[wanted].instead)
    if wanted in UNREAD:
        message = f"llama.cpp's converter reads {wanted}, quantkit does not yet"
        raise UnsupportedError(message, key="architectures", hint=UNREAD[wanted])
    hint = "`quantkit schemes --families` lists what is known"
    if wanted.endswith("ForSequenceClassification"):
        hint = (
            "heads that classify are not read; of rerankers, give the Qwen3ForCausalLM checkpoint that Qwen published"
        )
    more = "; the checkpoint's own code (auto_map) is never run" if code else ""
    return UnsupportedError(
        f'unknown model family "{shown(wanted)}", the nearest known: {_nearest(wanted)}',
        key="architectures",
        hint=hint + more,
    )


def _nearest(wanted: str) -> str:
    known = [name for family in known_families() for name in family.hf]
    return ", ".join(get_close_matches(wanted[:100], known, n=2, cutoff=0.0))


def _check_unquantized(config: Mapping[str, Any]) -> None:
    quantization = config.get("quantization_config")
    if quantization is None:
        return
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else quantization
    message = f'the weights are quantized already (quantization_config: "{shown(str(method))}")'
    hint = "start from the original checkpoint in bf16, f16 or f32"
    raise UnsupportedError(message, key="quantization_config", hint=hint)


def _hparams(
    config: Mapping[str, Any], family: Family, tokens: int, read_file: ReadFile, tensors: Mapping[str, TensorInfo]
) -> Hparams:
    hparams = family.numbers(config, tensors)
    pooling = _pooling(read_file) if POOLING_TYPE in family.keys else None
    return replace(hparams, values={**hparams.values, "tokens": tokens, POOLING_TYPE.value: pooling})


def _modules(read_file: ReadFile, kind: str) -> list[str]:
    """The folders of the modules of a kind that sentence-transformers' modules.json lists."""
    modules = _parsed("modules.json", read_file("modules.json"), list)
    return [str(m.get("path")) for m in modules if isinstance(m, dict) and str(m.get("type")).endswith(kind)]


def _further_modules(read_file: ReadFile) -> tuple[tuple[str, str], ...]:
    """A word on matrices after pooling, which are of other files and stay out, as llama.cpp's converter leaves them."""
    paths = _modules(read_file, "Dense")
    if not paths:
        return ()
    what = f"{listed(paths, 3)} of modules.json change an embedding after pooling and are not in the file"
    return (("dense-modules", f"{what}: apply them to what llama.cpp gives, or it is another embedding"),)


def _pooling(read_file: ReadFile) -> int | None:
    """How an embedding model pools (sentence-transformers' modules.json); None for a model that is none."""
    paths = _modules(read_file, "Pooling")
    if not paths or not re.fullmatch(r"\w[\w.-]*", paths[0]):
        return None
    said = read_file(f"{paths[0]}/config.json")
    if said is None:
        what = f"{paths[0]}/config.json is missing, which says how vectors are pooled: modules.json names it"
        hint = "fetch the folders inside the checkpoint's, too"
        raise InputError(what, path=f"{paths[0]}/config.json", hint=hint)
    pooling = _parsed(f"{paths[0]}/config.json", said, dict)
    for key, value in POOLING.items():
        if pooling.get(key) is True or pooling.get("pooling_mode") == key:
            return value
    message = f"{paths[0]}/config.json: unknown pooling mode"
    raise UnsupportedError(message, path=f"{paths[0]}/config.json", hint="known: mean, cls, lasttoken")


def _parsed(name: str, data: bytes | None, kind: type) -> Any:
    """What the file `name` holds, an empty `kind` where there is none. Raises InputError for anything but JSON of this
    kind: a model that pools otherwise than it says gives other vectors."""
    if data is None:
        return kind()
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, kind):
        what = f"{name}: no JSON {'list' if kind is list else 'object'}, and it says how vectors are pooled"
        raise InputError(what, path=name, hint="the file is damaged: fetch it again")
    return parsed


def shape_of(hparams: Hparams) -> Shape:
    """The numbers of an architecture that recipes and size estimates need."""
    moe = hparams.number("num_local_experts") not in (None, 0)
    attention = hparams.values["num_attention_heads"] != 0
    kv_heads = hparams.count("num_key_value_heads") if attention else 0
    cache = read_cache({**hparams.values, "num_key_value_heads": kv_heads}, str(hparams.values.get("model_type")))
    return Shape(
        layers=block_count(hparams),
        hidden=hparams.count("hidden_size"),
        heads=hparams.count("num_attention_heads") if attention else 0,
        kv_heads=kv_heads,
        head_dim=hparams.count("head") if attention else 0,
        experts=hparams.count("num_local_experts") if moe else 0,
        experts_used=hparams.count("num_experts_per_tok") if moe else 0,
        vocab=hparams.count("vocab_size"),
        context=hparams.count("max_position_embeddings"),
        cache=cache,
        besides=_besides(hparams, cache),
        passes=int(hparams.number(PASSES) or 0),
        held=int(hparams.number(HELD) or 0) * hparams.count("hidden_size"),
        decoding=int(hparams.number(DECODING) or 0),
    )


def _besides(hparams: Hparams, cache: Cache) -> int:
    """Numbers that blocks hand on for a token besides a hidden state: further ones, vectors for the blocks, its id,
    keys and values that are shared by layers of each kind, and places of tokens that later layers attend to."""
    streams = max(int(hparams.number(key) or 0) for key in STREAMS)
    vector = int(hparams.number("hidden_size_per_layer_input") or 0)
    kinds = {layer.window is None: layer.rows for layer in cache.layers} if cache.shared else {}
    shared = sum(heads * head for rows in kinds.values() for heads, head in rows)
    looked_up = any(hparams.values.get(key) for key in LOOKED_UP)
    given = max(streams - 1, 0) * hparams.count("hidden_size") + block_count(hparams) * vector + looked_up
    return given + shared + _chosen(hparams)


def _chosen(hparams: Hparams) -> int:
    """How many places of tokens a layer hands on to those that choose none; of pools, and of the last one's tokens."""
    if not any("shared" in (hparams.values.get(key) or ()) for key in (KINDS, "indexer_types")):
        return 0
    tail = int(hparams.number("index_kpool") or 1) - 1 if hparams.flag("index_kpool_always_select_tail") else 0
    return hparams.count("index_topk") + tail
