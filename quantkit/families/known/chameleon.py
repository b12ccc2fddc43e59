"""Chameleon, the text of it: a Llama whose queries and keys have a layer norm for each head, before they are rotated.

Source: conversion/chameleon.py of llama.cpp, October 2026. Differs from it: every head has the norm that is its own,
where the converter gives all of them that of the first; heads of one shard have the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import assumptions, folds, keys
from quantkit.families.backwards import not_read
from quantkit.families.hparams import Hparams, bad_value
from quantkit.families.layouts import columns
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, FREQUENCIES, MLP, NORMS, OUTSIDE, Drop, Family, T, rotated

SWIN = "swin_norm"  # norms stand after the parts of a block
IMAGE, IMAGES = "IMGIMG", "image_tokens"  # what names of tokens that stand for images begin with; all of them
UNPREDICTED = range(4, 8196)  # ids that llama.cpp takes for those of images (src/models/chameleon.cpp)
IN_PAIRS = columns("2", "head//2")  # dimensions that are rotated together come to lie side by side


def norms_before(hparams: Hparams) -> str | None:
    """With norms after the parts of a block predictions of a small model are 0.04 nats off, by this alone."""
    what = "swin_norm is set, and its MLPs read what attention gives without the residual"
    return what if hparams.flag("swin_norm") else None


def images(hparams: Hparams) -> Mapping[str, Any]:
    """The tokens that stand for images, ids by names; none where there is no map. Raises InputError for what is no id
    of the vocabulary."""
    said, tokens = hparams.values.get("vocabulary_map"), range(hparams.count("vocab_size"))
    entries = said.items() if isinstance(said, Mapping) else ()
    found = {name: number for name, number in entries if name.startswith(IMAGE)}
    for name, number in found.items():
        if type(number) is not int or number not in tokens:
            raise bad_value(f"vocabulary_map.{name}", number, f"an id below {tokens.stop:,}")
    return {IMAGES: found}


def images_elsewhere(hparams: Hparams) -> str | None:
    """Tokens that stand for images under other ids than those that llama.cpp takes for granted."""
    if not hparams.values.get("vocabulary_map") or set(images(hparams)[IMAGES].values()) == set(UNPREDICTED):
        return None
    first, last = UNPREDICTED.start, UNPREDICTED.stop - 1
    return f"it predicts none of the tokens {first:,} to {last:,}, and other tokens stand for images"


CHAMELEON = Family(
    name="chameleon",
    gguf="chameleon",
    hf=("ChameleonForConditionalGeneration", "ChameleonForCausalLM"),
    defaults={
        "chameleon": {
            "vocab_size": 65536, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, SWIN: False,
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
    keys=(*keys.COMMON, keys.Key(SWIN, "bool", SWIN)),
    drop=(FREQUENCIES, Drop("model.vqmodel.*", "llama.cpp reads no images with Chameleon", told=True)),
    derive=(images,),
    assumes=(assumptions.silu, norms_before, images_elsewhere),
    folds=tuple(replace(fold, unless=SWIN) if fold.norm else fold for fold in folds.DENSE),
    computes=frozenset({SWIN, "vocabulary_map"}),
    graph=not_read("transformers has the language model only beside what makes tokens of images"),
)  # fmt: skip

FAMILIES = (CHAMELEON,)
