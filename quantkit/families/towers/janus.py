"""Janus-Pro: a SigLIP tower and two linears; what makes images is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, T
from quantkit.families.tower import Tower
from quantkit.families.towers.glm4v import activation
from quantkit.families.vit import INNER_TEXT, SIGLIP, SIGLIP_BLOCK, epsilon, patches, siglip_outside, vision_keys

PREFIX, ALIGNER = "vision_model.", "aligner."
MAKES = "llama.cpp makes no images"


def inner(hparams: Hparams) -> Mapping[str, Any]:
    """The width of the MLPs, which may be said as a ratio."""
    if hparams.values.get("intermediate_size") is not None:
        return {}
    return {"intermediate_size": round(hparams.count("hidden_size") * hparams.required("mlp_ratio"))}


JANUS = Tower(
    name="janus_pro",
    hf=("JanusForConditionalGeneration",),
    owns=(PREFIX, ALIGNER, "vqmodel.", "generation_"),
    outside=(
        *siglip_outside(PREFIX, stored=None),
        T(f"{ALIGNER}fc1.weight", "mm.0.weight", Role.OTHER, "projection_dim hidden_size", bias="always"),
        T(f"{ALIGNER}hidden_layers.0.weight", "mm.1.weight", Role.OTHER, "projection_dim projection_dim",
          bias="always"),
    ),
    block=tuple(
        replace(t, source="self_attn.projection_layer.weight") if t.role is Role.ATTN_OUTPUT else t
        for t in SIGLIP_BLOCK
    ),
    source_block=f"{PREFIX}encoder.layers.{{}}.",
    defaults={
        **{key: value for key, value in SIGLIP.items() if key != "intermediate_size"},
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 384, "mlp_ratio": 4.0,
        "hidden_act": "gelu",
    },
    derive=(patches, inner),
    keys=vision_keys("janus_pro", epsilon(), activation),
    drop=(Drop("vqmodel.*", MAKES, told=True), Drop("generation_*", MAKES, told=True)),
    text=INNER_TEXT,
)  # fmt: skip

TOWERS = (JANUS,)
