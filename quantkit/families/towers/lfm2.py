"""LFM2-VL: a SigLIP 2 tower that takes images of any size, and a projector behind a pixel unshuffle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import T
from quantkit.families.tower import WHOLE, Tower
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

PREFIX, PROJECTOR = "vision_tower.", "multi_modal_projector."
IMAGE = 256  # sizes are free; llama.cpp wants one


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """What the root of config.json says; of the layers those that are run."""
    config = hparams.values[WHOLE]
    said = Hparams({"vision_feature_layer": config.get("vision_feature_layer", -1)})
    dropped = -(int(said.required("vision_feature_layer")) + 1)
    return {
        "image_size": IMAGE,
        "downsample_factor": config.get("downsample_factor", 2),
        "projector_hidden_size": config.get("projector_hidden_size", 2560),
        "run": hparams.count("num_hidden_layers") - dropped,
    }


LFM2 = Tower(
    name="lfm2",
    hf=("Lfm2VlForConditionalGeneration",),
    owns=(PREFIX, PROJECTOR),
    outside=(
        *patch_table(PREFIX),
        T(f"{PREFIX}post_layernorm.weight", "v.post_ln.weight", Role.NORM, "hidden_size", bias="always"),
        T(f"{PROJECTOR}layer_norm.weight", "mm.input_norm.weight", Role.NORM,
          "downsample_factor*downsample_factor*hidden_size", bias="always", optional=True),
        T(f"{PROJECTOR}linear_1.weight", "mm.1.weight", Role.OTHER,
          "projector_hidden_size downsample_factor*downsample_factor*hidden_size", bias="present"),
        T(f"{PROJECTOR}linear_2.weight", "mm.2.weight", Role.OTHER, "projection_dim projector_hidden_size",
          bias="present"),
    ),
    block=SIGLIP_BLOCK,
    source_block=f"{PREFIX}encoder.layers.{{}}.",
    defaults={**SIGLIP, "num_patches": 256},
    derive=(numbers,),
    keys=(
        *keys.without(vision_keys(
            "lfm2", epsilon(), GELU, keys.Key("vision.projector.scale_factor", "u32", "downsample_factor")
        ), "vision.block_count"),
        keys.Key("vision.block_count", "u32", "run"),
    ),
    drop=(without_head(PREFIX),),
    spellings=(UNWRAPPED,),
    text=INNER_TEXT,
)  # fmt: skip

TOWERS = (LFM2,)
