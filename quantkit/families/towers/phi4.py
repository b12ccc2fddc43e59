"""Phi-4 Vision: a SigLIP 2 tower, from whose last layer but one two linears read."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, T
from quantkit.families.spellings import Rename
from quantkit.families.tower import SAID, WHOLE, Tower
from quantkit.families.vit import (
    GELU,
    INNER_TEXT,
    SIGLIP,
    SIGLIP_BLOCK,
    UNWRAPPED,
    epsilon,
    patch_table,
    vision_keys,
    without_head,
)

PREFIX, PROJECTOR = "vision_tower.", "mm_projector."


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """What the processor says of patches, and the layers that are run. Raises InputError where it says nothing."""
    said = Hparams({**hparams.values[WHOLE], **hparams.values[SAID]})
    patch = said.count("patch_size")
    return {
        "patch_size": patch,
        "image_size": isqrt(hparams.count("num_patches")) * patch,
        "fewest": said.count("min_num_patches") * patch**2,
        "most": said.count("max_num_patches") * patch**2,
        "run": hparams.count("num_hidden_layers") - 1,
    }


PHI4 = Tower(
    name="phi4",
    hf=("Phi4ForCausalLMV",),
    owns=(PREFIX, PROJECTOR),
    outside=(
        *patch_table(PREFIX),
        T(f"{PROJECTOR}0.weight", "mm.0.weight", Role.OTHER, "projection_dim hidden_size", bias="always"),
        T(f"{PROJECTOR}2.weight", "mm.2.weight", Role.OTHER, "projection_dim projection_dim", bias="always"),
    ),
    block=SIGLIP_BLOCK,
    source_block=f"{PREFIX}encoder.layers.{{}}.",
    defaults={**SIGLIP, "num_patches": 256},
    derive=(numbers,),
    runs="run",
    keys=(
        *keys.without(vision_keys("phi4", epsilon(), GELU), "vision.block_count"),
        keys.Key("vision.block_count", "u32", "run"),
        keys.Key("vision.image_min_pixels", "u32", "fewest"),
        keys.Key("vision.image_max_pixels", "u32", "most"),
    ),
    drop=(without_head(PREFIX), Drop(f"{PREFIX}post_layernorm.*", "the last layer but one is read, before any norm")),
    spellings=(Rename(r"^vision_tower\.vision_tower\.", PREFIX), UNWRAPPED),
    text=INNER_TEXT,
)  # fmt: skip

TOWERS = (PHI4,)
