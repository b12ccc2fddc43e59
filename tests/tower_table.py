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
from zlib import crc32

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
CLIP = {**VIT, "model_type": "clip_vision_model", "projection_dim": 32}
LLAMA = {**TEXT, "model_type": "llama"}
WAVES = {"a.position_embd.weight": 1e-4}  # sines of up to 1500, whose last bits depend on the exponential
HEARING_OMNI = {**HEARING, "output_dim": 64}
HYBRID = {**TEXT, "hybrid_override_pattern": "*"}
ONE_LAYER = {**TEXT, "layer_types": ["full_attention"]}
SILENT_GEMMA3N = {
    "conf_num_hidden_layers": 2, "conf_num_attention_heads": 2, "input_feat_size": 16, "hidden_size": 32,
}  # fmt: skip
PIXELS = {"min_pixels": 256, "max_pixels": 16384}
MOON = {
    "model_type": "moonvit", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "patch_size": 14,
    "num_attention_heads": 2, "init_pos_emb_height": 4, "init_pos_emb_width": 4, "merge_kernel_size": [2, 2],
}  # fmt: skip
MOON_25 = {
    "vt_hidden_size": 128, "vt_intermediate_size": 64, "vt_num_hidden_layers": 3, "vt_num_attention_heads": 16,
    "patch_size": 14, "init_pos_emb_height": 4, "init_pos_emb_width": 4, "init_pos_emb_time": 4,
    "merge_kernel_size": [2, 2], "projector_ln_eps": 2e-5,
}  # fmt: skip
SEEN = {"image_mean": [0.5, 0.25, 0.125], "image_std": [0.5, 0.75, 0.625]}


@dataclass(frozen=True)
class Tower:
    """A checkpoint with an encoder: made by the class `model` of transformers, or of tensors of these `shapes` where
    transformers has none, `model` being its architecture.

    `processor` is what preprocessor_config.json says, `files` lie beside it. `published` are other spellings of names,
    as a published checkpoint has them; what the reference reads is always spelled so. `edit` changes config.json.
    `adds` are tensors that the reference leaves out, and why; `renames` names that it gives to what they call otherwise
    here. `words` are tokens of the vocabulary. `apart` is by how many units in the last place f32 values may differ,
    `near` by how much those of some tensors.

    `reference` says whether the reference can write it. `lacks` are keys and tensors of its file that are left out,
    `reshaped` tensors that have other axes in it (regular expressions). `loads` is the type of the file that llama.cpp
    is given, `refused` why it does not load what is written.
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
    near: Mapping[str, float] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    reference: bool = True
    loads: str = "f32"
    refused: str | None = None
    lacks: str | None = None
    reshaped: str | None = None


def linear(name: str, rows: int, cols: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    """The shapes of a linear."""
    return {f"{name}.weight": (rows, cols), **({f"{name}.bias": (rows,)} if bias else {})}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a layer norm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def whisper_layers(count: int, k_bias: bool = False) -> dict[str, tuple[int, ...]]:
    """The shapes of layers of HEARING."""
    found: dict[str, tuple[int, ...]] = {}
    for at in (f"layers.{number}." for number in range(count)):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"{at}self_attn.{part}", 32, 32, bias=k_bias or part != "k_proj")
        found |= linear(f"{at}fc1", 64, 32) | linear(f"{at}fc2", 32, 64)
        found |= norm(f"{at}self_attn_layer_norm", 32) | norm(f"{at}final_layer_norm", 32)
    return found


def cogvlm() -> dict[str, tuple[int, ...]]:
    """The shapes of CogVLM's tower of three layers."""
    at, found = "model.vision.", {"model.vision.boi": (1, 1, 64), "model.vision.eoi": (1, 1, 64)}
    for block in (f"{at}transformer.layers.{number}." for number in range(3)):
        found |= norm(f"{block}input_layernorm", 32) | norm(f"{block}post_attention_layernorm", 32)
        found |= linear(f"{block}attention.query_key_value", 96, 32) | linear(f"{block}attention.dense", 32, 32)
        found |= linear(f"{block}mlp.fc1", 64, 32) | linear(f"{block}mlp.fc2", 32, 64)
    patches, projector = f"{at}patch_embedding.", f"{at}linear_proj."
    return {
        **found, f"{patches}cls_embedding": (1, 32), f"{patches}position_embedding.weight": (17, 32),
        f"{patches}proj.weight": (32, 3, 16, 16), f"{patches}proj.bias": (32,), **norm(f"{projector}norm1", 64),
        **linear(f"{projector}linear_proj", 64, 32, bias=False), **linear(f"{projector}gate_proj", 96, 64, bias=False),
        **linear(f"{projector}dense_h_to_4h", 96, 64, bias=False),
        **linear(f"{projector}dense_4h_to_h", 64, 96, bias=False),
    }  # fmt: skip


WRAPPED = {r"^((?:model\.)?vision_tower\.)(?!vision_model)": r"\1vision_model."}


def moon(width: int = 32) -> dict[str, tuple[int, ...]]:
    """The shapes of a MoonViT of three layers."""
    at = "vision_tower."
    found = {f"{at}patch_embed.proj.weight": (width, 3, 14, 14), f"{at}patch_embed.proj.bias": (width,)}
    for block in (f"{at}encoder.blocks.{number}." for number in range(3)):
        found |= norm(f"{block}norm0", width) | norm(f"{block}norm1", width) | linear(f"{block}wqkv", 3 * width, width)
        found |= linear(f"{block}wo", width, width) | linear(f"{block}mlp.fc0", 64, width)
        found |= linear(f"{block}mlp.fc1", width, 64)
    return found | norm(f"{at}encoder.final_layernorm", width)


def kimi_k25() -> dict[str, tuple[int, ...]]:
    """The shapes of the tower of Kimi K2.5 as transformers saves it."""
    return {
        **{name.replace(".patch_embed.proj.", ".encoder.patch_embed.proj."): size for name, size in moon(128).items()},
        "vision_tower.patch_embed.pos_emb.weight": (4, 4, 128), **norm("model.mm_projector.pre_norm", 128),
        **linear("mm_projector.proj.0", 512, 512), **linear("mm_projector.proj.2", 64, 512),
    }  # fmt: skip


def dots() -> dict[str, tuple[int, ...]]:
    """The shapes of the tower of dots.ocr, of three layers."""
    at = "vision_tower."
    found: dict[str, tuple[int, ...]] = {
        f"{at}patch_embed.patchifier.proj.weight": (32, 3, 16, 16), f"{at}patch_embed.patchifier.proj.bias": (32,),
        f"{at}patch_embed.patchifier.norm.weight": (32,), f"{at}post_trunk_norm.weight": (32,),
        **norm(f"{at}merger.ln_q", 32), **linear(f"{at}merger.mlp.0", 128, 128), **linear(f"{at}merger.mlp.2", 64, 128),
    }  # fmt: skip
    for block in (f"{at}blocks.{number}." for number in range(3)):
        found |= {f"{block}norm1.weight": (32,), f"{block}norm2.weight": (32,)}
        for name, rows, cols in (("attn.qkv", 96, 32), ("attn.proj", 32, 32), ("mlp.fc1", 64, 32), ("mlp.fc3", 64, 32)):
            found |= linear(f"{block}{name}", rows, cols, bias=False)
        found |= linear(f"{block}mlp.fc2", 32, 64, bias=False)
    return found


def siglip(at: str, patch: tuple[int, ...], positions: int | None) -> dict[str, tuple[int, ...]]:
    """The shapes of a SigLIP of VIT."""
    found: dict[str, tuple[int, ...]] = {
        f"{at}embeddings.patch_embedding.weight": patch, f"{at}embeddings.patch_embedding.bias": (32,),
    }  # fmt: skip
    if positions is not None:
        found[f"{at}embeddings.position_embedding.weight"] = (positions, 32)
    return found | vit_layers(f"{at}encoder.", 32) | norm(f"{at}post_layernorm", 32)


def vit_layers(at: str, width: int) -> dict[str, tuple[int, ...]]:
    """The shapes of three layers of a vision transformer as SigLIP and CLIP name them."""
    found: dict[str, tuple[int, ...]] = {}
    for block in (f"{at}layers.{number}." for number in range(3)):
        found |= norm(f"{block}layer_norm1", width) | norm(f"{block}layer_norm2", width)
        found |= linear(f"{block}mlp.fc1", 64, width) | linear(f"{block}mlp.fc2", width, 64)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"{block}self_attn.{part}", width, width)
    return found


def qwen_vit() -> dict[str, tuple[int, ...]]:
    """The shapes of Qwen3-VL's tower of three layers, which feeds no layer of the text model."""
    at = "model.visual."
    found: dict[str, tuple[int, ...]] = {
        f"{at}patch_embed.proj.weight": (32, 3, 2, 14, 14), f"{at}patch_embed.proj.bias": (32,),
        f"{at}pos_embed.weight": (16, 32), **norm(f"{at}merger.norm", 32), **linear(f"{at}merger.linear_fc1", 128, 128),
        **linear(f"{at}merger.linear_fc2", 64, 128),
    }  # fmt: skip
    for block in (f"{at}blocks.{number}." for number in range(3)):
        found |= norm(f"{block}norm1", 32) | norm(f"{block}norm2", 32) | linear(f"{block}attn.qkv", 96, 32)
        found |= linear(f"{block}attn.proj", 32, 32) | linear(f"{block}mlp.linear_fc1", 48, 32)
        found |= linear(f"{block}mlp.linear_fc2", 32, 48)
    return found


def sam(third: int) -> dict[str, tuple[int, ...]]:
    """The shapes of SAM with three layers, which gives vectors of `third` numbers."""
    sam = "model.sam_model."
    found: dict[str, tuple[int, ...]] = {
        f"{sam}pos_embed": (1, 64, 64, 32), f"{sam}patch_embed.proj.weight": (32, 3, 16, 16),
        f"{sam}patch_embed.proj.bias": (32,), f"{sam}neck.0.weight": (256, 32, 1, 1), **norm(f"{sam}neck.1", 256),
        f"{sam}neck.2.weight": (256, 256, 3, 3), **norm(f"{sam}neck.3", 256), f"{sam}net_2.weight": (512, 256, 3, 3),
        f"{sam}net_3.weight": (third, 512, 3, 3), "model.view_seperator": (64,), "model.embed_tokens.weight": (400, 64),
    }  # fmt: skip
    for block, reach in ((f"{sam}blocks.{number}.", 127 if number == 2 else 27) for number in range(3)):
        found |= norm(f"{block}norm1", 32) | norm(f"{block}norm2", 32) | linear(f"{block}attn.qkv", 96, 32)
        found |= linear(f"{block}attn.proj", 32, 32) | linear(f"{block}mlp.lin1", 128, 32)
        found |= linear(f"{block}mlp.lin2", 32, 128)
        found |= {f"{block}attn.rel_pos_{axis}": (reach, 16) for axis in "hw"}
    return found


def radio(layers: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the tower of a Nemotron Nano VL, of so many layers, with positions for 8 by 8 patches."""
    at = "vision_model.radio_model."
    found: dict[str, tuple[int, ...]] = {
        f"{at}model.patch_generator.embedder.weight": (32, 768), f"{at}model.patch_generator.pos_embed": (1, 64, 32),
        f"{at}model.patch_generator.cls_token.token": (10, 32), f"{at}summary_idxs": (2,),
        f"{at}model.patch_generator.video_embedder.weight": (32, 1536), f"{at}input_conditioner.norm_mean": (3, 1, 1),
        "mlp1.0.weight": (128,), "mlp1.1.weight": (48, 128), "mlp1.3.weight": (64, 48),
    }  # fmt: skip
    for block in (f"{at}model.blocks.{number}." for number in range(layers)):
        found |= norm(f"{block}norm1", 32) | norm(f"{block}norm2", 32) | linear(f"{block}attn.qkv", 96, 32)
        found |= linear(f"{block}attn.proj", 32, 32) | linear(f"{block}mlp.fc1", 64, 32)
        found |= linear(f"{block}mlp.fc2", 32, 64)
    return found


def parakeet() -> dict[str, tuple[int, ...]]:
    """The shapes of the encoder of sound of a Nemotron Omni, of two layers."""
    at = "sound_encoder.encoder."
    found: dict[str, tuple[int, ...]] = {
        **linear(f"{at}subsampling.linear", 32, 16), "sound_projection.norm.weight": (32,),
        **linear("sound_projection.linear1", 24, 32, bias=False),
        **linear("sound_projection.linear2", 64, 24, bias=False),
        f"{at}feature_extractor.featurizer.fb": (1, 16, 257), f"{at}feature_extractor.featurizer.window": (400,),
    }  # fmt: skip
    for number, inside in ((0, (1, 3, 3)), (2, (1, 3, 3)), (3, (8, 1, 1)), (5, (1, 3, 3)), (6, (8, 1, 1))):
        found[f"{at}subsampling.layers.{number}.weight"] = (8, *inside)
        found[f"{at}subsampling.layers.{number}.bias"] = (8,)
    for block in (f"{at}layers.{number}." for number in range(2)):
        for name in ("feed_forward1", "self_att", "conv", "feed_forward2", "out"):
            found |= norm(f"{block}norm_{name}", 32)
        for half in "12":
            found |= linear(f"{block}feed_forward{half}.linear1", 64, 32, bias=False)
            found |= linear(f"{block}feed_forward{half}.linear2", 32, 64, bias=False)
        for part in ("q", "k", "v", "o", "relative_k"):
            found |= linear(f"{block}self_attn.{part}_proj", 32, 32, bias=False)
        found |= {f"{block}self_attn.bias_{x}": (2, 16) for x in "uv"}
        for name, shape in (("pointwise_conv1", (64, 32, 1)), ("depthwise_conv", (32, 1, 9)),
                            ("pointwise_conv2", (32, 32, 1))):  # fmt: skip
            found |= {f"{block}conv.{name}.weight": shape, f"{block}conv.{name}.bias": shape[:1]}
        found |= {f"{block}conv.norm.{name}": (32,) for name in ("weight", "bias", "running_mean", "running_var")}
        found[f"{block}conv.norm.num_batches_tracked"] = (1,)
    return found


def deepseek4() -> dict[str, tuple[int, ...]]:
    """The shapes of DeepSeek V4's tower of three layers."""
    found: dict[str, tuple[int, ...]] = {
        **linear("vision.patch_embed.proj", 32, 588), "vision.norm.weight": (32,),
        **linear("aligner.w1", 48, 128), **linear("aligner.w2", 64, 48),
        **{f"image_{which}": (64,) for which in ("newline", "start", "end", "pad")},
    }  # fmt: skip
    for block in (f"vision.blocks.{number}." for number in range(3)):
        found |= {f"{block}norm1.weight": (32,), f"{block}norm2.weight": (32,)}
        for name, rows, cols in (("attn.wqkv", 96, 32), ("attn.wo", 32, 32), ("mlp.w1", 96, 32), ("mlp.w2", 32, 48)):
            found |= linear(f"{block}{name}", rows, cols, bias=name == "attn.wo")
    return found


def step3() -> dict[str, tuple[int, ...]]:
    """The shapes of Step3-VL's tower of three layers."""
    at = "vision_model."
    found = {
        f"{at}conv1.weight": (32, 3, 16, 16), f"{at}positional_embedding": (16, 32), **norm(f"{at}ln_pre", 32),
        f"{at}vit_downsampler1.weight": (64, 32, 3, 3), f"{at}vit_downsampler1.bias": (64,),
        f"{at}vit_downsampler2.weight": (128, 64, 3, 3), f"{at}vit_downsampler2.bias": (128,),
        "vit_large_projector.weight": (64, 128),
    }  # fmt: skip
    for block in (f"{at}transformer.resblocks.{number}." for number in range(3)):
        found |= norm(f"{block}ln_1", 32) | norm(f"{block}ln_2", 32) | linear(f"{block}attn.out_proj", 32, 32)
        found |= linear(f"{block}mlp.c_fc", 64, 32) | linear(f"{block}mlp.c_proj", 32, 64)
        found |= {f"{block}attn.in_proj_weight": (96, 32), f"{block}attn.in_proj_bias": (96,)}
        found |= {f"{block}ls_{half}.gamma": (32,) for half in "12"}
    return found


def deepseek_ocr2() -> dict[str, tuple[int, ...]]:
    """The shapes of both towers of DeepSeek-OCR 2."""
    at = "model.qwen2_model."
    found = {
        **sam(28), f"{at}query_768.weight": (144, 28), f"{at}query_1024.weight": (256, 28),
        f"{at}model.model.norm.weight": (28,), **linear("model.projector.layers", 64, 28),
    }  # fmt: skip
    for block in (f"{at}model.model.layers.{number}." for number in range(4)):
        found |= {f"{block}input_layernorm.weight": (28,), f"{block}post_attention_layernorm.weight": (28,)}
        for part, rows in (("q", 28), ("k", 4), ("v", 4)):
            found |= linear(f"{block}self_attn.{part}_proj", rows, 28)
        found |= linear(f"{block}self_attn.o_proj", 28, 28, bias=False)
        for part, rows, cols in (("gate", 48, 28), ("up", 48, 28), ("down", 28, 48)):
            found |= linear(f"{block}mlp.{part}_proj", rows, cols, bias=False)
    return found


def deepseek_ocr() -> dict[str, tuple[int, ...]]:
    """The shapes of both towers of DeepSeek-OCR."""
    clip = "model.vision_model."
    found: dict[str, tuple[int, ...]] = {
        **sam(1024), f"{clip}embeddings.class_embedding": (32,),
        f"{clip}embeddings.patch_embedding.weight": (32, 3, 14, 14),
        f"{clip}embeddings.position_embedding.weight": (257, 32), **norm(f"{clip}pre_layrnorm", 32),
        **linear("model.projector.layers", 64, 1056), "model.image_newline": (64,),
    }  # fmt: skip
    for block in (f"{clip}transformer.layers.{number}." for number in range(4)):
        found |= norm(f"{block}layer_norm1", 32) | norm(f"{block}layer_norm2", 32)
        found |= linear(f"{block}self_attn.qkv_proj", 96, 32) | linear(f"{block}self_attn.out_proj", 32, 32)
        found |= linear(f"{block}mlp.fc1", 128, 32) | linear(f"{block}mlp.fc2", 32, 128)
    return found


def mobilenet() -> dict[str, tuple[int, ...]]:
    """The shapes of a MobileNet V5 with a block of each kind, and of a tensor of sound."""
    net = "model.vision_tower.timm_model."
    found: dict[str, tuple[int, ...]] = {
        f"{net}conv_stem.conv.weight": (16, 3, 3, 3), f"{net}conv_stem.conv.bias": (16,),
        f"{net}conv_stem.bn.weight": (16,), f"{net}msfa.ffn.pw_exp.conv.weight": (96, 88, 1, 1),
        f"{net}msfa.ffn.pw_exp.bn.weight": (96,), f"{net}msfa.ffn.pw_proj.conv.weight": (64, 96, 1, 1),
        f"{net}msfa.ffn.pw_proj.bn.weight": (64,), f"{net}msfa.norm.weight": (64,),
        "model.embed_vision.embedding.weight": (8, 64), "model.embed_vision.hard_embedding_norm.weight": (64,),
        "model.embed_vision.soft_embedding_norm.weight": (64,),
        "model.embed_vision.embedding_projection.weight": (64, 64), "model.embed_audio.embedding.weight": (8, 32),
    }  # fmt: skip
    blocks: dict[str, dict[str, tuple[int, ...]]] = {
        "0.0": {"conv_exp.weight": (32, 16, 3, 3), "bn1.weight": (32,), "conv_pwl.weight": (24, 32, 1, 1),
                "bn2.weight": (24,)},
        "1.0": {"dw_start.conv.weight": (24, 1, 3, 3), "dw_start.bn.weight": (24,), "dw_mid.conv.weight": (48, 1, 5, 5),
                "dw_mid.bn.weight": (48,), **inverted(24, 48, 32)},
        "1.1": inverted(32, 64, 32),
        "2.0": {"dw_mid.conv.weight": (64, 1, 5, 5), "dw_mid.bn.weight": (64,), **inverted(32, 64, 40)},
        "2.1": {"norm.weight": (40,), "attn.query.proj.weight": (128, 40, 1, 1), "attn.key.proj.weight": (64, 40, 1, 1),
                "attn.key.down_conv.weight": (40, 1, 3, 3), "attn.key.norm.weight": (40,),
                "attn.value.proj.weight": (64, 40, 1, 1), "attn.value.down_conv.weight": (40, 1, 3, 3),
                "attn.value.norm.weight": (40,), "attn.output.proj.weight": (40, 128, 1, 1),
                "layer_scale.gamma": (40,)},
        "3.0": {"dw_mid.conv.weight": (80, 1, 5, 5), "dw_mid.bn.weight": (80,), **inverted(40, 80, 48)},
    }  # fmt: skip
    return found | {f"{net}blocks.{at}.{name}": size for at, those in blocks.items() for name, size in those.items()}


def inverted(inside: int, wide: int, out: int) -> dict[str, tuple[int, ...]]:
    """The shapes of an inverted residual without its convolutions over places."""
    return {
        "pw_exp.conv.weight": (wide, inside, 1, 1), "pw_exp.bn.weight": (wide,),
        "pw_proj.conv.weight": (out, wide, 1, 1), "pw_proj.bn.weight": (out,), "layer_scale.gamma": (out,),
    }  # fmt: skip


def fast_conformer() -> dict[str, tuple[int, ...]]:
    """The shapes of the encoder of an LFM2-Audio, of seven layers."""
    found: dict[str, tuple[int, ...]] = {
        **linear("conformer.pre_encode.out", 32, 256), **norm("audio_adapter.model.0", 32),
        **linear("audio_adapter.model.1", 64, 32), **linear("audio_adapter.model.3", 64, 64),
        "audio_embedding.embedding.weight": (4096, 64), "audio_embedding.embedding_norm.weight": (64,),
        "audio_embedding.to_logits.weight": (64, 64), "depth_linear.weight": (8, 64), "codebook_offsets": (8,),
    }  # fmt: skip
    for number, inside in ((0, (1, 3, 3)), (2, (1, 3, 3)), (3, (16, 1, 1)), (5, (1, 3, 3)), (6, (16, 1, 1))):
        found[f"conformer.pre_encode.conv.{number}.weight"] = (16, *inside)
        found[f"conformer.pre_encode.conv.{number}.bias"] = (16,)
    for at in (f"conformer.layers.{number}." for number in range(7)):
        for name in ("feed_forward1", "self_att", "conv", "feed_forward2", "out"):
            found |= norm(f"{at}norm_{name}", 32)
        for half in "12":
            found |= linear(f"{at}feed_forward{half}.linear1", 64, 32)
            found |= linear(f"{at}feed_forward{half}.linear2", 32, 64)
        for part in ("q", "k", "v", "out"):
            found |= linear(f"{at}self_attn.linear_{part}", 32, 32)
        found |= linear(f"{at}self_attn.linear_pos", 32, 32, bias=False)
        found |= {f"{at}self_attn.pos_bias_{x}": (2, 16) for x in "uv"}
        for name, shape in (("pointwise_conv1", (64, 32, 1)), ("depthwise_conv", (32, 1, 9)),
                            ("pointwise_conv2", (32, 32, 1))):  # fmt: skip
            found |= {f"{at}conv.{name}.weight": shape, f"{at}conv.{name}.bias": shape[:1]}
        found |= {f"{at}conv.batch_norm.{name}": (32,) for name in ("weight", "bias", "running_mean")}
        found |= {f"{at}conv.batch_norm.running_var": (32,), f"{at}conv.batch_norm.num_batches_tracked": (1,)}
    return found


def named(architecture: str) -> Callable[[dict[str, Any]], object]:
    """The architecture that the published config.json has."""
    return lambda config: config.update(architectures=[architecture])


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
    **{
        name: Tower(
            architecture,
            {
                "model_type": f"{name}_published", "text_config": {**TEXT, "rms_norm_eps": 2e-6},
                "vision_config": {**FOLDED, "intermediate_size": 48, "out_hidden_size": 64,
                                  "num_position_embeddings": 16, "spatial_merge_size": 2},
            },
            shapes=qwen_vit(),
        )
        for name, architecture in (
            ("qwen3.5", "Qwen3_5ForConditionalGeneration"), ("qwen3.8", "Qwen4ExpForConditionalGeneration"),
        )
    },
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
    "llava": Tower(
        "LlavaForConditionalGeneration", {"text_config": LLAMA, "vision_config": CLIP}, published=WRAPPED,
        reference=False,
    ),
    "llavanext": Tower(
        "LlavaNextForConditionalGeneration",
        {"text_config": LLAMA, "vision_config": CLIP, "image_grid_pinpoints": [[64, 128], [128, 64], [128, 128]]},
        published=WRAPPED, reference=False,
    ),
    "llavasiglip": Tower(
        "LlavaForConditionalGeneration",
        {
            "text_config": LLAMA, "vision_config": {**VIT, "model_type": "siglip_vision_model"},
            "vision_feature_layer": [-3, -1], "vision_feature_select_strategy": "full",
        },
        reference=False,
    ),
    "gemma4unified": Tower(
        "Gemma4UnifiedForConditionalGeneration",
        {
            "text_config": GEMMA4,
            "vision_config": {"mm_embed_dim": 48, "mm_posemb_size": 20, "output_proj_dims": 48},
            "audio_config": {"audio_embed_dim": 640},
        },
    ),
    "qwen25omni": Tower(
        "Qwen2_5OmniForConditionalGeneration",
        {
            "enable_audio_output": False,
            "thinker_config": {
                "text_config": {**TEXT, "rope_scaling": MROPE}, "audio_config": HEARING_OMNI,
                "vision_config": {
                    **FOLDED, "depth": 4, "intermediate_size": 48, "out_hidden_size": 64,
                    "fullatt_block_indexes": [1, 3], "window_size": 56,
                },
            },
        },
        edit=named("Qwen2_5OmniModel"),
        near=WAVES,
    ),
    "qwen3omni": Tower(
        "Qwen3OmniMoeForConditionalGeneration",
        {
            "enable_audio_output": False,
            "thinker_config": {
                "text_config": {**TEXT, "rope_scaling": MROPE, "num_experts": 2, "num_experts_per_tok": 1,
                                "moe_intermediate_size": 32, "rms_norm_eps": 2e-6},
                "audio_config": {**HEARING_OMNI, "downsample_hidden_size": 24},
                "vision_config": {
                    **FOLDED, "intermediate_size": 48, "out_hidden_size": 64, "num_position_embeddings": 16,
                    "deepstack_visual_indexes": [0, 2],
                },
            },
        },
        published={r"^thinker\.(model\.)?visual\.": "visual."},  # as thinker.visual the reference cannot read it
        near=WAVES,
        refused="it counts what feeds layers of the text model as width of images, and wants the same of sound",
    ),
    "qwen3asr": Tower(
        "Qwen3ASRForConditionalGeneration",
        {
            "model_type": "qwen3_asr_published",
            "thinker_config": {
                "text_config": TEXT,
                "audio_config": {**HEARING_OMNI, "encoder_layers": 4, "downsample_hidden_size": 24},
            },
        },
        processor={"feature_size": 16},
        near=WAVES,
        shapes={
            **{f"thinker.audio_tower.{name}": shape for name, shape in {
                **whisper_layers(4, k_bias=True), "conv2d1.weight": (24, 1, 3, 3), "conv2d1.bias": (24,),
                "conv2d2.weight": (24, 24, 3, 3), "conv2d2.bias": (24,), "conv2d3.weight": (24, 24, 3, 3),
                "conv2d3.bias": (24,), "conv_out.weight": (32, 48), "proj1.weight": (32, 32), "proj1.bias": (32,),
                "proj2.weight": (64, 32), "proj2.bias": (64,), "ln_post.weight": (32,), "ln_post.bias": (32,),
            }.items()},
            "thinker.model.embed_tokens.weight": (400, 64),
        },
    ),
    "qwen3asr-saved": Tower(  # with other names, and without the thinker_config that the reference looks for
        "Qwen3ASRForConditionalGeneration",
        {
            "text_config": {**TEXT, "model_type": "qwen3"},
            "audio_config": {
                "model_type": "qwen3_asr_encoder", **HEARING_OMNI, "encoder_layers": 4, "downsample_hidden_size": 24,
            },
        },
        processor={"feature_size": 16},
        reference=False,
    ),
    "sarashina2": Tower(
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": {**TEXT, "rope_scaling": MROPE},
            "vision_config": {**FOLDED, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
        },
        edit=named("Sarashina2VisionForCausalLM"),
    ),
    "exaone45": Tower(
        "Exaone4_5_ForConditionalGeneration",
        {
            "text_config": {**ONE_LAYER, "model_type": "exaone4"},
            "vision_config": {
                **FOLDED, "depth": 4, "num_key_value_heads": 1, "intermediate_size": 48, "out_hidden_size": 64,
                "fullatt_block_indexes": [1, 3], "window_size": 56,
            },
        },
        processor={**SEEN, **PIXELS},
    ),
    "lightonocr": Tower(
        "LightOnOcrForConditionalGeneration",
        {"text_config": {**TEXT, "model_type": "qwen3"}, "vision_config": {**PIXTRAL, "hidden_act": "silu"}},
        edit=named("LightOnOCRForConditionalGeneration"),
    ),
    "paddleocr": Tower(
        "PaddleOCRVLForConditionalGeneration",
        {"text_config": {**TEXT, "rope_scaling": MROPE}, "vision_config": VIT},
        processor={**SEEN, **PIXELS},
        edit=of_vision(architectures=["PaddleOCRVisionModel"]),
    ),
    "janus": Tower(
        "JanusForConditionalGeneration",
        {
            "text_config": LLAMA, "vision_config": {**VIT, "projection_dim": 64, "mlp_ratio": 2.0},
            "vq_config": {"embed_dim": 8, "num_embeddings": 16, "base_channels": 32, "channel_multiplier": [1],
                          "num_res_blocks": 1, "image_token_embed_dim": 64, "projection_dim": 64},
        },
    ),
    "hunyuanvl": Tower(
        "HunYuanVLForConditionalGeneration",
        {
            "text_config": {**TEXT, "rope_parameters": {"rope_type": "dynamic", "factor": 1.0, "rope_theta": 10000.0,
                                                        "alpha": 1000.0, "mrope_section": [2, 2, 2, 2]}},
            "vision_config": {**{k: VIT[k] for k in VIT if k != "image_size"}, "max_image_size": 128,
                              "out_hidden_size": 64, "text_hidden_size": 64, "max_vit_seq_len": 64},
        },
        processor={**SEEN, **PIXELS},
    ),
    "minicpmv": Tower(
        "MiniCPMV4_6ForConditionalGeneration",
        {"text_config": ONE_LAYER, "vision_config": VIT, "insert_layer_id": 1},
        processor={**SEEN, "scale_resolution": 128},
    ),
    "minicpmv4x": Tower(
        "MiniCPMV4_6ForConditionalGeneration",
        {"text_config": ONE_LAYER, "vision_config": VIT, "insert_layer_id": 1},
        processor={**SEEN, "downsample_mode": "4x"},
    ),
    "kimivl": Tower(
        "KimiVLForConditionalGeneration",
        {"model_type": "kimi_vl", "text_config": TEXT, "vision_config": MOON},
        shapes={
            **moon(), "vision_tower.patch_embed.pos_emb.weight": (4, 4, 32),
            **norm("multi_modal_projector.pre_norm", 32),
            **linear("multi_modal_projector.linear_1", 128, 128), **linear("multi_modal_projector.linear_2", 64, 128),
        },
    ),
    "kimik25": Tower(
        "KimiK25ForConditionalGeneration",
        {"model_type": "kimi_k25_published", "text_config": TEXT, "vision_config": MOON_25},
        shapes=kimi_k25(),
        published={
            r"^vision_tower\.encoder\.patch_embed\.": "vision_tower.patch_embed.", r"^model\.mm_": "mm_",
        },
    ),
    "kimik25saved": Tower(
        "Kimi_K25ForConditionalGeneration",
        {
            "model_type": "kimi_k25", "text_config": TEXT,
            "vision_config": {
                "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 16,
                "patch_size": 14, "pos_emb_height": 4, "pos_emb_width": 4, "merge_kernel_size": [2, 2],
            },
        },
        shapes=kimi_k25(),
        reference=False,
    ),
    "dotsocr": Tower(
        "DotsOCRForCausalLM",
        {
            "model_type": "dots_ocr", **TEXT,
            "vision_config": {**VIT, "rms_norm_eps": 2e-5, "spatial_merge_size": 2, "use_bias": False},
        },
        processor={**SEEN, **PIXELS},
        shapes=dots(),
    ),
    "glmasr": Tower(
        "GlmasrModel",
        {"model_type": "Glmasr", "lm_config": {**TEXT, "model_type": "llama"}, "whisper_config": HEARING,
         "merge_factor": 4},
        processor={"feature_size": 16},
        shapes={
            **{f"audio_encoder.whisper.{name}": shape for name, shape in {
                **whisper_layers(3), "conv1.weight": (32, 16, 3), "conv1.bias": (32,), "conv2.weight": (32, 32, 3),
                "conv2.bias": (32,), "embed_positions.weight": (1500, 32),
            }.items()},
            **norm("audio_encoder.layer_norm", 32), **linear("audio_encoder.adapting.0", 128, 128),
            **linear("audio_encoder.adapting.2", 64, 128), "audio_encoder.audio_bos_eos_token.weight": (2, 64),
        },
    ),
    "deepseekocr": Tower(
        "DeepseekOCRForCausalLM",
        {
            "model_type": "deepseek_ocr_published", "language_config": TEXT,
            "vision_config": {"image_size": 1024, "width": {
                "clip-l-14-224": {"heads": 2, "image_size": 224, "layers": 4, "patch_size": 14, "width": 32},
                "sam_vit_b": {"heads": 2, "layers": 3, "width": 32, "global_attn_indexes": [2]},
            }},
        },
        shapes=deepseek_ocr(),
        refused="CLIP reads what SAM gives, which is 1024 wide: with a CLIP of that width it loads",
    ),
    "deepseekocr2": Tower(
        "DeepseekOCR2ForCausalLM",
        {
            "model_type": "deepseek_ocr2_published", "language_config": TEXT,
            "vision_config": {"image_size": 1024, "layers": 4, "intermediate_size": 48, "width": {
                "qwen2-0-5b": {"dim": 28},
                "sam_vit_b": {"heads": 2, "layers": 3, "width": 32, "global_attn_indexes": [2]},
            }},
        },
        shapes=deepseek_ocr2(),
    ),
    "step3vl": Tower(
        "Step3p7ForConditionalGeneration",
        {
            "model_type": "step3p7", "text_config": {**TEXT, "model_type": "step3p5"}, "understand_projector_stride": 2,
            "vision_config": {
                "model_type": "perception_encoder", "width": 32, "layers": 3, "heads": 2, "image_size": 64,
                "patch_size": 16, "mlp_ratio": 2.0,
            },
        },
        shapes=step3(),
    ),
    "nemotronvl": Tower(
        "NemotronH_Nano_VL_V2",
        {
            "model_type": "NemotronH_Nano_VL_V2", "llm_config": HYBRID, "force_image_size": 80, "downsample_ratio": 0.5,
            "projector_hidden_size": 48,
            "vision_config": {"architectures": ["RADIOModel"], "hidden_size": 32, "intermediate_size": 64,
                              "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 16},
        },
        shapes=radio(4),
        near={"v.position_embd.weight": 1e-6},  # sums of four products
    ),
    "nemotronomni": Tower(
        "NemotronH_Nano_Omni_Reasoning_V3",
        {
            "model_type": "NemotronH_Nano_Omni_Reasoning_V3", "llm_config": HYBRID, "force_image_size": 128,
            "projector_hidden_size": 48,
            "vision_config": {"architectures": ["RADIOModel"], "hidden_size": 32, "intermediate_size": 64,
                              "num_hidden_layers": 7, "num_attention_heads": 2, "patch_size": 16},
            "sound_config": {
                "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                "num_mel_bins": 16, "subsampling_factor": 8, "subsampling_conv_channels": 8, "conv_kernel_size": 9,
                "projection_hidden_size": 24,
            },
        },
        shapes={**radio(7), **parakeet()},
    ),
    "glm52v": Tower(
        "Glm5vForConditionalGeneration",
        {"model_type": "glm5v_published", "text_config": TEXT, "vision_config": MOON_25},
        shapes={
            **moon(128), "vision_tower.patch_embed.pos_emb.weight": (4, 4, 128), **norm("mm_projector.pre_norm", 128),
            **linear("mm_projector.linear_1", 512, 512), **linear("mm_projector.linear_2", 64, 512),
        },
    ),
    "deepseek4v": Tower(
        "DeepseekV4ForCausalLM",
        {
            "model_type": "deepseek_v4_published", **TEXT, "vision_n_layers": 3, "vision_dim": 32, "vision_n_heads": 2,
            "vision_inter_dim": 48, "vision_patch_size": 14, "vision_downsample_ratio": 2, "vision_min_pixels": 784,
            "vision_max_n_token": 384, "vision_max_wh_ratio": 8,
        },
        processor={},
        shapes=deepseek4(),
    ),
    "ling3vl": Tower(
        "BailingMoeV3VLForConditionalGeneration",
        {
            "model_type": "bailing_moe_v3_vl_published", "text_config": {**TEXT, "rms_norm_eps": 2e-6},
            "vision_config": {**FOLDED, "intermediate_size": 48, "out_hidden_size": 128, "disable_merger_proj": True,
                              "num_position_embeddings": 16, "spatial_merge_size": 2},
        },
        shapes={
            **{name: shape for name, shape in qwen_vit().items() if "linear_fc" not in name or ".mlp." in name},
            **linear("linear_proj.0", 64, 128), **linear("linear_proj.2", 64, 64),
        },
    ),
    "meralion": Tower(
        "MERaLiON2ForConditionalGeneration",
        {
            "model_type": "meralion2_published", "text_config": {**TEXT, "model_type": "gemma2"},
            "speech_config": {**HEARING, "encoder_layers": 4}, "speech_mlp_scale_factor": 5,
        },
        processor={"feature_size": 16},
        shapes={
            **{f"speech_encoder.{name}": shape for name, shape in {
                **whisper_layers(4), "conv1.weight": (32, 16, 3), "conv1.bias": (32,), "conv2.weight": (32, 32, 3),
                "conv2.bias": (32,), "embed_positions.weight": (1500, 32), **norm("layer_norm", 32),
            }.items()},
            **norm("ln_speech", 160), **linear("speech_audio_adapter.mlp_adapter.0", 48, 160),
            **linear("speech_audio_adapter.gate_proj", 48, 48), **linear("speech_audio_adapter.pool_proj", 48, 48),
            **linear("speech_audio_adapter.out_proj", 64, 48),
        },
    ),
    "museglimmer": Tower(
        "MuseGlimmerForConditionalGeneration",
        {
            "text_config": {**TEXT, "vocab_size": 401},
            "vision_config": {
                "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
                "patch_size": 14, "pos_emb_height": 4, "pos_emb_width": 4,
            },
            "out_hidden_size": 128, "projector_hidden_size": 48,
        },
        words=("<|eot|>",),
    ),
    "cogvlm": Tower(
        "CogVLMForCausalLM",
        {"model_type": "cogvlm", **TEXT, "num_key_value_heads": 4, "vision_config": {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_heads": 2, "image_size": 64,
            "patch_size": 16, "num_positions": 17, "in_channels": 3, "layer_norm_eps": 1e-6, "hidden_act": "gelu",
        }},
        shapes=cogvlm(),
    ),
    "minimaxm3": Tower(
        "MiniMaxM3SparseForConditionalGeneration",
        {
            "model_type": "minimax_m3_published", "text_config": TEXT, "projector_hidden_size": 48,
            "vision_config": {**VIT, "hidden_size": 160, "layer_norm_eps": 2e-5,
                              "img_token_compression_config": {"spatial_merge_size": 2}},
        },
        shapes={
            **vit_layers("vision_tower.vision_model.encoder.", 160),
            **norm("vision_tower.vision_model.pre_layrnorm", 160),
            "vision_tower.vision_model.embeddings.patch_embedding.weight": (160, 3, 2, 16, 16),
            **linear("multi_modal_projector.linear_1", 48, 160), **linear("multi_modal_projector.linear_2", 64, 48),
            **linear("patch_merge_mlp.linear_1", 48, 256), **linear("patch_merge_mlp.linear_2", 64, 48),
        },
    ),
    "glm5v": Tower(
        "Glm5NextForConditionalGeneration",
        {
            "text_config": {
                "vocab_size": 408, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
                "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 32, "q_lora_rank": 32,
                "qk_nope_head_dim": 32, "v_head_dim": 16, "n_routed_experts": 2, "num_experts_per_tok": 1,
                "moe_intermediate_size": 32, "mlp_layer_types": ["dense"], "layer_types": ["linear_attention"],
                "linear_num_heads": 4, "linear_head_dim": 16, "pad_token_id": 0,
            },
            "vision_config": {**FOLDED, "intermediate_size": 48, "out_hidden_size": 64, "image_size": 56,
                              "projection_intermediate_size": 40, "swiglu_limit": 7.0},
        },
        processor={**SEEN, "patch_size": 14, "merge_size": 2, "min_image_tokens": 4, "max_image_tokens": 64},
        words=("[gMASK]", "<|user|>", "<|observation|>"),
    ),
    "phi4": Tower(
        "Phi4ForCausalLMV",
        {"model_type": "phi4_published", **TEXT, "vision_config": {**VIT, "model_type": "siglip2_published"}},
        processor={**SEEN, "patch_size": 16, "min_num_patches": 4, "max_num_patches": 64},
        shapes={
            **siglip("model.vision_tower.vision_tower.vision_model.", (32, 768), 256),
            **linear("model.mm_projector.0", 64, 32), **linear("model.mm_projector.2", 64, 64),
        },
    ),
    "youtuvl": Tower(
        "YoutuVLForConditionalGeneration",
        {
            "model_type": "youtu_published", **TEXT,
            "vision_config": {**VIT, "window_size": 64, "fullatt_block_indexes": [2], "spatial_merge_size": 2},
        },
        shapes={
            **siglip("siglip2.vision_model.", (32, 768), None), "merger.ln_q.weight": (32,),
            **linear("merger.mlp.0", 128, 128), **linear("merger.mlp.2", 64, 128),
        },
    ),
    "granite4vision": Tower(
        "Granite4VisionForConditionalGeneration",
        {
            "text_config": {**TEXT, "num_hidden_layers": 8},
            "vision_config": {**VIT, "hidden_size": 64, "num_hidden_layers": 6, "image_size": 128,
                              "model_type": "siglip_vision_model"},
            "qformer_config": {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 48,
                               "encoder_hidden_size": 64, "num_hidden_layers": 1, "cross_attention_frequency": 1,
                               "use_qformer_text_input": False, "model_type": "blip_2_qformer"},
            "deepstack_layer_map": [[-2, 5], [1, 0]], "spatial_target_layers": [1, 2, 3, 7], "downsample_rate": "2/4",
            "use_image_newline_parameter": True, "image_grid_pinpoints": [[64, 128], [128, 64]],
        },
        published=WRAPPED,
        refused="its width is that of a text model of which it feeds so many layers",
    ),
    "granitespeech": Tower(
        "GraniteSpeechPlusForConditionalGeneration",
        {
            "text_config": {**TEXT, "model_type": "granite"}, "window_size": 15, "downsample_rate": 5,
            "encoder_config": {
                "hidden_dim": 32, "num_layers": 3, "num_heads": 2, "dim_head": 16, "input_dim": 160, "output_dim": 10,
                "feedforward_mult": 2, "context_size": 20, "conv_kernel_size": 15, "max_pos_emb": 24,
                "cat_hidden_layers": [1],
            },
            "projector_config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                                 "intermediate_size": 48, "encoder_hidden_size": 64, "cross_attention_frequency": 1,
                                 "model_type": "blip_2_qformer"},
        },
        processor={"feature_size": 16},
        renames={".conv_norm_var.": ".conv_norm."},  # which llama.cpp reads
    ),
    "gemma3n": Tower(
        "Gemma3nForConditionalGeneration",
        {
            "model_type": "gemma3n_published", "audio_config": SILENT_GEMMA3N,
            "text_config": {**TEXT, "num_kv_shared_layers": 0},
            "vision_config": {"hidden_size": 64, "vocab_size": 8, "model_type": "gemma3n_vision"},
        },
        processor={"size": {"height": 768, "width": 768}},
        shapes=mobilenet(),
        reshaped=r"layer_scale",
        loads="f16",  # its convolutions over places take no f32
        lacks=r"^clip\.(has_audio_encoder|audio\.)|^mm\.a\.|^a\.",
    ),
    "lfm2audio": Tower(
        "Lfm2AudioForConditionalGeneration",
        {
            "model_type": "lfm2_audio_published", "lfm": {**TEXT, "model_type": "lfm2"},
            "encoder": {"d_model": 32, "n_layers": 7, "n_heads": 2, "feat_in": 128, "subsampling_conv_channels": 16,
                        "ff_expansion_factor": 2, "conv_kernel_size": 9},
        },
        processor={"feature_size": 16},
        shapes=fast_conformer(),
        refused="its positions are 512 wide, whatever the model: with an encoder of that width it loads",
        apart=32,  # torch's square root is not rounded to nearest, and shifts are what is left of two such numbers
    ),
    "flamingo": Tower(
        "AudioFlamingo3ForConditionalGeneration",
        {"text_config": {**TEXT, "model_type": "qwen2"}, "audio_config": {
            "num_mel_bins": 16, "max_source_positions": 1500, "hidden_size": 32, "num_hidden_layers": 3,
            "num_attention_heads": 2, "intermediate_size": 128,
        }},
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


# Of a row, the architecture as published, and what transformers makes of its config.json; the tensors keep their names.
SAVED: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseekocr": ("UnlimitedOCRForCausalLM", {
        "architectures": ["UnlimitedOcrForConditionalGeneration"], "text_config": TEXT, "vision_config": {
            "encoder_config": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 4, "image_size": 224,
                               "patch_size": 14, "intermediate_size": 128},
            "sam_config": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "image_size": 1024,
                           "patch_size": 16, "global_attn_indexes": [2], "downsample_channels": [512, 1024]},
        },
    }),
    "deepseekocr2": ("DeepseekOCR2ForCausalLM", {
        "architectures": ["DeepseekOcr2ForConditionalGeneration"], "text_config": TEXT, "vision_config": {
            "encoder_config": {"hidden_size": 28, "num_attention_heads": 14, "num_hidden_layers": 4,
                               "num_key_value_heads": 2, "intermediate_size": 48},
            "sam_config": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "image_size": 1024,
                           "patch_size": 16, "global_attn_indexes": [2], "downsample_channels": [512, 28]},
        },
    }),
    "step3vl": ("Step3p7ForConditionalGeneration", {
        "architectures": ["Step3p7ForConditionalGeneration"], "text_config": TEXT, "projector_bias": False,
        "vision_config": {
            "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 64, "patch_size": 16,
            "intermediate_size": 64, "mlp_ratio": 2.0, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
            "num_channels": 3,
        },
    }),
}  # fmt: skip


def build(name: str, folder: Path) -> Path:
    """Write the checkpoint as transformers saves it; NAME.published beside it, where that has other names."""
    out = write(TABLE[name], folder / name)
    if TABLE[name].published:
        respelled(out, folder / f"{name}.published" / name, TABLE[name].published)
    return out


def write(entry: Tower, out: Path) -> Path:
    """Write a checkpoint to the folder `out`."""
    if entry.shapes:
        return of_shapes(entry, out)
    files = {"preprocessor_config.json": json.dumps(dict(entry.processor)), **entry.files}
    variant = Variant(entry.model, entry.config, bpe=True, words=entry.words, edit=entry.edit, files=files)
    return checkpoints.build_variant(variant, out, SPREAD)


def of_shapes(entry: Tower, out: Path) -> Path:
    """Write a checkpoint of random tensors with the configuration as it stands."""
    import torch
    from safetensors.torch import save_file

    out.mkdir(parents=True)
    random = torch.Generator().manual_seed(crc32(out.name.encode()))
    tensors = {
        name: (torch.randn(shape, generator=random) * SPREAD).to(torch.bfloat16) for name, shape in entry.shapes.items()
    }
    tensors = {name: tensor.abs() if name.endswith("_var") else tensor for name, tensor in tensors.items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": [entry.model], **json.loads(json.dumps(dict(entry.config)))}
    if entry.edit:
        entry.edit(config)
    (out / "config.json").write_text(json.dumps(config))
    (out / "preprocessor_config.json").write_text(json.dumps(dict(entry.processor)))
    for file, text in entry.files.items():
        (out / file).write_text(text)
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
