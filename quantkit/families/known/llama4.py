"""Llama 4: mixtures in every layer or every second one, chunks of attention, and a fourth of the layers unrotated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.layers import TRUNK, not_, of_period
from quantkit.families.placements import rope_freqs
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    NORMS,
    OUTSIDE,
    Drop,
    Family,
    T,
    at,
    biased,
    shared_expert,
)
from quantkit.families.stacked import turned_stacks

STEP, WIDTH, MODULE = "interleave_moe_layer_step", "expert_width", "feed_forward"
MIXED = of_period(STEP, "mixed_place")
CHUNK, EVERY, LARGE = 8192, 4, 128  # llama.cpp's numbers


def widths(hparams: Hparams) -> Mapping[str, Any]:
    """`intermediate_size` is that of experts, `intermediate_size_mlp` that of dense layers; which layers see chunks."""
    rotated, every = hparams.values.get("no_rope_layers"), hparams.number("no_rope_layer_interval") or EVERY
    if not isinstance(rotated, list) or not rotated:
        rotated = [(layer + 1) % every != 0 for layer in range(hparams.count(TRUNK))]
    chunked = "chunked_attention" if hparams.number("attention_chunk_size") is not None else "full_attention"
    types = [chunked if each else "full_attention" for each in rotated]
    return {
        "layer_types": types if hparams.values.get("layer_types") is None else hparams.values["layer_types"],
        WIDTH: hparams.count("intermediate_size"),
        "intermediate_size": hparams.count("intermediate_size_mlp"),
        "mixed_place": hparams.count(STEP) - 1,
    }


def no_chunks(hparams: Hparams) -> object:
    """A window of 0 tells llama.cpp that all layers attend to everything."""
    types = hparams.values.get("layer_types")
    return 0 if isinstance(types, list) and types and all(each == "full_attention" for each in types) else None


def every_fourth(hparams: Hparams) -> str | None:
    """Every fourth layer is not rotated and attends to everything, the others in chunks of 8192."""
    if hparams.number("attention_chunk_size") not in (None, CHUNK):
        return f"attention_chunk_size is {hparams.number('attention_chunk_size'):.0f}, it takes {CHUNK}"
    count = hparams.count(TRUNK)
    fourth = [(layer + 1) % EVERY != 0 for layer in range(count)]
    rotated, types = hparams.values.get("no_rope_layers"), hparams.values.get("layer_types")
    if isinstance(rotated, list) and rotated and [bool(each) for each in rotated] != fourth:
        return "no_rope_layers are not every fourth, it leaves every fourth layer unrotated"
    if not rotated and hparams.number("no_rope_layer_interval") not in (None, EVERY):
        return "no_rope_layer_interval is not 4, it leaves every fourth layer unrotated"
    if isinstance(types, list) and [each == "chunked_attention" for each in types] != fourth:
        return "layer_types are not three of four in chunks, as it takes them"
    return None


def normalized_by_experts(hparams: Hparams) -> str | None:
    """Queries and keys are normalized unless there are 128 experts."""
    taken = hparams.number("num_local_experts") != LARGE
    said = hparams.values.get("use_qk_norm")
    return None if said is None or said is taken else f"use_qk_norm is {said}, it takes {taken}"


def tuned(hparams: Hparams) -> str | None:
    """Unrotated layers scale attention by 1 + 0.1 ln(1 + position / 8192)."""
    if hparams.values.get("attn_temperature_tuning") in (False, 0):
        return "attn_temperature_tuning is off, it scales attention of long contexts"
    for key, taken in (("floor_scale", 8192.0), ("attn_scale", 0.1)):
        said = hparams.number(key)
        if said is not None and said != taken:
            return f"{key} is {said:g}, it takes {taken:g}"
    return None


BACK = {
    "feed_forward_length": "intermediate_size_mlp", "expert_feed_forward_length": "intermediate_size",
    "attention.sliding_window": "file.window",
}  # fmt: skip


def of_text(hparams: Hparams) -> Mapping[str, Any]:
    """What the graph takes for granted: norms by the number of experts, chunks where no window of 0 is said."""
    large, whole = hparams.number("num_local_experts") == LARGE, hparams.number("file.window") == 0
    unchunked = {"attention_chunk_size": None, "layer_types": ["full_attention"] * hparams.count(TRUNK)}
    return {"use_qk_norm": not large, **(unchunked if whole else {})}


LLAMA4 = Family(
    name="llama4",
    gguf="llama4",
    hf=("Llama4ForConditionalGeneration", "Llama4ForCausalLM"),
    defaults={
        "llama4_text": {
            "vocab_size": 202048, "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
            "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
            "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "tie_word_embeddings": False, "num_local_experts": 16, "num_experts_per_tok": 1, STEP: 1,
            "use_qk_norm": True, "attention_chunk_size": 8192,
        },
    },
    outside=OUTSIDE,
    block=(
        *NORMS,
        *biased(ATTENTION, output="attention_bias", others="attention_bias"),
        *at(MIXED, (
            T(f"{MODULE}.router.weight", "ffn_gate_inp.weight", Role.ROUTER, "num_local_experts hidden_size"),
            *turned_stacks(MODULE, WIDTH),
            *shared_expert(WIDTH, f"{MODULE}.shared_expert"),
        )),
        *at(not_(MIXED), (
            T(f"{MODULE}.gate_proj.weight", "ffn_gate.weight", Role.FFN_GATE, "intermediate_size hidden_size"),
            T(f"{MODULE}.up_proj.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
            T(f"{MODULE}.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
        )),
    ),
    keys=(
        *keys.LLAMA,
        keys.Key("interleave_moe_layer_step", "u32", STEP),
        keys.Key("expert_feed_forward_length", "u32", WIDTH),
        keys.computed("attention.sliding_window", "u32", no_chunks),
    ),
    drop=(
        FREQUENCIES,
        *(
            Drop(pattern, "the vision encoder belongs into a file of its own")
            for tower in ("vision_model", "multi_modal_projector")
            for pattern in (f"{tower}.*", f"model.{tower}.*")
        ),
    ),
    strip="language_model.",
    inside={"Llama4Model": "Llama4ForConditionalGeneration", "Llama4TextModel": "Llama4ForCausalLM"},
    extra=rope_freqs,
    back=BACK,
    graph=of_text,
    derive=(widths,),
    assumes=(assumptions.silu, every_fourth, normalized_by_experts, tuned),
    computes=frozenset({
        "intermediate_size_mlp", STEP, "moe_layers", "no_rope_layers", "no_rope_layer_interval",
        "attention_chunk_size", "attn_temperature_tuning", "attn_scale", "floor_scale",
    }),
    folds=(
        folds.VALUES,
        *(folds.Fold(f"{m}.up_proj", (f"{m}.down_proj",)) for m in (MODULE, f"{MODULE}.shared_expert")),
    ),
)  # fmt: skip

FAMILIES = (LLAMA4,)
