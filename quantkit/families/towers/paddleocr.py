"""PaddleOCR-VL: a SigLIP tower that takes images of any size, squares of whose patches become one."""

from __future__ import annotations

from math import isqrt

from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, T, with_biases
from quantkit.families.spellings import Rename
from quantkit.families.tower import Tower
from quantkit.families.vit import (
    GELU,
    INNER_TEXT,
    PIXELS,
    SIGLIP_BLOCK,
    epsilon,
    limit,
    patches,
    siglip_outside,
    vision_keys,
    without_head,
)

PREFIX, PROJECTOR = "visual.vision_model.", "mlp_AR."
MERGED = "spatial_merge_size*spatial_merge_size*hidden_size"


def largest(hparams: Hparams) -> dict[str, int]:
    """The side of the largest square image."""
    return {"image_size": isqrt(limit("max")(hparams))}


PADDLEOCR = Tower(
    name="paddleocr",
    hf=("PaddleOCRVisionModel", "PaddleOCRVLForConditionalGeneration"),
    owns=("visual.", PROJECTOR, "projector."),
    outside=(
        *siglip_outside(PREFIX, stored=None),
        *with_biases((
            T(f"{PROJECTOR}pre_norm.weight", "mm.input_norm.weight", Role.NORM, "hidden_size"),
            T(f"{PROJECTOR}linear_1.weight", "mm.1.weight", Role.OTHER, f"{MERGED} {MERGED}"),
            T(f"{PROJECTOR}linear_2.weight", "mm.2.weight", Role.OTHER, f"projection_dim {MERGED}"),
        )),
    ),
    block=SIGLIP_BLOCK,
    source_block=f"{PREFIX}encoder.layers.{{}}.",
    defaults={
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
        "num_channels": 3, "image_size": 384, "patch_size": 14, "spatial_merge_size": 2, "rms_norm_eps": 1e-6,
    },
    derive=(patches, largest),
    keys=vision_keys("paddleocr", epsilon("rms_norm_eps"), GELU, *PIXELS),
    drop=(
        without_head(PREFIX),
        Drop(f"{PREFIX}embeddings.packing_position_embedding.*", "positions of patches in a row are not used"),
    ),
    spellings=(Rename(r"^projector\.", PROJECTOR),),
    text=INNER_TEXT,
)  # fmt: skip

TOWERS = (PADDLEOCR,)
