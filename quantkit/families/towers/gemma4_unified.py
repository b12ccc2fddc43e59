"""Gemma 4 without encoders: a patch, or a piece of sound, becomes an embedding by norms and a linear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.layouts import columns, flat, fold, regroup
from quantkit.families.roles import Role
from quantkit.families.rows import T, with_biases
from quantkit.families.spellings import Rename
from quantkit.families.tower import WHOLE, Tower, constant
from quantkit.families.towers.gemma4 import IMAGE
from quantkit.families.vit import INNER_TEXT, vision_numbers

SEES = "vision_embedder."
SOUND = {"audio_embed_dim": 640, "input_feat_size": 128, "layer_norm_eps": 1e-6}
SIDE = "side*side"  # values of a colour in a patch, which lies as (row, column, colour)


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """The side of a patch, and what config.json says of sound."""
    part = hparams.values[WHOLE].get("audio_config")
    said = Hparams({**SOUND, **(part if isinstance(part, Mapping) else {})})
    pooled = hparams.count("patch_size") * hparams.count("pooling_kernel_size")
    return {
        "side": hparams.count("model_patch_size") if hparams.values.get("model_patch_size") is not None else pooled,
        "hidden_size": hparams.count("mm_embed_dim"),
        "a_hidden_size": said.count("audio_embed_dim"),
        "a_input_feat_size": said.count("input_feat_size"),
        "a_layer_norm_eps": said.required("layer_norm_eps"),
    }


GEMMA4_UNIFIED = Tower(
    name="gemma4uv",
    hf=("Gemma4UnifiedForConditionalGeneration",),
    owns=(SEES, "embed_vision.", "embed_audio."),
    outside=(
        T(f"{SEES}patch_dense.weight", "v.patch_embd.weight", Role.OTHER, f"hidden_size {SIDE}*3", columns(SIDE, "3")),
        T(f"{SEES}patch_dense.bias", "v.patch_embd.bias", Role.BIAS, "hidden_size"),
        *with_biases((
            T(f"{SEES}patch_ln1.weight", "v.patch_norm.1.weight", Role.NORM, f"{SIDE}*3", regroup(SIDE, "3")),
            T(f"{SEES}patch_ln2.weight", "v.patch_norm.2.weight", Role.NORM, "hidden_size"),
            T(f"{SEES}pos_norm.weight", "v.patch_norm.3.weight", Role.NORM, "hidden_size"),
        )),
        T(f"{SEES}pos_embedding", "v.position_embd.weight", Role.POSITION, "mm_posemb_size 2 hidden_size",
          flat >> regroup("mm_posemb_size", "2") >> fold("2", "mm_posemb_size")),
        T("embed_vision.embedding_projection.weight", "mm.input_projection.weight", Role.OTHER,
          "projection_dim hidden_size"),
        T("embed_audio.embedding_projection.weight", "mm.a.input_projection.weight", Role.OTHER,
          "projection_dim a_hidden_size"),
    ),
    block=(),
    source_block=f"{SEES}layers.{{}}.",
    defaults={
        "patch_size": 16, "pooling_kernel_size": 3, "mm_embed_dim": 3840, "mm_posemb_size": 1120,
        "layer_norm_eps": 1e-6, "image_size": IMAGE, "num_hidden_layers": 1,  # without a row
        "intermediate_size": 0, "num_attention_heads": 0,
    },
    derive=(numbers,),
    keys=(
        *keys.without(vision_numbers(), "vision.block_count"),
        constant("vision.block_count", "u32", 0),
        constant("vision.projector_type", "string", "gemma4uv"),
        keys.Key("vision.attention.layer_norm_epsilon", "f32", "layer_norm_eps"),
        constant("has_audio_encoder", "bool", True),
        constant("audio.projector_type", "string", "gemma4ua"),
        keys.Key("audio.projection_dim", "u32", "projection_dim"),
        keys.Key("audio.embedding_length", "u32", "a_hidden_size"),
        constant("audio.feed_forward_length", "u32", 0),
        constant("audio.block_count", "u32", 0),
        constant("audio.attention.head_count", "u32", 0),
        keys.Key("audio.num_mel_bins", "u32", "a_input_feat_size"),
        keys.Key("audio.attention.layer_norm_epsilon", "f32", "a_layer_norm_eps"),
    ),
    spellings=(
        Rename(r"^embed_vision\.(patch_|pos_)", rf"{SEES}\1"),
        Rename(r"^embed_vision\.multimodal_embedder\.", "embed_vision."),
    ),
    text=INNER_TEXT,
)  # fmt: skip

TOWERS = (GEMMA4_UNIFIED,)
