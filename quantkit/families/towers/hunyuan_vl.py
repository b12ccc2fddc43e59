"""HunyuanVL and HunyuanOCR: a tower whose class token is dropped, and convolutions that make one of four patches."""

from __future__ import annotations

from quantkit.families.hparams import Hparams
from quantkit.families.layouts import rows
from quantkit.families.roles import Role
from quantkit.families.rows import T, with_biases
from quantkit.families.spellings import Rename
from quantkit.families.tower import HALF, Tower
from quantkit.families.vit import (
    GELU,
    INNER_TEXT,
    KERNEL,
    MERGED_SIDE,
    PIXELS,
    PLAIN_ATTENTION,
    epsilon,
    patches,
    vision_keys,
)

TOWER, PERCEIVE = "vit.", "vit.perceive."
MERGED = "spatial_merge_size*spatial_merge_size*hidden_size"
# as transformers has it -> as it was published
NAMES = {
    r"^vision_tower\.patch_merger\.proj_conv\.": f"{PERCEIVE}proj.0.",
    r"^vision_tower\.patch_merger\.proj_out\.": f"{PERCEIVE}proj.2.",
    r"^vision_tower\.patch_merger\.": PERCEIVE,
    r"^vision_tower\.": TOWER,
    r"\.layer_norm1\.": ".input_layernorm.",
    r"\.layer_norm2\.": ".post_attention_layernorm.",
    r"\.mlp\.fc1\.": ".mlp.dense_h_to_4h.",
    r"\.mlp\.fc2\.": ".mlp.dense_4h_to_h.",
}


def image(hparams: Hparams) -> dict[str, int]:
    """The side of the largest image, where config.json does not call it image_size."""
    return {} if hparams.values.get("image_size") is not None else {"image_size": hparams.count("max_image_size")}


HUNYUANVL = Tower(
    name="hunyuanvl",
    hf=("HunYuanVLForConditionalGeneration",),
    owns=(TOWER, "vision_tower."),
    outside=(
        T(f"{TOWER}embeddings.position_embedding.weight", "v.position_embd.weight", Role.POSITION,
          "patches+1 hidden_size", rows("1", "patches+1")),
        *with_biases((
            T(f"{TOWER}embeddings.patch_embedding.weight", "v.patch_embd.weight", Role.OTHER, KERNEL),
            T(f"{PERCEIVE}proj.0.weight", "mm.0.weight", Role.OTHER,
              "2*hidden_size hidden_size spatial_merge_size spatial_merge_size", stored=HALF),
            T(f"{PERCEIVE}proj.2.weight", "mm.2.weight", Role.OTHER, f"{MERGED} 2*hidden_size 1 1", stored=HALF),
            T(f"{PERCEIVE}mlp.weight", "mm.model.fc.weight", Role.OTHER, f"projection_dim {MERGED}"),
        )),
        T(f"{PERCEIVE}before_rms.weight", "mm.pre_norm.weight", Role.NORM, "hidden_size"),
        T(f"{PERCEIVE}after_rms.weight", "mm.post_norm.weight", Role.NORM, "projection_dim"),
        T(f"{PERCEIVE}image_newline", "v.image_newline", Role.OTHER, MERGED),
        T(f"{PERCEIVE}image_begin", "mm.image_begin", Role.OTHER, "projection_dim"),
        T(f"{PERCEIVE}image_end", "mm.image_end", Role.OTHER, "projection_dim"),
        T(f"{PERCEIVE}image_sep", "v.view_seperator", Role.OTHER, "projection_dim"),
    ),
    block=with_biases((
        *PLAIN_ATTENTION,
        T("mlp.dense_h_to_4h.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
        T("mlp.dense_4h_to_h.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
    )),
    source_block=f"{TOWER}layers.{{}}.",
    defaults={
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
        "num_channels": 3, "max_image_size": 2048, "patch_size": 16, "spatial_merge_size": 2, "rms_norm_eps": 1e-5,
    },
    derive=(image, patches),
    keys=vision_keys("hunyuanvl", epsilon("rms_norm_eps"), GELU, MERGED_SIDE, *PIXELS),
    spellings=tuple(Rename(pattern, to) for pattern, to in NAMES.items()),
    text=INNER_TEXT,
)  # fmt: skip

TOWERS = (HUNYUANVL,)
