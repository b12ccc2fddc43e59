"""Nemotron Nano VL and Omni: RADIO, squares of whose patches become one, and Parakeet beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import keys
from quantkit.families.expressions import ANY
from quantkit.families.hparams import Hparams, part_of
from quantkit.families.layouts import Layout, column, lead, line, split, squeeze
from quantkit.families.resized import resized
from quantkit.families.roles import Role
from quantkit.families.rows import PRESENT, Condition, Drop, Stack, T, with_biases
from quantkit.families.tower import AUDIO_BLOCK, WHOLE, Tower, constant
from quantkit.families.towers.qwen_omni import HEARD, layers_heard, rest
from quantkit.families.towers.whisper import audio_numbers
from quantkit.families.vit import F32, GELU, INNER_TEXT, epsilon, root, side_merged, vision_keys, vision_numbers

RADIO, SOUND, PROJECTOR = "vision_model.radio_model.", "sound_encoder.encoder.", "sound_projection."
PATCHES = f"{RADIO}model.patch_generator."
PARTS = ("sound_config", "audio_config")  # as published, and as transformers calls it
PARAKEET = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 8,
    "num_mel_bins": 128, "subsampling_factor": 8, "subsampling_conv_channels": 256, "conv_kernel_size": 9,
    "projection_hidden_size": 4096, "layer_norm_eps": 1e-5,
}  # fmt: skip
MERGED = "merge*merge*hidden_size"
WIDE, SQUARE = "a_intermediate_size", "a_hidden_size a_hidden_size"
CHANNELS = "a_subsampling_conv_channels"
CONVOLUTIONS = {0: f"{CHANNELS} 1 3 3", 2: f"{CHANNELS} 1 3 3", 3: f"{CHANNELS} {CHANNELS} 1 1",
                5: f"{CHANNELS} 1 3 3", 6: f"{CHANNELS} {CHANNELS} 1 1"}  # fmt: skip
AS_CHANNELS = column >> split("1", "1") >> lead  # a vector as what is added to each channel of an image
AS_FILTERS = squeeze >> lead >> lead


def hears(config: Mapping[str, Any]) -> bool:
    """Whether the model has an encoder of sound."""
    return any(part_of(config, part) for part in PARTS)


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """What config.json says outside of the encoder's part, and what is made of it."""
    said = Hparams({
        "force_image_size": root("force_image_size")(hparams) or 512,
        "projector_hidden_size": root("projector_hidden_size", 4096)(hparams),
        "downsample_ratio": root("downsample_ratio", 0.5)(hparams),
        "mlp_ratio": hparams.values["mlp_ratio"],
    })  # fmt: skip
    side = said.count("force_image_size")
    inner = hparams.values.get("intermediate_size") or int(hparams.count("hidden_size") * said.required("mlp_ratio"))
    return {
        "image_size": side,
        "side": side // hparams.count("patch_size"),
        "intermediate_size": inner,
        "projected": said.count("projector_hidden_size"),
        "merge": side_merged("downsample_ratio", said),
    }


def heard(hparams: Hparams) -> Mapping[str, Any]:
    """The numbers of the encoder of sound."""
    part = next(filter(None, (part_of(hparams.values[WHOLE], name) for name in PARTS)), {})
    said = {**PARAKEET, **part, "projection_dim": hparams.values["projection_dim"]}
    return {f"{HEARD}{key}": value for key, value in {**said, **rest(Hparams(said))}.items()}


def half_step(number: int, suffix: str) -> tuple[T, ...]:
    """One of the two MLPs of a layer of sound."""
    source = f"feed_forward{number}."
    return (
        T(f"norm_feed_forward{number}.weight", f"ffn_norm{suffix}.weight", Role.NORM, "a_hidden_size", bias="always"),
        T(f"{source}linear1.weight", f"ffn_up{suffix}.weight", Role.FFN_UP, f"{WIDE} a_hidden_size", bias=PRESENT),
        T(f"{source}linear2.weight", f"ffn_down{suffix}.weight", Role.FFN_DOWN, f"a_hidden_size {WIDE}", bias=PRESENT),
    )


def pointwise(number: int, rows: str) -> tuple[T, ...]:
    """A convolution over one place, which becomes a matrix."""
    source, target = f"conv.pointwise_conv{number}", f"conv_pw{number}"
    flat: Layout = line >> split(rows, "a_hidden_size")
    return (
        T(f"{source}.weight", f"{target}.weight", Role.OTHER, f"{rows} a_hidden_size 1", flat, stored=F32),
        T(f"{source}.bias", f"{target}.bias", Role.BIAS, rows, AS_CHANNELS, optional=True),
    )


OUTSIDE = (
    T(f"{PATCHES}embedder.weight", "v.patch_embd.weight", Role.OTHER, "hidden_size num_channels*patch_size*patch_size",
      split("num_channels", "patch_size*patch_size") >> split("patch_size", "patch_size")),
    T(f"{PATCHES}pos_embed", "v.position_embd.weight", Role.POSITION, ANY, resized("side"), stored=F32),
    T(f"{PATCHES}cls_token.token", "v.class_embd", Role.OTHER, ANY),
    T("mlp1.0.weight", "mm.model.mlp.0.weight", Role.NORM, MERGED),
    T("mlp1.1.weight", "mm.model.mlp.1.weight", Role.OTHER, f"projected {MERGED}"),
    T("mlp1.3.weight", "mm.model.mlp.3.weight", Role.OTHER, "projection_dim projected"),
)  # fmt: skip
SOUND_OUTSIDE = (
    *(T(f"{SOUND}subsampling.layers.{n}.weight", f"a.conv1d.{n}.weight", Role.OTHER, shape, stored=F32)
      for n, shape in CONVOLUTIONS.items()),
    *(T(f"{SOUND}subsampling.layers.{n}.bias", f"a.conv1d.{n}.bias", Role.BIAS, CHANNELS, AS_CHANNELS)
      for n in CONVOLUTIONS),
    T(f"{SOUND}subsampling.linear.weight", "a.pre_encode.out.weight", Role.OTHER, f"a_hidden_size {CHANNELS}*a_bands",
      bias="always"),
    *(T(f"{SOUND}feature_extractor.featurizer.{source}", target, Role.OTHER, ANY, optional=True)
      for source, target in (("fb", "a.mel_filters"), ("window", "a.window"))),
    T(f"{PROJECTOR}norm.weight", "mm.a.norm_pre.weight", Role.NORM, "a_hidden_size"),
    T(f"{PROJECTOR}linear1.weight", "mm.a.mlp.1.weight", Role.OTHER, "a_projection_hidden_size a_hidden_size",
      bias=PRESENT),
    T(f"{PROJECTOR}linear2.weight", "mm.a.mlp.2.weight", Role.OTHER, "projection_dim a_projection_hidden_size",
      bias=PRESENT),
)  # fmt: skip
SOUND_LAYER = (
    *half_step(1, ""),
    *half_step(2, "_1"),
    *with_biases((
        T("norm_self_att.weight", "ln1.weight", Role.NORM, "a_hidden_size"),
        T("norm_conv.weight", "norm_conv.weight", Role.NORM, "a_hidden_size"),
        T("norm_out.weight", "ln2.weight", Role.NORM, "a_hidden_size"),
        T("conv.norm.weight", "conv_norm.weight", Role.NORM, "a_hidden_size"),
    )),
    T("conv.norm.running_mean", "conv_norm_mean", Role.NORM, "a_hidden_size"),
    T("conv.norm.running_var", "conv_norm_var", Role.NORM, "a_hidden_size"),
    T("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, SQUARE, bias=PRESENT),
    T("self_attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, SQUARE, bias=PRESENT),
    T("self_attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, SQUARE, bias=PRESENT),
    T("self_attn.o_proj.weight", "attn_out.weight", Role.ATTN_OUTPUT, SQUARE, bias=PRESENT),
    T("self_attn.relative_k_proj.weight", "linear_pos.weight", Role.OTHER, SQUARE),
    T("self_attn.bias_u", "pos_bias_u", Role.OTHER, "a_num_attention_heads a_hidden_size//a_num_attention_heads"),
    T("self_attn.bias_v", "pos_bias_v", Role.OTHER, "a_num_attention_heads a_hidden_size//a_num_attention_heads"),
    *pointwise(1, "2*a_hidden_size"),
    *pointwise(2, "a_hidden_size"),
    T("conv.depthwise_conv.weight", "conv_dw.weight", Role.OTHER, "a_hidden_size 1 a_conv_kernel_size", AS_FILTERS,
      stored=F32),
    T("conv.depthwise_conv.bias", "conv_dw.bias", Role.BIAS, "a_hidden_size", optional=True),
)  # fmt: skip
KEYS = (epsilon(), GELU, keys.Key("vision.projector.scale_factor", "u32", "merge"))
NEMOTRON = Tower(
    name="nemotron_v2_vl",
    hf=(
        "RADIOModel", "NemotronH_Nano_VL_V2", "NemotronH_Nano_Omni_Reasoning_V3",
        "NemotronH_Omni_Reasoning_V3",  # as transformers calls it
    ),
    owns=("vision_model.", "mlp1.", "vision_projector.", "sound_encoder.", PROJECTOR),
    outside=OUTSIDE,
    block=(
        *with_biases((
            T("norm1.weight", "ln1.weight", Role.NORM, "hidden_size"),
            T("norm2.weight", "ln2.weight", Role.NORM, "hidden_size"),
            T("attn.qkv.weight", "attn_qkv.weight", Role.ATTN_QKV, "3*hidden_size hidden_size"),
            T("attn.proj.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size"),
            T("mlp.fc1.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
            T("mlp.fc2.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
        )),
        *(T(f"layer_scale{n}.lambda1", f"ls{n}.weight", Role.NORM, "hidden_size", optional=True) for n in (1, 2)),
    ),
    source_block=f"{RADIO}model.blocks.{{}}.",
    defaults={  # of RADIO's largest (ViT-H), which the published config.json gives no numbers of
        "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "mlp_ratio": 4.0, "num_channels": 3,
        "patch_size": 16, "layer_norm_eps": 1e-6,
    },
    derive=(numbers,),
    keys=vision_keys("nemotron_v2_vl", *KEYS),
    drop=(
        Drop(f"{RADIO}input_conditioner.*", "images are brought to these values before"),
        Drop(f"{RADIO}summary_idxs", "what sums up an image is not used"),
        Drop(f"{PATCHES}video_embedder.*", "llama.cpp reads no films with this model", told=True),
        Drop(f"{SOUND}layers.*.conv.norm.num_batches_tracked", "it counts batches of training"),
    ),
    text=INNER_TEXT,
    when=Condition("config.json has no part for sound", lambda config: not hears(config)),
    expects={"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},  # as the reference has it
)  # fmt: skip
NEMOTRON_OMNI = replace(
    NEMOTRON,
    outside=(*OUTSIDE, *SOUND_OUTSIDE),
    stacks=(Stack(f"{SOUND}layers.{{}}.", AUDIO_BLOCK, layers_heard, SOUND_LAYER),),
    derive=(numbers, heard),
    keys=(
        *vision_numbers(),
        constant("vision.projector_type", "string", "nemotron_v2_vl"),
        *KEYS,
        *audio_numbers(HEARD),
        constant("audio.projector_type", "string", "parakeet"),
        keys.Key("audio.subsampling_factor", "u32", f"{HEARD}subsampling_factor"),
        keys.Key("audio.conv_kernel_size", "u32", f"{HEARD}conv_kernel_size"),
    ),
    when=Condition("config.json has a part for sound", hears),
)

TOWERS = (NEMOTRON, NEMOTRON_OMNI)
