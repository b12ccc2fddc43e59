"""Llama 4: unfolded patches, a class token at their end, and a pixel shuffle before the projector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, T, with_biases
from quantkit.families.spellings import Rename
from quantkit.families.tower import Tower
from quantkit.families.vit import INNER_TEXT, PLAIN_ATTENTION, activation, epsilon, patches, side_merged, vision_keys

PREFIX = "vision_model."


def shuffled(hparams: Hparams) -> Mapping[str, Any]:
    """How many patches of a side become one. Raises InputError for what is no part of 1."""
    return {"side": side_merged("pixel_shuffle_ratio", hparams)}


LLAMA4 = Tower(
    name="llama4",
    hf=("Llama4ForConditionalGeneration",),
    owns=(PREFIX, "multi_modal_projector."),
    outside=(
        T(f"{PREFIX}patch_embedding.linear.weight", "v.patch_embd.weight", Role.OTHER,
          "hidden_size num_channels*patch_size*patch_size"),
        T(f"{PREFIX}class_embedding", "v.class_embd", Role.OTHER, "hidden_size"),
        T(f"{PREFIX}positional_embedding_vlm", "v.position_embd.weight", Role.POSITION, "patches+1 hidden_size"),
        T(f"{PREFIX}layernorm_pre.weight", "v.pre_ln.weight", Role.NORM, "hidden_size", bias="always"),
        T(f"{PREFIX}layernorm_post.weight", "v.post_ln.weight", Role.NORM, "hidden_size", bias="always"),
        T(f"{PREFIX}vision_adapter.mlp.fc1.weight", "mm.model.mlp.1.weight", Role.OTHER,
          "projector_input_dim intermediate_size"),
        T(f"{PREFIX}vision_adapter.mlp.fc2.weight", "mm.model.mlp.2.weight", Role.OTHER,
          "projector_output_dim projector_output_dim"),
        T("multi_modal_projector.linear_1.weight", "mm.model.fc.weight", Role.OTHER,
          "projection_dim vision_output_dim"),
    ),
    block=with_biases((
        *PLAIN_ATTENTION,
        T("mlp.fc1.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
        T("mlp.fc2.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
    )),
    source_block=f"{PREFIX}model.layers.{{}}.",
    defaults={
        "hidden_size": 768, "intermediate_size": 5632, "num_hidden_layers": 34, "num_attention_heads": 16,
        "num_channels": 3, "image_size": 448, "patch_size": 14, "norm_eps": 1e-5, "pixel_shuffle_ratio": 0.5,
        "vision_output_dim": 7680, "projector_input_dim": 4096, "projector_output_dim": 4096, "hidden_act": "gelu",
    },
    derive=(patches, shuffled),
    keys=vision_keys(
        "llama4", epsilon("norm_eps"), activation, keys.Key("vision.projector.scale_factor", "u32", "side")
    ),
    drop=(Drop(f"{PREFIX}rotary_embedding.*", "rotary frequencies are computed at run time"),),
    spellings=(Rename(r"positional_embedding_vlm\.weight$", "positional_embedding_vlm"),),
    text=INNER_TEXT,
)  # fmt: skip

TOWERS = (LLAMA4,)
