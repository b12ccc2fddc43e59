"""Qwen 2 whose attention became RWKV 6 (QRWKV) or RWKV 7 (ARWKV): its MLPs and norms stay.

Source: conversion/rwkv.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import assumptions, keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.mamba import ENDLESS
from quantkit.families.known.rwkv import HIDDEN, MIX, MIXED, SQUARE
from quantkit.families.layers import before, flagged, from_, not_
from quantkit.families.layouts import flat, line, rows, squeeze, turn
from quantkit.families.roles import Role
from quantkit.families.rows import MLP, NORMS, OUTSIDE, OWN_CODE, PRESENT, Drop, Family, T, at, optional, with_biases

DECAY, ICLR, RESIDUAL, GATE = 64, 64, 32, 128  # widths of the narrow matrices of ARWKV, which no file says
ORDER = (3, 1, 2, 0, 4)  # receptance, key, value, decay, gate in the source; decay first and receptance fourth here
GATED = "wkv_has_gate"
HEAD_SIZE, KV_HEADS = "file.head_size", "file.kv_heads"
BACK = {
    "attention.head_count": "file.heads", "attention.head_count_kv": KV_HEADS, "wkv.head_size": HEAD_SIZE,
    "time_mix_extra_dim": "lora_rank_tokenshift", "time_decay_extra_dim": "lora_rank_decay",
}  # fmt: skip


def sizes(hparams: Hparams) -> Mapping[str, Any]:
    """The widths that config.json may leave to be computed."""
    large = hparams.count(HIDDEN) >= 4096
    return {
        "endless": ENDLESS, "max_position_embeddings": ENDLESS, "zero": 0, "one": 1,
        "mix_rank": hparams.values.get("lora_rank_tokenshift", 64 if large else 32),
        "decay_rank": hparams.values.get("lora_rank_decay", 128 if large else 64),
    }  # fmt: skip


def of_seven(hparams: Hparams) -> Mapping[str, Any]:
    """The widths of ARWKV. Raises UnsupportedError for another version than 7."""
    version = hparams.number("wkv_version")
    if version != 7:
        what = f"wkv_version is {'missing' if version is None else f'{version:g}'}, llama.cpp runs 7"
        raise UnsupportedError(what, key="wkv_version", hint="run it with the code of the checkpoint")
    heads = hparams.count(HIDDEN) // hparams.count("head_size")
    ranks = {"decay": DECAY, "iclr": ICLR, "residual": RESIDUAL, "gate": GATE if hparams.flag(GATED) else 0}
    return {"rwkv_heads": heads, **ranks}


def of_file(hparams: Hparams) -> Mapping[str, Any]:
    """The heads of attention, which a file does not hold: as many as there are states."""
    heads = hparams.count(HIDDEN) // hparams.count(HEAD_SIZE)
    return {"num_attention_heads": heads, "num_key_value_heads": hparams.values.get(KV_HEADS) or heads}


def of_file_of_seven(hparams: Hparams) -> Mapping[str, Any]:
    """The same, and the version; whether there is a gate is said by the tensors."""
    gated = "blk.0.time_mix_g1.weight" in hparams.values["file.tensors"]
    return {**of_file(hparams), "head_size": hparams.values[HEAD_SIZE], "wkv_version": 7, GATED: gated}


def chunks(source: str, target: str, shape: str, total: str, *, stacked: bool) -> tuple[T, ...]:
    """The five narrow matrices of a stack in llama.cpp's order, turned."""
    found = []
    for order, which in enumerate(ORDER):
        part = rows(f"{which}*mix_rank" if which else "0", f"{which + 1}*mix_rank")
        place = flat >> part >> turn if stacked else turn >> part
        found.append(T(source, target, Role.OTHER, shape, place, total=total, order=order))
    return tuple(found)


TIMELESS = (
    keys.Key("context_length", "u32", "endless"),
    keys.Key("embedding_length", "u32", HIDDEN),
    keys.blocks,
    keys.Key("feed_forward_length", "u32", "intermediate_size"),
    keys.Key("attention.head_count", "u32", "zero"),
    keys.RMS_EPSILON,
    keys.Key("token_shift_count", "u32", "one"),
)
SIZES = {
    "vocab_size": 152064, HIDDEN: 5120, "intermediate_size": 27648, "num_hidden_layers": 64,
    "num_attention_heads": 40, "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip

RWKV6QWEN2 = Family(
    name="rwkv6qwen2",
    gguf="rwkv6qwen2",
    hf=("RWKV6Qwen2ForCausalLM",),
    defaults={"rwkv6qwen2": SIZES},
    outside=OUTSIDE,
    block=(
        *NORMS,
        T("self_attn.time_maa_x", "time_mix_lerp_x.weight", Role.OTHER, MIX, squeeze),
        *(T(f"self_attn.time_maa_{what}", "time_mix_lerp_fused.weight", Role.OTHER, MIX, total=f"5 1 1 {HIDDEN}",
            order=order) for order, what in enumerate("wkvrg")),
        *chunks("self_attn.time_maa_w1", "time_mix_w1.weight", f"{HIDDEN} 5*mix_rank", f"5*mix_rank {HIDDEN}",
                stacked=False),
        *chunks("self_attn.time_maa_w2", "time_mix_w2.weight", f"5 mix_rank {HIDDEN}", f"5 {HIDDEN} mix_rank",
                stacked=True),
        T("self_attn.time_decay", "time_mix_decay.weight", Role.OTHER, MIX, squeeze),
        T("self_attn.time_decay_w1", "time_mix_decay_w1.weight", Role.OTHER, f"{HIDDEN} decay_rank", turn),
        T("self_attn.time_decay_w2", "time_mix_decay_w2.weight", Role.OTHER, f"decay_rank {HIDDEN}", turn),
        T("self_attn.q_proj.weight", "time_mix_receptance.weight", Role.OTHER, SQUARE, bias=PRESENT),
        T("self_attn.k_proj.weight", "time_mix_key.weight", Role.OTHER, f"kv_rows {HIDDEN}", bias=PRESENT),
        T("self_attn.v_proj.weight", "time_mix_value.weight", Role.OTHER, f"kv_rows {HIDDEN}", bias=PRESENT),
        T("self_attn.gate.weight", "time_mix_gate.weight", Role.OTHER, SQUARE),
        T("self_attn.o_proj.weight", "time_mix_output.weight", Role.OTHER, SQUARE),
        *MLP,
    ),
    keys=(
        *TIMELESS,
        keys.Key("attention.head_count_kv", "u32", "num_key_value_heads"),
        keys.Key("wkv.head_size", "u32", "head"),
        keys.Key("time_mix_extra_dim", "u32", "mix_rank"),
        keys.Key("time_decay_extra_dim", "u32", "decay_rank"),
    ),
    derive=(sizes,),
    assumes=(assumptions.silu,),
    back=BACK,
    graph=of_file,
    unserved=OWN_CODE,
)  # fmt: skip


def narrow(source: str, target: str, rank: int) -> tuple[T, ...]:
    """Two narrow matrices one after the other, which lie turned."""
    mixer = f"self_attn.time_mixer.{source}"
    return (
        T(f"{mixer}1", f"time_mix_{target}1.weight", Role.OTHER, f"{HIDDEN} {rank}", turn),
        T(f"{mixer}2", f"time_mix_{target}2.weight", Role.OTHER, f"{rank} {HIDDEN}", turn),
    )


def shifted(source: str, target: str, rank: int) -> tuple[T, ...]:
    """The same, and what is added to their product."""
    added = T(f"self_attn.time_mixer.{source}0", f"time_mix_{target}0.weight", Role.OTHER, MIX, squeeze)
    return (added, *narrow(source, target, rank))


def mixed(letters: tuple[str, ...]) -> tuple[T, ...]:
    """What a token and the one before it are mixed for."""
    total = f"{len(letters)} 1 1 {HIDDEN}"
    return tuple(
        T(f"self_attn.time_mixer.x_{what}", "time_mix_lerp_fused.weight", Role.OTHER, MIX, total=total, order=order)
        for order, what in enumerate(letters)
    )


ARWKV7 = Family(
    name="arwkv7",
    gguf="arwkv7",
    hf=("RwkvHybridForCausalLM",),
    defaults={"rwkv_hybrid": {**SIZES, "head_size": 64, GATED: True}},
    outside=OUTSIDE,
    block=(
        *NORMS,
        *at(flagged(GATED), (*mixed(MIXED), *narrow("g", "g", GATE))),
        *at(not_(flagged(GATED)), mixed(MIXED[:-1])),
        *shifted("w", "w", DECAY),
        *shifted("a", "a", ICLR),
        *at(from_("one"), shifted("v", "v", RESIDUAL)),
        # nothing reads these of the first layer, and llama.cpp wants them
        *at(before("one"), shifted("a", "v", ICLR)),
        T("self_attn.time_mixer.k_k", "time_mix_k_k.weight", Role.OTHER, MIX, squeeze),
        T("self_attn.time_mixer.k_a", "time_mix_k_a.weight", Role.OTHER, MIX, squeeze),
        T("self_attn.time_mixer.r_k", "time_mix_r_k.weight", Role.OTHER, "rwkv_heads head_size", line),
        *(T(f"self_attn.time_mixer.{what}.weight", f"time_mix_{what}.weight", Role.OTHER, SQUARE)
          for what in ("receptance", "key", "value", "output")),
        *optional(with_biases((
            T("self_attn.time_mixer.ln_x.weight", "time_mix_ln.weight", Role.OTHER, HIDDEN),
        ))),
        *MLP,
    ),
    keys=(
        *TIMELESS,
        keys.Key("wkv.head_size", "u32", "head_size"),
        keys.Key("attention.decay_lora_rank", "u32", "decay"),
        keys.Key("attention.iclr_lora_rank", "u32", "iclr"),
        keys.Key("attention.value_residual_mix_lora_rank", "u32", "residual"),
        keys.Key("attention.gate_lora_rank", "u32", "gate"),
    ),
    drop=(Drop("*.time_mixer.v[012]", "the first layer has no values of an earlier one", where=before("one")),),
    derive=(sizes, of_seven),
    assumes=(assumptions.silu,),
    back=BACK,
    graph=of_file_of_seven,
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (RWKV6QWEN2, ARWKV7)
