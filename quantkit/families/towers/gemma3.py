"""Gemma 3: a SigLIP tower and a projection that pools patches."""

from __future__ import annotations

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import T
from quantkit.families.tower import SAID, Tower
from quantkit.families.vit import (
    F32,
    GELU,
    INNER_TEXT,
    SIGLIP,
    SIGLIP_BLOCK,
    UNWRAPPED,
    epsilon,
    patches,
    siglip_outside,
    vision_keys,
    without_head,
)

PREFIX = "vision_tower."
TOKENS, POOLED = 256, 4  # of an image, and patches of each side that become one: what llama.cpp takes without a key


def pooled(hparams: Hparams) -> int | None:
    """How many patches of each side become one, where it is not as in the published models."""
    tokens = hparams.values[SAID].get("image_seq_length", TOKENS)
    side = int(Hparams({"image_seq_length": tokens}).count("image_seq_length") ** 0.5)
    found = hparams.count("image_size") // hparams.count("patch_size") // side
    return found if found not in (0, POOLED) else None


GEMMA3 = Tower(
    name="gemma3",
    hf=("Gemma3ForConditionalGeneration", "Gemma3Model"),
    owns=(PREFIX, "multi_modal_projector."),
    outside=(
        *siglip_outside(PREFIX, stored=F32),
        T("multi_modal_projector.mm_input_projection_weight", "mm.input_projection.weight", Role.OTHER,
          "hidden_size projection_dim", stored="f16"),
        T("multi_modal_projector.mm_soft_emb_norm.weight", "mm.soft_emb_norm.weight", Role.NORM, "hidden_size",
          add=1.0),
    ),
    block=SIGLIP_BLOCK,
    source_block=f"{PREFIX}encoder.layers.{{}}.",
    defaults=SIGLIP,
    derive=(patches,),
    keys=vision_keys(
        "gemma3", epsilon(), GELU, keys.computed("vision.projector.scale_factor", "u32", pooled)
    ),
    drop=(without_head(PREFIX),),
    spellings=(UNWRAPPED,),
    text=INNER_TEXT,
)  # fmt: skip

TOWERS = (GEMMA3,)
