"""Gemma 4: layers with a window and global ones with heads of their own; the small ones share keys and values.

In the last layers of the small models keys and values are those of earlier layers, and every layer is given a vector of
its own for each token. The large mixture computes its experts beside a dense MLP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families import assumptions, folds, keys
from quantkit.families.backwards import not_read
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.known.gemma import ENCODERS, FINAL_CAP, NORMS, SHARING, first_sharing
from quantkit.families.layers import (
    KINDS,
    TRUNK,
    Layers,
    before,
    both,
    by_rule,
    first_said,
    flagged,
    from_,
    kind,
    listed,
    not_,
    of_period,
)
from quantkit.families.model import ModelTensor
from quantkit.families.placements import constant, vocabulary
from quantkit.families.roles import Role
from quantkit.families.rows import (
    EMBEDDING,
    FINAL_NORM,
    FREQUENCIES,
    HEAD,
    Condition,
    Family,
    T,
    TokenizerRules,
    at,
    optional,
)
from quantkit.metadata import KeyValue
from quantkit.untrusted import shown

SLIDING, FULL = "sliding_attention", "full_attention"
HEADS, HIDDEN, WIDTH, PER_LAYER = "num_attention_heads", "hidden_size", "moe_intermediate_size", "per_layer"
FULL_HEAD, FULL_KV, FIRST_SHARED = "global_head_dim", "num_global_key_value_heads", "first_shared"
SHARED_WIDTH = "shared_width"
FAR = 1e30  # a factor of a frequency that leaves its dimensions as they are
PROPORTIONAL = "proportional"


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """Heads of global layers, where sharing begins, how wide the MLPs are there, which dimensions are rotated."""
    head, heads = of_full_layers(hparams, "head_dim"), of_full_layers(hparams, "num_key_value_heads")
    own = hparams.values.get(FULL_KV) if hparams.flag("attention_k_eq_v") else None
    heads = own if own is not None else heads
    rotation = str(hparams.values.get("rope_type", PROPORTIONAL))
    if rotation not in {PROPORTIONAL, "default"}:
        message = f'rope scaling "{shown(rotation)}" of the global layers, which llama.cpp has not for Gemma 4'
        raise UnsupportedError(message, key="rope_type", hint=f"known: {PROPORTIONAL}, default")
    part = hparams.number("rope_partial_factor") if rotation == PROPORTIONAL else 1.0
    wide = 2 if hparams.flag("use_double_wide_mlp") else 1
    kinds = hparams.values[KINDS]
    full_head = hparams.values.get(FULL_HEAD) or head or 512
    full_kv = heads if heads is not None else hparams.count("num_key_value_heads")
    return {
        KINDS: [*kinds[:-1], FULL],  # as transformers has it, whatever the list says
        "layer_types": [*kinds[:-1], FULL],
        FULL_HEAD: full_head,
        FULL_KV: full_kv,
        "unlike_heads": heads is not None,
        FIRST_SHARED: first_sharing(hparams),
        SHARED_WIDTH: wide * hparams.count("intermediate_size"),
        PER_LAYER: bool(hparams.number("hidden_size_per_layer_input")),
        "rope_type": "default",
        "rotated_part": 0.25 if part is None else part,
    }  # fmt: skip


def of_full_layers(hparams: Hparams, key: str) -> int | None:
    """What transformers 5 writes of the global layers, one entry for each of them; None where it says nothing.

    Raises InputError for entries that differ, or that are of other layers: there is one number in the file.
    """
    config = hparams.values.get("per_layer_config") or {}
    if not isinstance(config, Mapping):
        raise _unlike("expected an object")
    kinds = hparams.values[KINDS]
    found: dict[str, list[Any]] = {SLIDING: [], FULL: []}
    for layer, name in enumerate(kinds):
        entry = config.get(str(layer))
        found[name].append(entry.get(key) if isinstance(entry, Mapping) else None)
    said, otherwise = next(iter(found[FULL]), None), (None, hparams.values.get(key))
    if any(one != said for one in found[FULL]) or any(one not in otherwise for one in found[SLIDING]):
        raise _unlike(f"gives layers of one kind unlike {key}")
    return None if said is None else Hparams({key: said}).count(key)


def _unlike(what: str) -> InputError:
    message = f"config.json: per_layer_config {what}"
    return InputError(message, key="per_layer_config", path="config.json", hint=CONFIG_HINT)


def proportional(hparams: Hparams) -> tuple[ModelTensor, ...]:
    """Factors of the global layers' frequencies: only the first dimensions of a head are rotated."""
    half = hparams.count(FULL_HEAD) // 2
    rotated = int(hparams.count(FULL_HEAD) * hparams.required("rotated_part") / 2)
    if not 0 <= rotated <= half:
        message = f"config.json: partial_rotary_factor is {hparams.required('rotated_part'):g}, expected 0 to 1"
        raise InputError(message, key="partial_rotary_factor", path="config.json", hint=CONFIG_HINT)
    return (constant("rope_freqs.weight", [1.0] * rotated + [FAR] * (half - rotated)),)


def attention(where: str, head: str, kv_heads: str) -> tuple[T, ...]:
    """The attention of one kind of layers, whose keys and values the last layers need not have."""
    of_kind: Layers = kind(where)
    values = not_(flagged("attention_k_eq_v")) if where == FULL else of_kind
    keys_of = (
        T("self_attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, f"{kv_heads}*{head} {HIDDEN}"),
        T("self_attn.k_norm.weight", "attn_k_norm.weight", Role.NORM, head),
    )
    values_of = (T("self_attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, f"{kv_heads}*{head} {HIDDEN}"),)
    return (
        *at(of_kind, (
            T("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, f"{HEADS}*{head} {HIDDEN}"),
            T("self_attn.q_norm.weight", "attn_q_norm.weight", Role.NORM, head),
            T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, f"{HIDDEN} {HEADS}*{head}"),
        )),
        *at(both(of_kind, before(FIRST_SHARED)), keys_of),
        *at(both(of_kind, before(FIRST_SHARED), values), values_of),
        *optional(at(both(of_kind, from_(FIRST_SHARED)), keys_of)),
        *optional(at(both(of_kind, from_(FIRST_SHARED), values), values_of)),
    )  # fmt: skip


def mlp(width: str) -> tuple[T, ...]:
    return (
        T("mlp.gate_proj.weight", "ffn_gate.weight", Role.FFN_GATE, f"{width} {HIDDEN}"),
        T("mlp.up_proj.weight", "ffn_up.weight", Role.FFN_UP, f"{width} {HIDDEN}"),
        T("mlp.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, f"{HIDDEN} {width}"),
    )


MIXTURE = at(flagged("enable_moe_block"), (
    T("router.proj.weight", "ffn_gate_inp.weight", Role.ROUTER, f"num_local_experts {HIDDEN}"),
    T("router.scale", "ffn_gate_inp.scale", Role.OTHER, HIDDEN),
    T("router.per_expert_scale", "ffn_down_exps.scale", Role.OTHER, "num_local_experts"),
    T("experts.gate_up_proj", "ffn_gate_up_exps.weight", Role.FFN_GATE_UP, f"num_local_experts 2*{WIDTH} {HIDDEN}"),
    T("experts.down_proj", "ffn_down_exps.weight", Role.FFN_DOWN, f"num_local_experts {HIDDEN} {WIDTH}"),
    T("post_feedforward_layernorm_1.weight", "post_ffw_norm_1.weight", Role.NORM, HIDDEN),
    T("post_feedforward_layernorm_2.weight", "post_ffw_norm_2.weight", Role.NORM, HIDDEN),
    T("pre_feedforward_layernorm_2.weight", "pre_ffw_norm_2.weight", Role.NORM, HIDDEN),
))  # fmt: skip
OF_TOKEN = at(flagged(PER_LAYER), (
    T("per_layer_input_gate.weight", "inp_gate.weight", Role.OTHER, f"hidden_size_per_layer_input {HIDDEN}"),
    T("per_layer_projection.weight", "proj.weight", Role.OTHER, f"{HIDDEN} hidden_size_per_layer_input"),
    T("post_per_layer_input_norm.weight", "post_norm.weight", Role.NORM, HIDDEN),
))  # fmt: skip
OF_ALL_LAYERS = f"{TRUNK}*hidden_size_per_layer_input"


def width_of_blocks(hparams: Hparams) -> Iterable[KeyValue]:
    """A number for each block where the last are wider."""
    width, shared = hparams.count("intermediate_size"), hparams.count(SHARED_WIDTH)
    if not hparams.flag("use_double_wide_mlp"):
        return (KeyValue("feed_forward_length", "u32", width),)
    first = int(hparams.required(FIRST_SHARED))
    widths = tuple(width if layer < first else shared for layer in range(hparams.count(TRUNK)))
    return (KeyValue("feed_forward_length", "i32", widths, array=True),)


def heads_of_blocks(hparams: Hparams) -> Iterable[KeyValue]:
    """A number for each block where global layers have heads of their own."""
    plain, full = hparams.count("num_key_value_heads"), hparams.count(FULL_KV)
    if not hparams.flag("unlike_heads"):
        return (KeyValue("attention.head_count_kv", "u32", plain),)
    heads = tuple(full if name == FULL else plain for name in hparams.values[KINDS])
    return (KeyValue("attention.head_count_kv", "i32", heads, array=True),)


def seen_by_all(hparams: Hparams) -> str | None:
    """Text is read from left to right; what "vision" says is of images alone."""
    return "use_bidirectional_attention is all" if hparams.values.get("use_bidirectional_attention") == "all" else None


def shares_between_layers(said: Mapping[str, Any]) -> bool:
    """Whether layers are given vectors of each token, or keys and values of earlier layers."""
    return bool(said.get("hidden_size_per_layer_input", 256) or said.get(SHARING))


BACK = {
    "attention.key_length": FULL_HEAD, "attention.key_length_swa": "head_dim",
    "attention.head_count_kv": "file.kv_heads", "feed_forward_length": "file.widths",
}  # fmt: skip


def of_file(hparams: Hparams) -> Mapping[str, Any]:
    """What a file's lists and tensors say: heads and widths of each kind of layers, and how far they are rotated."""
    values = hparams.values
    kinds, tensors = values.get("layer_types") or [FULL], values["file.tensors"]
    factors, rotation = values.get("file.rope_freqs") or (), values.get("rope_parameters") or {}
    heads, widths = values.get("file.kv_heads"), values.get("file.widths")
    found: dict[str, Any] = {}
    if isinstance(heads, list) and len(heads) == len(kinds):
        of_kind = dict(zip(kinds, heads, strict=True))
        found = {"num_key_value_heads": of_kind.get(SLIDING, heads[0]), FULL_KV: of_kind.get(FULL)}
    proportional = {"rope_type": PROPORTIONAL, "partial_rotary_factor": factors.count(1.0) / max(len(factors), 1)}
    base = {"rope_theta": rotation.get("full_attention", {}).get("rope_theta")}
    values_of = f"blk.{kinds.index(FULL) if FULL in kinds else 0}.attn_v.weight"
    return {
        "num_key_value_heads": heads,
        "intermediate_size": widths[0] if isinstance(widths, list) and widths else widths,
        "use_double_wide_mlp": isinstance(widths, list),
        "attention_k_eq_v": values_of not in tensors,
        "enable_moe_block": values.get("num_local_experts") is not None,
        "vocab_size_per_layer_input": values.get("vocab_size"),
        "partial_rotary_factor": None,
        "rope_parameters": {**rotation, "full_attention": {**proportional, **base}},
        **found,
    }


GEMMA4 = Family(
    name="gemma4",
    gguf="gemma4",
    hf=("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"),
    when=Condition("layers read only what the one before gives", lambda said: not shares_between_layers(said)),
    defaults={
        "gemma4_text": {
            "vocab_size": 262144, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 10000.0, "tie_word_embeddings": True,
            "sliding_window": 512, "hidden_size_per_layer_input": 256, SHARING: 0,
            "hidden_activation": "gelu_pytorch_tanh",
        },
    },
    outside=(
        replace(EMBEDDING, place=vocabulary),
        FINAL_NORM,
        HEAD,
        *(
            replace(t, source=f"model.{t.source}", where=flagged(PER_LAYER))
            for t in (
                T("embed_tokens_per_layer.weight", "per_layer_token_embd.weight", Role.TOKEN_EMBD,
                  f"vocab_size {OF_ALL_LAYERS}", vocabulary),
                T("per_layer_model_projection.weight", "per_layer_model_proj.weight", Role.OTHER,
                  f"{OF_ALL_LAYERS} {HIDDEN}"),
                T("per_layer_projection_norm.weight", "per_layer_proj_norm.weight", Role.NORM,
                  "hidden_size_per_layer_input"),
            )
        ),
    ),
    block=(
        *NORMS,
        *attention(SLIDING, "head", "num_key_value_heads"),
        *attention(FULL, FULL_HEAD, FULL_KV),
        *at(before(FIRST_SHARED), mlp("intermediate_size")),
        *at(from_(FIRST_SHARED), mlp(SHARED_WIDTH)),
        *MIXTURE,
        *OF_TOKEN,
        *optional((T("layer_scalar", "layer_output_scale.weight", Role.OTHER, "1"),)),
    ),
    keys=(
        *keys.without(keys.COMMON, "feed_forward_length", "attention.head_count_kv", "attention.key_length",
                      "attention.value_length"),
        width_of_blocks,
        heads_of_blocks,
        FINAL_CAP,
        keys.SLIDING_WINDOW,
        keys.Key("attention.shared_kv_layers", "u32", SHARING),
        keys.Key("embedding_length_per_layer_input", "u32", "hidden_size_per_layer_input", default=0),
        keys.per_layer("attention.sliding_window_pattern", "bool", "", kind(SLIDING)),
        keys.Key("attention.key_length", "u32", FULL_HEAD),
        keys.Key("attention.value_length", "u32", FULL_HEAD),
        keys.Key("attention.key_length_swa", "u32", "head"),
        keys.Key("attention.value_length_swa", "u32", "head"),
        keys.Key("expert_feed_forward_length", "u32", WIDTH),
        keys.Key("rope.dimension_count", "u32", FULL_HEAD),
        keys.Key("rope.dimension_count_swa", "u32", "head"),
    ),
    drop=(
        FREQUENCIES,
        *ENCODERS,
    ),
    strip="language_model.",
    inside={"Gemma4TextModel": "Gemma4ForCausalLM", "Gemma4Model": "Gemma4ForConditionalGeneration"},
    extra=proportional,
    back=BACK,
    graph=of_file,
    aliases={"top_k_experts": "num_experts_per_tok"},
    derive=(
        first_said("layer_types", listed("layer_types", {SLIDING: SLIDING, FULL: FULL}),
                   by_rule(FULL, of_period(6, 5), SLIDING)),
        numbers,
    ),
    assumes=(assumptions.gelu_tanh, seen_by_all),
    computes=frozenset({
        "attention_k_eq_v", "enable_moe_block", "hidden_size_per_layer_input", SHARING, "top_k_experts",
        "use_double_wide_mlp", "vocab_size_per_layer_input", "per_layer_config", "global_head_dim",
        "num_global_key_value_heads",
    }),
    folds=(folds.MLP_OUT,),
    tokens=TokenizerRules(gemma4=True),
)  # fmt: skip
GEMMA4_E = replace(
    GEMMA4,
    name="gemma4_e",
    when=Condition("layers read vectors of tokens, or what earlier ones keep", shares_between_layers),
)

GEMMA4_UNIFIED = replace(  # images and sound are read without an encoder
    GEMMA4,
    name="gemma4_unified",
    when=None,
    hf=("Gemma4UnifiedForConditionalGeneration",),
    defaults={
        "gemma4_unified_text": {
            **{key: value for key, value in GEMMA4.defaults["gemma4_text"].items() if "per_layer" not in key},
            "max_position_embeddings": 262144,
            "sliding_window": 1024,
        },
    },
    inside={"Gemma4UnifiedModel": "Gemma4UnifiedForConditionalGeneration"},
    graph=not_read("their language model is a Gemma 4"),
    tokens=TokenizerRules(gemma4=True, suppressed=True),
)

FAMILIES = (GEMMA4, GEMMA4_E, GEMMA4_UNIFIED)
