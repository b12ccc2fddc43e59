"""One row for each projector: a tiny model that sees or hears, as transformers saves it and as it was published.

Layers of the encoder are three or more: the reference maps "linear_{N}" for numbers of layers only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import checkpoints
from checkpoints import Variant

SPREAD = 0.15
TEXT: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VIT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 64,
    "patch_size": 16,
}  # fmt: skip
FOLDED = {"num_heads": 2, "depth": 3, "patch_size": 14, "hidden_size": 32}  # of the Qwens
MROPE = {"rope_type": "default", "type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
HEARING = {
    "num_mel_bins": 16, "max_source_positions": 1500, "d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
}  # fmt: skip
GEMMA4 = {
    **TEXT, "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"],
    "hidden_size_per_layer_input": 0, "vocab_size": 2048,
}  # fmt: skip
GEMMA4_SEEING = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "patch_size": 16, "position_embedding_size": 32,
}  # fmt: skip
PIXTRAL = {**VIT, "model_type": "pixtral", "head_dim": 16, "image_size": 128}
BREAKING = {**TEXT, "model_type": "mistral", "vocab_size": 401}
IMAGE_BREAK = {"v.token_embd.img_break": "the reference drops every tensor of the text model before it looks"}
SEEN = {"image_mean": [0.5, 0.25, 0.125], "image_std": [0.5, 0.75, 0.625]}


@dataclass(frozen=True)
class Tower:
    """A checkpoint with an encoder: made by the class `model` of transformers.

    `processor` is what preprocessor_config.json says, `files` lie beside it. `published` are other spellings of names,
    as a published checkpoint has them; what the reference reads is always spelled so. `edit` changes config.json.
    `adds` are tensors that the reference leaves out, and why; `renames` names that it gives to what they call otherwise
    here. `words` are tokens of the vocabulary. `apart` is by how many units in the last place f32 values may differ.
    """

    model: str
    config: Mapping[str, Any]
    processor: Mapping[str, Any] = field(default_factory=lambda: SEEN)
    files: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)
    edit: Callable[[dict[str, Any]], object] | None = None
    adds: Mapping[str, str] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    apart: int = 0


WRAPPED = {r"^((?:model\.)?vision_tower\.)(?!vision_model)": r"\1vision_model."}


def of_vision(**said: Any) -> Callable[[dict[str, Any]], object]:
    """What config.json says of the encoder besides."""
    return lambda config: config["vision_config"].update(said)


TABLE: dict[str, Tower] = {
    "gemma3": Tower(
        "Gemma3ForConditionalGeneration",
        {
            "text_config": {**TEXT, "query_pre_attn_scalar": 16, "sliding_window": 64}, "mm_tokens_per_image": 4,
            "vision_config": {**VIT, "vision_use_head": False},
        },
        processor={**SEEN, "image_seq_length": 4},
        published=WRAPPED,
    ),
    "qwen2vl": Tower(
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": {**TEXT, "rope_scaling": MROPE},
            "vision_config": {**FOLDED, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
        },
    ),
    "qwen25vl": Tower(
        "Qwen2_5_VLForConditionalGeneration",
        {
            "text_config": {**TEXT, "rope_scaling": MROPE},
            "vision_config": {
                **FOLDED, "depth": 4, "intermediate_size": 48, "out_hidden_size": 64,
                "fullatt_block_indexes": [1, 3], "window_size": 56,
            },
        },
    ),
    "qwen3vl": Tower(
        "Qwen3VLForConditionalGeneration",
        {
            "text_config": {**TEXT, "rope_scaling": MROPE, "rms_norm_eps": 2e-6},
            "vision_config": {
                **FOLDED, "intermediate_size": 48, "out_hidden_size": 64, "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0, 2],
            },
        },
    ),
    "mistral3": Tower(
        "Mistral3ForConditionalGeneration",
        {"text_config": BREAKING, "vision_config": {**PIXTRAL, "hidden_act": "silu"}},
        adds=IMAGE_BREAK,
        words=("[IMG_BREAK]",),
    ),
    "pixtral": Tower(
        "LlavaForConditionalGeneration",
        {"text_config": BREAKING, "vision_config": {**PIXTRAL, "hidden_act": "gelu"}},
        adds=IMAGE_BREAK,
        words=("[IMG_BREAK]",),
    ),
    "smolvlm": Tower(
        "SmolVLMForConditionalGeneration",
        {"text_config": {**TEXT, "model_type": "llama"}, "vision_config": VIT, "scale_factor": 2},
        processor={**SEEN, "size": {"longest_edge": 128}},
    ),
    "idefics3": Tower(
        "Idefics3ForConditionalGeneration",
        {"text_config": {**TEXT, "model_type": "llama"}, "vision_config": VIT, "scale_factor": 4},
    ),
    "internvl": Tower(
        "InternVLForConditionalGeneration",
        {
            "text_config": {**TEXT, "model_type": "qwen2"},
            "vision_config": {
                **VIT, "num_hidden_layers": 4, "image_size": [64, 64], "patch_size": [16, 16], "attention_bias": True,
            },
        },
        edit=of_vision(architectures=["InternVisionModel"]),
        published={r"^(vision_tower|multi_modal_projector)\.": r"model.\1."},
    ),
    "llama4": Tower(
        "Llama4ForConditionalGeneration",
        {
            "text_config": {**TEXT, "intermediate_size_mlp": 96, "num_local_experts": 2},
            "vision_config": {
                **VIT, "vision_output_dim": 48, "projector_input_dim": 48, "projector_output_dim": 48,
                "intermediate_size": 128,
            },
        },
        renames={".attn_post_norm.": ".ln2."},  # its mapping of names has another norm's, of Gemma 4
    ),
    "lfm2vl": Tower(
        "Lfm2VlForConditionalGeneration",
        {
            "text_config": {**TEXT, "layer_types": ["full_attention"]}, "projector_hidden_size": 48,
            "vision_config": {**VIT, "num_patches": 16, "vision_use_head": False}, "vision_feature_layer": -2,
        },
        published=WRAPPED,
    ),
    "glm4v": Tower(
        "Glm4vForConditionalGeneration",
        {
            "text_config": {**TEXT, "rope_scaling": MROPE},
            "vision_config": {**FOLDED, "intermediate_size": 48, "out_hidden_size": 64, "image_size": 56},
        },
    ),
    "gemma4": Tower(
        "Gemma4ForConditionalGeneration", {"text_config": GEMMA4, "vision_config": GEMMA4_SEEING},
    ),
    "gemma4audio": Tower(
        "Gemma4ForConditionalGeneration",
        {
            "text_config": GEMMA4, "vision_config": {**GEMMA4_SEEING, "use_clipped_linears": True},
            "audio_config": {
                "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "output_proj_dims": 48,
                "subsampling_conv_channels": [128, 32],
            },
        },
        apart=1,
    ),
    "qwen2audio": Tower(
        "Qwen2AudioForConditionalGeneration",
        {"text_config": {**TEXT, "model_type": "qwen2"}, "audio_config": HEARING},
        processor={"feature_size": 16},
    ),
    "voxtral": Tower(
        "VoxtralForConditionalGeneration",
        {
            "text_config": {**TEXT, "model_type": "llama"},
            "audio_config": {
                "num_mel_bins": 16, "max_source_positions": 1500, "hidden_size": 32, "num_hidden_layers": 3,
                "num_attention_heads": 2, "intermediate_size": 128,
            },
        },
        processor={"feature_size": 16},
    ),
}  # fmt: skip


def build(name: str, folder: Path) -> Path:
    """Write the checkpoint as transformers saves it; NAME.published beside it, where that has other names."""
    entry = TABLE[name]
    files = {"preprocessor_config.json": json.dumps(dict(entry.processor)), **entry.files}
    variant = Variant(entry.model, entry.config, bpe=True, words=entry.words, edit=entry.edit, files=files)
    out = checkpoints.build_variant(variant, folder / name, SPREAD)
    if entry.published:
        respelled(out, folder / f"{name}.published" / name, entry.published)
    return out


def published(name: str, folder: Path) -> Path:
    """The checkpoint as the reference reads it."""
    return folder / f"{name}.published" / name if TABLE[name].published else folder / name


def respelled(source: Path, out: Path, spellings: Mapping[str, str]) -> None:
    """A checkpoint with other names of its tensors."""
    from safetensors.torch import load_file, save_file

    out.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (out / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    for pattern, to in spellings.items():
        tensors = {re.sub(pattern, to, key): tensor for key, tensor in tensors.items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
