"""Chameleon, the text of it: a Llama whose queries and keys have a layer norm for each head, before they are rotated.

Source: conversion/chameleon.py of llama.cpp, October 2026. Differs from it: every head has the norm that is its own,
where the converter gives all of them that of the first; heads of one shard have the same.
"""

from __future__ import annotations

from quantkit.families import assumptions, keys
from quantkit.families.backwards import not_read
from quantkit.families.hparams import Hparams
from quantkit.families.layouts import columns
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, FREQUENCIES, MLP, NORMS, OUTSIDE, UNSERVED, Drop, Family, T, rotated

IN_PAIRS = columns("2", "head//2")  # dimensions that are rotated together come to lie side by side


def norms_before(hparams: Hparams) -> str | None:
    """Seen with a small model in October 2026: with norms after the parts of a block predictions are 0.04 nats off."""
    what = "swin_norm is set, and with norms after the parts of a block it predicts otherwise"
    return what if hparams.flag("swin_norm") else None


CHAMELEON = Family(
    name="chameleon",
    gguf="chameleon",
    hf=("ChameleonForConditionalGeneration", "ChameleonForCausalLM"),
    defaults={
        "chameleon": {
            "vocab_size": 65536, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "swin_norm": False,
        },
    },
    outside=OUTSIDE,
    block=(
        *NORMS,
        *rotated(ATTENTION),
        *(
            T(f"self_attn.{part}_norm.{kind}", f"attn_{part}_norm.{kind}", role, f"{heads} head", IN_PAIRS)
            for part, heads in (("q", "num_attention_heads"), ("k", "num_key_value_heads"))
            for kind, role in (("weight", Role.NORM), ("bias", Role.BIAS))
        ),
        *MLP,
    ),
    keys=(*keys.COMMON, keys.Key("swin_norm", "bool", "swin_norm")),
    drop=(FREQUENCIES, Drop("model.vqmodel.*", "llama.cpp reads no images with Chameleon")),
    assumes=(assumptions.silu, norms_before),
    graph=not_read("transformers has the language model only beside what makes tokens of images"),
    unserved=UNSERVED,
)  # fmt: skip

FAMILIES = (CHAMELEON,)
