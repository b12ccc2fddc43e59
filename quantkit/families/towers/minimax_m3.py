"""MiniMax M3: CLIP without learned positions; each patch is projected, and squares of projected ones become one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families.hparams import Hparams
from quantkit.families.model import RowOrder
from quantkit.families.placements import Placement, whole
from quantkit.families.roles import Role
from quantkit.families.rows import T, with_biases
from quantkit.families.tower import Tower
from quantkit.families.vit import GELU, MERGED_SIDE, SIGLIP_BLOCK, epsilon, kernel_of_two, root, vision_keys
from quantkit.tensors import TensorInfo

TOWER, PROJECTOR, MERGER = "vision_tower.vision_model.", "multi_modal_projector.", "patch_merge_mlp."
HEAD, AXIS = 80, 13  # dimensions of a head, the only number that llama.cpp takes, and pairs that an axis rotates
COMPRESSION = "img_token_compression_config"


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """How many patches become one, and widths. Raises UnsupportedError for heads of another size."""
    head = hparams.count("hidden_size") // hparams.count("num_attention_heads")
    if head != HEAD:
        what = f"heads of the encoder have {head} dimensions, llama.cpp has only {HEAD} there"
        raise UnsupportedError(what, key="num_attention_heads", hint="this variant has no graph in llama.cpp")
    said = hparams.values.get(COMPRESSION)
    side = said.get("spatial_merge_size") if isinstance(said, Mapping) else None
    return {"width": root("projector_hidden_size", 6144)(hparams), **({"spatial_merge_size": side} if side else {})}


def by_axis(info: TensorInfo, hparams: Hparams) -> Placement:
    """The rows of queries or keys, what is rotated by each axis together: (half, axis, pair) as (axis, half, pair)."""
    order = [half * 3 * AXIS + axis * AXIS + pair for axis in range(3) for half in range(2) for pair in range(AXIS)]
    return replace(whole(info, hparams), row_order=RowOrder("axes", (*order, *range(6 * AXIS, HEAD))))


MINIMAX_M3 = Tower(
    name="minimax_m3",
    hf=("MiniMaxM3SparseForConditionalGeneration", "MiniMaxM3VLForConditionalGeneration"),
    owns=("vision_tower.", PROJECTOR, MERGER),
    outside=(
        *kernel_of_two(f"{TOWER}embeddings.patch_embedding.weight"),
        *with_biases((
            T(f"{TOWER}pre_layrnorm.weight", "v.pre_ln.weight", Role.NORM, "hidden_size"),
            T(f"{PROJECTOR}linear_1.weight", "mm.1.weight", Role.OTHER, "width hidden_size"),
            T(f"{PROJECTOR}linear_2.weight", "mm.2.weight", Role.OTHER, "projection_dim width"),
            T(f"{MERGER}linear_1.weight", "mm.merger.fc1.weight", Role.OTHER,
              "width spatial_merge_size*spatial_merge_size*projection_dim"),
            T(f"{MERGER}linear_2.weight", "mm.merger.fc2.weight", Role.OTHER, "projection_dim width"),
        )),
    ),
    block=tuple(replace(t, place=by_axis) if t.role in {Role.ATTN_Q, Role.ATTN_K} else t for t in SIGLIP_BLOCK),
    source_block=f"{TOWER}encoder.layers.{{}}.",
    defaults={
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
        "num_channels": 3, "image_size": 2016, "patch_size": 14, "spatial_merge_size": 2, "layer_norm_eps": 1e-5,
    },
    derive=(numbers,),
    keys=vision_keys("minimax_m3", GELU, epsilon(), MERGED_SIDE),
)  # fmt: skip

TOWERS = (MINIMAX_M3,)
