"""What transformers makes of an image: the embeddings that the text model is given, for encoders of `tower_table`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tower_table import SEEN, TABLE

WIDTH = 64  # of every text model of the table
# The side of an image that llama.cpp does not resize.
SIDES = {
    "gemma3": 64, "qwen2vl": 112, "qwen25vl": 112, "qwen3vl": 112, "glm4v": 112, "mistral3": 96, "internvl": 64,
    "llama4": 64, "llava": 64, "llavasiglip": 64, "step3vl": 64,
}  # fmt: skip
# Cosine with transformers. llama.cpp takes the tangent's approximation of GELU, or its quick one, where these have the
# exact one; random weights are large, and what was a difference of 1e-3 grows from layer to layer.
LEAST = {name: 0.9999 for name in SIDES} | {"internvl": 0.998, "llama4": 0.995}


def pixels(name: str) -> NDArray[np.uint8]:
    """A random image (side, side, 3)."""
    return np.random.default_rng(3).integers(0, 256, (SIDES[name], SIDES[name], 3), dtype=np.uint8)


def seen_by_transformers(name: str, folder: Path) -> NDArray[np.float32]:
    """Embeddings of the random image, float32 (tokens, width)."""
    import torch
    import transformers

    model = getattr(transformers, TABLE[name].model).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    mean, std = (np.array(SEEN[f"image_{key}"], np.float32) for key in ("mean", "std"))
    values = torch.from_numpy(((pixels(name).astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None])
    with torch.no_grad():
        found = _features(name, model.eval(), values)
        found = getattr(found, "pooler_output", found)
        pieces = found if isinstance(found, (list, tuple)) else [found]
        return np.concatenate([np.asarray(piece.reshape(-1, WIDTH)) for piece in pieces])


def _features(name: str, model: Any, values: Any) -> Any:
    side = SIDES[name]
    if name == "llama4":
        seen = model.get_image_features(pixel_values=values, vision_feature_select_strategy="default")
        return model.multi_modal_projector(getattr(seen, "last_hidden_state", seen))
    if name == "mistral3":
        return model.model.get_image_features(values, image_sizes=_tensor([[side, side]]), vision_feature_layer=-1)
    part = model.config.vision_config
    if hasattr(part, "temporal_patch_size"):
        rows = _patches(values, side, {"patch": part.patch_size, "merge": part.spatial_merge_size})
        count = side // part.patch_size
        return model.model.get_image_features(rows, image_grid_thw=_tensor([[1, count, count]]))
    if name == "llava":
        return _class_token_last(model, values)
    return model.model.get_image_features(values)


def _class_token_last(model: Any, values: Any) -> Any:
    """As llama.cpp has it: the class token after the patches, while positions and outputs are counted as if it were the
    first (github.com/ggml-org/llama.cpp/issues/25814)."""
    import torch

    tower = model.model.vision_tower
    positions = tower.embeddings.position_embedding.weight
    positions.data = torch.roll(positions.data, 1, 0)
    seen = tower(values, output_hidden_states=True).hidden_states[model.config.vision_feature_layer][0]
    return model.model.multi_modal_projector(torch.cat([seen[2:], seen[:1]]))


def _tensor(values: Any) -> Any:
    import torch

    return torch.tensor(values)


def _patches(values: Any, side: int, sizes: Mapping[str, int]) -> Any:
    """An image as two equal frames, cut into patches in the order of the squares that are merged."""
    import torch

    patch, merge = sizes["patch"], sizes["merge"]
    squares = side // patch // merge
    frames = torch.cat([values, values]).reshape(1, 2, 3, squares, merge, patch, squares, merge, patch)
    return frames.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape((side // patch) ** 2, 3 * 2 * patch * patch)


def rows_of_patches(name: str, found: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The embeddings of patches among those that llama.cpp gives: one image of `count`, without ends of rows."""
    if name == "mistral3":
        side = int(count**0.5)
        found = np.delete(found, [(side + 1) * row + side for row in range(side - 1)], 0)
    return found[:count, :WIDTH]
