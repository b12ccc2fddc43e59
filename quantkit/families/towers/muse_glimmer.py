"""Muse Glimmer: a vision transformer with learned and rotated positions, squares of whose patches become one.

A patch is that of two images of a film, whose weights llama.cpp has as one kernel: their sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import keys
from quantkit.families.fixed import require_only
from quantkit.families.hparams import Hparams
from quantkit.families.layouts import Layout, column, every, flat, fold, line, regroup, split, summed
from quantkit.families.roles import Role
from quantkit.families.rows import T, with_biases
from quantkit.families.tower import HALF, Tower
from quantkit.families.vit import epsilon, root, vision_keys

TOWER = "vision_tower."
PATCH = "num_channels*patch_size*patch_size"
MERGE = keys.Key("vision.spatial_merge_size", "u32", "merge_size")
PAIRS = fold("num_attention_heads", "head_dim") >> regroup("2", "head_dim//2") >> flat  # rotated ones side by side


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """The side of the square image that there are positions for. Raises UnsupportedError for patches of more images."""
    require_only(hparams, {"patch_temporal": 2})
    return {"image_size": hparams.count("pos_emb_height") * hparams.count("patch_size") * hparams.count("merge_size")}


def of_image(which: int) -> Layout:
    """The kernel for the first or second image of two."""
    images = split("2", PATCH) >> every(which, 2) >> flat
    return images >> split("num_channels", "patch_size*patch_size") >> split("patch_size", "patch_size")


def rotated(name: str, role: Role) -> tuple[T, T]:
    """Queries or keys in llama.cpp's rotation order."""
    return (
        T(f"attn.{name}_proj.weight", f"attn_{name}.weight", role, "hidden_size hidden_size", PAIRS),
        T(f"attn.{name}_proj.bias", f"attn_{name}.bias", Role.BIAS, "hidden_size", column >> PAIRS >> line),
    )


MUSE_GLIMMER = Tower(
    name="muse-glimmer",
    hf=("MuseGlimmerForConditionalGeneration",),
    owns=(TOWER, "vision_adapter.", "vision_projection."),
    outside=(
        T(f"{TOWER}patch_embedder.patch_embedding.weight", "v.patch_embd.weight", Role.OTHER, f"hidden_size 2*{PATCH}",
          summed(of_image(0), of_image(1)), stored=HALF),
        T(f"{TOWER}patch_embedder.position_embedding_table.weight", "v.position_embd.weight", Role.POSITION,
          "pos_emb_height*pos_emb_width hidden_size"),
        *with_biases((
            T(f"{TOWER}ln_pre.weight", "v.pre_ln.weight", Role.NORM, "hidden_size"),
            T(f"{TOWER}ln_post.weight", "v.post_ln.weight", Role.NORM, "hidden_size"),
        )),
        T("vision_adapter.fc1.weight", "mm.0.weight", Role.OTHER, "width merge_size*merge_size*hidden_size"),
        T("vision_adapter.fc2.weight", "mm.1.weight", Role.OTHER, "width width"),
        T("vision_projection.weight", "mm.2.weight", Role.OTHER, "projection_dim width"),
    ),
    block=(
        *rotated("q", Role.ATTN_Q),
        *rotated("k", Role.ATTN_K),
        *with_biases((
            T("norm1.weight", "ln1.weight", Role.NORM, "hidden_size"),
            T("norm2.weight", "ln2.weight", Role.NORM, "hidden_size"),
            T("attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, "hidden_size hidden_size"),
            T("attn.proj.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size"),
            T("mlp.fc1.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
            T("mlp.fc2.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
        )),
    ),
    source_block=f"{TOWER}layers.{{}}.",
    defaults={
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 50, "num_attention_heads": 16,
        "num_channels": 3, "patch_size": 14, "pos_emb_height": 32, "pos_emb_width": 32, "patch_temporal": 2,
        "merge_size": 2, "layer_norm_eps": 1e-5,
    },
    derive=(numbers, lambda hparams: {"width": root("projector_hidden_size", 4096)(hparams)}),
    keys=vision_keys("muse-glimmer", epsilon(), MERGE),
)  # fmt: skip

TOWERS = (MUSE_GLIMMER,)
