"""The encoder of images in Mistral's own layout, seen as the one that transformers saves (Pixtral, Mistral Small 3).

    params.json  "vision_encoder": {"hidden_size", "num_channels", "image_size", "patch_size", "rope_theta",
                  "intermediate_size", "num_hidden_layers", "num_attention_heads", "adapter_bias", "image_token_id",
                  "image_break_token_id", "mm_projector_id", "spatial_merge_size", ...}
    weights      vision_encoder.patch_conv.weight, vision_encoder.transformer.layers.N.attention.wq.weight, ...
                 vision_language_adapter.w_in.weight, patch_merger.merging_layer.weight, pre_mm_projector_norm.weight

No file says how values of images are spread: mistral-common always takes those of CLIP. Sources:
convert_pixtral_weights_to_hf.py and convert_mistral3_weights_to_hf.py of transformers, conversion/pixtral.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

PART = "vision_encoder"
# what transformers has the same names for, and what it computes or never uses
LIKE = (
    "hidden_size", "num_channels", "image_size", "patch_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads",
)  # fmt: skip
NEEDED = tuple(key for key in LIKE if key != "num_channels")
KNOWN = (
    *LIKE, "rope_theta", "adapter_bias", "image_token_id", "image_break_token_id", "image_end_token_id",
    "mm_projector_id", "spatial_merge_size", "add_pre_mm_projector_layer_norm", "max_image_size",
)  # fmt: skip
MERGER = "patch_merge"
PROJECTORS = (None, "", MERGER)
TEXT = "language_model."
VALUES = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip

OUTSIDE = {
    "vision_encoder.patch_conv.weight": "vision_tower.patch_conv.weight",
    "vision_encoder.ln_pre.weight": "vision_tower.ln_pre.weight",
    "pre_mm_projector_norm.weight": "multi_modal_projector.norm.weight",
    "patch_merger.merging_layer.weight": "multi_modal_projector.patch_merger.merging_layer.weight",
    **{
        f"vision_language_adapter.{own}.{end}": f"multi_modal_projector.{other}.{end}"
        for own, other in (("w_in", "linear_1"), ("w_out", "linear_2"))
        for end in ("weight", "bias")
    },
}
IN_LAYER = {
    "attention_norm": "attention_norm", "ffn_norm": "ffn_norm", "feed_forward.w1": "feed_forward.gate_proj",
    "feed_forward.w2": "feed_forward.down_proj", "feed_forward.w3": "feed_forward.up_proj",
    **{f"attention.w{x}": f"attention.{x}_proj" for x in "qkvo"},
}  # fmt: skip
LAYER = re.compile(r"vision_encoder\.transformer\.layers\.(?P<layer>[0-9]{1,6})\.(?P<inner>.+)\.weight")


def with_encoder(config: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a model that sees, for that of its language model and the `part` of params.json."""
    text = {key: value for key, value in config.items() if key not in {"architectures", "quantization_config"}}
    merges = part.get("mm_projector_id") == MERGER
    vision = {key: part[key] for key in LIKE if part.get(key) is not None}
    return {
        "architectures": ["Mistral3ForConditionalGeneration" if merges else "LlavaForConditionalGeneration"],
        "model_type": "mistral3" if merges else "llava",
        "torch_dtype": config["torch_dtype"],
        "tie_word_embeddings": config["tie_word_embeddings"],
        "text_config": text,
        "vision_config": {
            **vision, "model_type": "pixtral", "hidden_act": "silu", "layer_norm_eps": config["rms_norm_eps"],
            "rope_theta": part.get("rope_theta", 10000.0),
        },
        "image_token_index": part.get("image_token_id", 10),
        "multimodal_projector_bias": part.get("adapter_bias") is True,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        **({"spatial_merge_size": part.get("spatial_merge_size", 2)} if merges else {
            "vision_feature_select_strategy": "full", "image_seq_length": 1,
        }),
        **({"quantization_config": config["quantization_config"]} if "quantization_config" in config else {}),
    }  # fmt: skip


def counterpart(name: str) -> str | None:
    """The name that transformers gives to a tensor of the encoder, None for a tensor of another."""
    match = LAYER.fullmatch(name)
    if match is None:
        return OUTSIDE.get(name)
    inner = IN_LAYER.get(match["inner"])
    return f"vision_tower.transformer.layers.{match['layer']}.{inner}.weight" if inner else None
