"""Gemma 3n: four streams of which a layer changes one, low-rank paths beside the layers, a vector for each layer.

The last layers read the keys and values of earlier ones. transformers 5 does not save what they do not read; llama.cpp
wants it all the same, and gets zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np

from quantkit.errors import InputError, UnsupportedError
from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.known.gemma import ENCODERS, FINAL_CAP, NORMS, SHARING, first_sharing
from quantkit.families.layers import KINDS, TRUNK, before, by_rule, first_said, from_, kind, listed, of_period
from quantkit.families.layouts import stack
from quantkit.families.model import ModelTensor, Rows
from quantkit.families.parts import Zeros
from quantkit.families.placements import Placement, vocabulary
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    FREQUENCIES,
    HEAD,
    MLP,
    QK_NORMS,
    Family,
    T,
    TokenizerRules,
    at,
    optional,
    without_biases,
)
from quantkit.metadata import KeyValue
from quantkit.tensors import TensorInfo

SLIDING, FULL = "sliding_attention", "full_attention"
STREAMS, PER_LAYER, HIDDEN = "altup_num_inputs", "hidden_size_per_layer_input", "hidden_size"
FIRST_SHARED, FURTHER, LACKING = "first_shared", "further_streams", "lacks_shared"
OWN_LAYERS = 20  # that llama.cpp gives keys and values of their own
SPARSE_LAYERS, SPARSITY = 10, 0.95  # of a model of more layers than that, where config.json says nothing


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """One width for all MLPs, where sharing begins, the streams beside the first, how sparse each layer is."""
    count = hparams.count(TRUNK)
    widths = hparams.values.get("intermediate_size")
    widths = widths if isinstance(widths, list) else [widths] * count
    sparse = hparams.values.get("activation_sparsity_pattern")
    if sparse is None:
        sparse = [SPARSITY] * SPARSE_LAYERS if count > SPARSE_LAYERS else []
        sparse = [*sparse, *[0.0] * (count - len(sparse))]
    if not isinstance(sparse, list) or len(sparse) != count or len(widths) != count:
        key = "intermediate_size" if len(widths) != count else "activation_sparsity_pattern"
        raise InputError(
            f"config.json: {key} is no list of {count} numbers", key=key, path="config.json", hint=CONFIG_HINT
        )
    if any(width != widths[0] for width in widths):
        message = "intermediate_size differs from layer to layer, as of a slice of a larger Gemma 3n"
        raise UnsupportedError(message, key="intermediate_size", hint="use the published E2B or E4B")
    if hparams.count(STREAMS) != 4:
        message = f"{STREAMS} is {hparams.count(STREAMS)}, llama.cpp's converter and graph know 4"
        raise UnsupportedError(message, key=STREAMS, hint="is config.json of this model?")
    return {
        "widths": widths, "intermediate_size": widths[0], FURTHER: hparams.count(STREAMS) - 1, "sparsity": sparse,
        FIRST_SHARED: first_sharing(hparams), "layer_types": hparams.values[KINDS],
    }  # fmt: skip


def shared(hparams: Hparams, tensors: Mapping[str, TensorInfo]) -> Mapping[str, Any]:
    """Whether the layers that share have no keys and values of their own."""
    first = int(hparams.required(FIRST_SHARED))
    there = f"model.layers.{first}.self_attn.k_proj.weight" in tensors
    return {LACKING: first < hparams.count(TRUNK) and not there}


def unread(hparams: Hparams) -> tuple[ModelTensor, ...]:
    """Zeros for keys and values that nothing reads."""
    if not hparams.flag(LACKING):
        return ()
    rows, cols, head = hparams.count("kv_rows"), hparams.count(HIDDEN), hparams.count("head")
    made: list[ModelTensor] = []
    for layer in range(int(hparams.required(FIRST_SHARED)), hparams.count(TRUNK)):
        for name, role in (("attn_k", Role.ATTN_K), ("attn_v", Role.ATTN_V)):
            made.append(ModelTensor(f"blk.{layer}.{name}.weight", role, (rows, cols), (Zeros(rows, cols),), layer))
        norm = f"blk.{layer}.attn_k_norm.weight"
        made.append(ModelTensor(norm, Role.NORM, (head,), (Zeros(head, 1),), layer, stored="f32"))
    return tuple(made)


def padded(info: TensorInfo, hparams: Hparams) -> Placement:
    """Tokens of images and sound have no vector of their own in the table for the layers: rows of zeros."""
    rows = hparams.count("vocab_size")
    kept = min(info.rows, rows)
    more = (Zeros(rows - kept, info.cols),) if rows > kept else ()
    return Placement((rows, info.cols), (Rows(info.name, 0, kept), *more))


def deviations(share: float) -> float:
    """How many standard deviations above the mean a value has to be to be none of this share; -inf: all are.

    As torch has it in float32: the square root of 2 times the inverse of the error function at 2 p - 1.
    """
    scaled = np.float32(2) * np.float32(share) - np.float32(1)
    inverse = np.float32(NormalDist().inv_cdf((float(scaled) + 1) / 2) / 2**0.5) if scaled > -1 else np.float32("-inf")
    return float(inverse * np.float32(2**0.5))


def sparsity(hparams: Hparams) -> Iterable[KeyValue]:
    """By how many standard deviations the values that count stand out, a number for each layer."""
    found = []
    for value in hparams.values["sparsity"]:
        share = Hparams({"activation_sparsity_pattern": value}).required("activation_sparsity_pattern")
        if not 0 <= share < 1:
            what = f"config.json: activation_sparsity_pattern has {share:g}, expected 0 to 1"
            raise InputError(what, key="activation_sparsity_pattern", path="config.json", hint=CONFIG_HINT)
        found.append(deviations(share))
    yield KeyValue("activation_sparsity_scale", "f32", tuple(found), array=True)


def share_of(said: float) -> float:
    """The share, in the fewest decimals, that gives a file's number of standard deviations."""
    near = NormalDist().cdf(said)
    shares = (round(near, digits) for digits in range(1, 10))
    return next((share for share in shares if np.float32(deviations(share)) == np.float32(said)), near)


def of_file(hparams: Hparams) -> Mapping[str, Any]:
    """One width for all layers, and how sparse each is."""
    values = hparams.values
    widths, scales = values.get("file.widths"), values.get("file.sparsity")
    return {
        "intermediate_size": widths[0] if isinstance(widths, list) and widths else widths,
        "activation_sparsity_pattern": [share_of(scale) for scale in scales] if isinstance(scales, list) else None,
        "vocab_size_per_layer_input": values.get("vocab_size"),
    }


def sizes_of_graph(hparams: Hparams) -> str | None:
    """The vectors for the layers have 256 numbers, the low-rank paths a rank of 64."""
    for key, taken in (("hidden_size_per_layer_input", 256), ("laurel_rank", 64)):
        if hparams.number(key) not in (None, taken):
            return f"{key} is {hparams.number(key):g}, it takes {taken} and loads nothing else"
    return None


def fixed_layers(hparams: Hparams) -> str | None:
    """All layers after the 20th share keys and values; the first 10 keep a twentieth of what their gate gives."""
    count = hparams.count(TRUNK)
    said = int(hparams.required(FIRST_SHARED)) if FIRST_SHARED in hparams.values else min(count, OWN_LAYERS)
    if said != min(count, OWN_LAYERS):
        return f"num_kv_shared_layers is {count - said}, it takes {max(count - OWN_LAYERS, 0)}"
    sparse = hparams.values.get("activation_sparsity_pattern")
    taken = [SPARSITY] * min(count, SPARSE_LAYERS) + [0.0] * max(count - SPARSE_LAYERS, 0)
    if isinstance(sparse, list) and sparse != taken:
        return (
            f"activation_sparsity_pattern is not {SPARSITY} for the first {SPARSE_LAYERS} layers alone, as it takes it"
        )
    return None


OF_ALL_LAYERS = f"{TRUNK}*{PER_LAYER}"
STREAMED = (
    T("altup.correction_coefs.weight", "altup_correct_coef.weight", Role.OTHER, f"{STREAMS} {STREAMS}"),
    T("altup.correct_output_scale", "altup_correct_scale.weight", Role.OTHER, HIDDEN),
    T("altup.prediction_coefs.weight", "altup_predict_coef.weight", Role.OTHER, f"{STREAMS}*{STREAMS} {STREAMS}"),
    T("altup.modality_router.weight", "altup_router.weight", Role.OTHER, f"{STREAMS} {HIDDEN}"),
    T("altup.router_norm.weight", "altup_router_norm.weight", Role.NORM, HIDDEN),
    T("laurel.linear_left.weight", "laurel_l.weight", Role.OTHER, f"laurel_rank {HIDDEN}"),
    T("laurel.linear_right.weight", "laurel_r.weight", Role.OTHER, f"{HIDDEN} laurel_rank"),
    T("laurel.post_laurel_norm.weight", "laurel_post_norm.weight", Role.NORM, HIDDEN),
    T("per_layer_input_gate.weight", "inp_gate.weight", Role.OTHER, f"{PER_LAYER} {HIDDEN}"),
    T("per_layer_projection.weight", "proj.weight", Role.OTHER, f"{HIDDEN} {PER_LAYER}"),
    T("post_per_layer_input_norm.weight", "post_norm.weight", Role.NORM, HIDDEN),
)
OWN = ("attn_k.weight", "attn_v.weight", "attn_k_norm.weight")  # of layers that do not share
ATTENTIVE = without_biases((*ATTENTION, *QK_NORMS))
STACKED = stack(FURTHER)

GEMMA3N = Family(
    name="gemma3n",
    gguf="gemma3n",
    hf=("Gemma3nForConditionalGeneration", "Gemma3nForCausalLM"),
    defaults={
        "gemma3n_text": {
            "vocab_size": 262400, "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 35,
            "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 10000.0, "tie_word_embeddings": True,
            "sliding_window": 512, "final_logit_softcapping": 30.0, "vocab_size_per_layer_input": 262144,
            PER_LAYER: 256, "altup_active_idx": 0, STREAMS: 4, SHARING: 15, "laurel_rank": 64,
        },
    },
    outside=(
        replace(EMBEDDING, place=vocabulary),
        FINAL_NORM,
        HEAD,
        T("model.embed_tokens_per_layer.weight", "per_layer_token_embd.weight", Role.TOKEN_EMBD,
          f"vocab_size_per_layer_input {OF_ALL_LAYERS}", padded),
        T("model.per_layer_model_projection.weight", "per_layer_model_proj.weight", Role.OTHER,
          f"{OF_ALL_LAYERS} {HIDDEN}"),
        T("model.per_layer_projection_norm.weight", "per_layer_proj_norm.weight", Role.NORM, PER_LAYER),
        T("model.altup_projections.{}.weight", "altup_proj.weight", Role.OTHER, f"{HIDDEN} {HIDDEN}", STACKED,
          index=FURTHER),
        T("model.altup_unembed_projections.{}.weight", "altup_unembd_proj.weight", Role.OTHER, f"{HIDDEN} {HIDDEN}",
          STACKED, index=FURTHER),
    ),
    block=(
        *NORMS,
        *(t for t in ATTENTIVE if t.target not in OWN),
        *at(before(FIRST_SHARED), tuple(t for t in ATTENTIVE if t.target in OWN)),
        *optional(at(from_(FIRST_SHARED), tuple(t for t in ATTENTIVE if t.target in OWN))),
        *without_biases(MLP),
        *STREAMED,
    ),
    keys=(
        *keys.without(keys.COMMON, "feed_forward_length"),
        keys.Key("feed_forward_length", "i32", "widths", array=True),
        FINAL_CAP,
        keys.SLIDING_WINDOW,
        keys.Key("altup.active_idx", "u32", "altup_active_idx"),
        keys.Key("altup.num_inputs", "u32", STREAMS),
        keys.Key("embedding_length_per_layer_input", "u32", PER_LAYER),
        keys.Key("attention.shared_kv_layers", "u32", SHARING),
        sparsity,
        keys.per_layer("attention.sliding_window_pattern", "bool", "", kind(SLIDING)),
    ),
    drop=(
        FREQUENCIES,
        *ENCODERS,
    ),
    strip="language_model.",
    inside={"Gemma3nTextModel": "Gemma3nForCausalLM", "Gemma3nModel": "Gemma3nForConditionalGeneration"},
    extra=unread,
    derive=(
        first_said("layer_types", listed("layer_types", {SLIDING: SLIDING, FULL: FULL}),
                   by_rule(FULL, of_period(5, 4), SLIDING)),
        numbers,
    ),
    seen=(shared,),
    assumes=(assumptions.gelu_tanh, assumptions.windows_every(5), sizes_of_graph, fixed_layers),
    back={"feed_forward_length": "file.widths", "activation_sparsity_scale": "file.sparsity"},
    graph=of_file,
    computes=frozenset({
        "activation_sparsity_pattern", "altup_active_idx", "altup_correct_scale", STREAMS, PER_LAYER, "laurel_rank",
        SHARING, "vocab_size_per_layer_input",
    }),
    folds=(folds.MLP_OUT,),
    tokens=TokenizerRules(no_prefix=True),
)  # fmt: skip

FAMILIES = (GEMMA3N,)
