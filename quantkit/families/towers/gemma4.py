"""Gemma 4: a tower for images, a conformer for sound where config.json has one, and a projection behind each.

Linears may have bounds that their inputs and outputs are cut to: scalars of their own. Patches are linear, with the
weights of a patch as (row, column, colour).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.layers import flagged
from quantkit.families.layouts import split, squeeze
from quantkit.families.model import Rows
from quantkit.families.placements import Placement
from quantkit.families.roles import Role
from quantkit.families.rows import Stack, T, at, optional
from quantkit.families.tower import AUDIO_BLOCK, WHOLE, Tower, constant
from quantkit.families.vit import COLOURS_FIRST, F32, INNER_TEXT, vision_numbers
from quantkit.tensors import TensorInfo

SEES, HEARS = "vision_tower.", "audio_tower."
IMAGE = 224  # sizes are free
HEARD = "hears"
BOUNDS = ("input_max", "input_min", "output_max", "output_min")
AUDIO = {
    "hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 8, "output_proj_dims": 1536,
    "subsampling_conv_channels": [128, 32], "conv_kernel_size": 5, "input_feat_size": 128,
}  # fmt: skip


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """Those that config.json does not say, and those of the conformer with "a_" before them."""
    part = hparams.values[WHOLE].get("audio_config")
    found: dict[str, Any] = {"image_size": IMAGE, HEARD: isinstance(part, Mapping) and bool(part)}
    if not found[HEARD]:
        return {**found, "a_num_hidden_layers": 0}
    said = Hparams({**AUDIO, **part})
    channels = said.values["subsampling_conv_channels"]
    listed = channels if isinstance(channels, list) and len(channels) == 2 else [None, None]
    first, second = (Hparams({"subsampling_conv_channels": c}).count("subsampling_conv_channels") for c in listed)
    counts = {f"a_{key}": said.count(key) for key in AUDIO if key != "subsampling_conv_channels"}
    return {
        **found, **counts, "a_first": first, "a_second": second, "a_inner": 4 * counts["a_hidden_size"],
        "a_head": counts["a_hidden_size"] // counts["a_num_attention_heads"],
        "a_layer_norm_eps": part.get("layer_norm_eps", 1e-6),
    }  # fmt: skip


def audio_layers(hparams: Hparams) -> int:
    """How many layers the conformer has; none without it."""
    return int(hparams.required("a_num_hidden_layers"))


def one(info: TensorInfo, hparams: Hparams) -> Placement:
    """A scalar as a vector of one number."""
    return Placement((1,), (Rows(info.name, 0, 1),))


def bounded(source: str, target: str, role: Role, shape: str) -> tuple[T, ...]:
    """A linear, and the bounds that it may have."""
    return (
        T(f"{source}.linear.weight", f"{target}.weight", role, shape),
        *optional(
            tuple(T(f"{source}.{bound}", f"{target}.{bound}", Role.OTHER, "", one, limits=True) for bound in BOUNDS)
        ),
    )


def half_step(number: int, suffix: str) -> tuple[T, ...]:
    """One of the two MLPs of a conformer's layer, between which it attends and convolves."""
    source = f"feed_forward{number}."
    return (
        T(f"{source}pre_layer_norm.weight", f"ffn_norm{suffix}.weight", Role.NORM, "a_hidden_size"),
        T(f"{source}post_layer_norm.weight", f"ffn_post_norm{suffix}.weight", Role.NORM, "a_hidden_size"),
        *bounded(f"{source}ffw_layer_1", f"ffn_up{suffix}", Role.FFN_UP, "a_inner a_hidden_size"),
        *bounded(f"{source}ffw_layer_2", f"ffn_down{suffix}", Role.FFN_DOWN, "a_hidden_size a_inner"),
    )


def audio(name: str, key: str, kind: Any = "u32") -> keys.KeyRow:
    """A key of the conformer; none without it."""
    return keys.Key(f"audio.{name}", kind, key, when=HEARD)


SQUARE = "a_hidden_size a_hidden_size"
CONVOLUTION = f"{HEARS}subsample_conv_projection."
CONFORMER = (
    *half_step(1, ""),
    *half_step(2, "_1"),
    T("norm_pre_attn.weight", "attn_pre_norm.weight", Role.NORM, "a_hidden_size"),
    T("norm_post_attn.weight", "attn_post_norm.weight", Role.NORM, "a_hidden_size"),
    T("norm_out.weight", "ln2.weight", Role.NORM, "a_hidden_size"),
    *bounded("self_attn.q_proj", "attn_q", Role.ATTN_Q, SQUARE),
    *bounded("self_attn.k_proj", "attn_k", Role.ATTN_K, SQUARE),
    *bounded("self_attn.v_proj", "attn_v", Role.ATTN_V, SQUARE),
    *bounded("self_attn.post", "attn_out", Role.ATTN_OUTPUT, SQUARE),
    T("self_attn.per_dim_scale", "per_dim_scale.weight", Role.OTHER, "a_head", value="softplus"),
    T("self_attn.relative_k_proj.weight", "attn_k_rel.weight", Role.OTHER, SQUARE),
    T("lconv1d.pre_layer_norm.weight", "conv_norm.weight", Role.NORM, "a_hidden_size"),
    T("lconv1d.conv_norm.weight", "norm_conv.weight", Role.NORM, "a_hidden_size"),
    T("lconv1d.depthwise_conv1d.weight", "conv_dw.weight", Role.OTHER, "a_hidden_size 1 a_conv_kernel_size", squeeze,
      stored=F32),
    *bounded("lconv1d.linear_start", "conv_pw1", Role.OTHER, "2*a_hidden_size a_hidden_size"),
    *bounded("lconv1d.linear_end", "conv_pw2", Role.OTHER, SQUARE),
)  # fmt: skip
HEARING = at(flagged(HEARD), (
    T(f"{CONVOLUTION}layer0.conv.weight", "a.conv1d.0.weight", Role.OTHER, "a_first 1 3 3", stored=F32),
    T(f"{CONVOLUTION}layer0.norm.weight", "a.conv1d.0.norm.weight", Role.NORM, "a_first"),
    T(f"{CONVOLUTION}layer1.conv.weight", "a.conv1d.1.weight", Role.OTHER, "a_second a_first 3 3", stored=F32),
    T(f"{CONVOLUTION}layer1.norm.weight", "a.conv1d.1.norm.weight", Role.NORM, "a_second"),
    T(f"{CONVOLUTION}input_proj_linear.weight", "a.input_projection.weight", Role.OTHER,
      "a_hidden_size a_first//4*a_second", stored=F32),
    T(f"{HEARS}output_proj.weight", "a.pre_encode.out.weight", Role.OTHER, "a_output_proj_dims a_hidden_size",
      bias="always"),
    T("embed_audio.embedding_projection.weight", "mm.a.input_projection.weight", Role.OTHER,
      "projection_dim a_output_proj_dims"),
))  # fmt: skip
SEEING = (
    T(f"{SEES}patch_embedder.input_proj.weight", "v.patch_embd.weight", Role.OTHER,
      "hidden_size num_channels*patch_size*patch_size", COLOURS_FIRST >> split("patch_size", "patch_size")),
    T(f"{SEES}patch_embedder.position_embedding_table", "v.position_embd.weight", Role.POSITION,
      "2 position_embedding_size hidden_size"),
    *optional((
        T(f"{SEES}std_bias", "v.std_bias", Role.OTHER, "hidden_size"),
        T(f"{SEES}std_scale", "v.std_scale", Role.OTHER, "hidden_size"),
    )),
    T("embed_vision.embedding_projection.weight", "mm.input_projection.weight", Role.OTHER,
      "projection_dim hidden_size"),
)  # fmt: skip
BLOCK = (
    T("input_layernorm.weight", "ln1.weight", Role.NORM, "hidden_size"),
    T("post_attention_layernorm.weight", "attn_post_norm.weight", Role.NORM, "hidden_size"),
    T("pre_feedforward_layernorm.weight", "ln2.weight", Role.NORM, "hidden_size"),
    T("post_feedforward_layernorm.weight", "ffn_post_norm.weight", Role.NORM, "hidden_size"),
    T("self_attn.q_norm.weight", "attn_q_norm.weight", Role.NORM, "head_dim"),
    T("self_attn.k_norm.weight", "attn_k_norm.weight", Role.NORM, "head_dim"),
    *bounded("self_attn.q_proj", "attn_q", Role.ATTN_Q, "num_attention_heads*head_dim hidden_size"),
    *bounded("self_attn.k_proj", "attn_k", Role.ATTN_K, "num_key_value_heads*head_dim hidden_size"),
    *bounded("self_attn.v_proj", "attn_v", Role.ATTN_V, "num_key_value_heads*head_dim hidden_size"),
    *bounded("self_attn.o_proj", "attn_out", Role.ATTN_OUTPUT, "hidden_size num_attention_heads*head_dim"),
    *bounded("mlp.gate_proj", "ffn_gate", Role.FFN_GATE, "intermediate_size hidden_size"),
    *bounded("mlp.up_proj", "ffn_up", Role.FFN_UP, "intermediate_size hidden_size"),
    *bounded("mlp.down_proj", "ffn_down", Role.FFN_DOWN, "hidden_size intermediate_size"),
)
GEMMA4 = Tower(
    name="gemma4v",
    hf=("Gemma4ForConditionalGeneration",),
    owns=(SEES, HEARS, "embed_vision.", "embed_audio."),
    outside=(*SEEING, *HEARING),
    block=BLOCK,
    source_block=f"{SEES}encoder.layers.{{}}.",
    stacks=(Stack(f"{HEARS}layers.{{}}.", AUDIO_BLOCK, audio_layers, CONFORMER),),
    defaults={
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16, "num_attention_heads": 12,
        "num_key_value_heads": 12, "head_dim": 64, "patch_size": 16, "position_embedding_size": 10240,
        "num_channels": 3, "layer_norm_eps": 1e-6,
    },
    derive=(numbers,),
    keys=(
        *vision_numbers(),
        constant("vision.projector_type", "string", "gemma4v"),
        keys.Key("vision.attention.layer_norm_epsilon", "f32", "layer_norm_eps"),
        keys.Key("has_audio_encoder", "bool", HEARD, nonzero=True),
        keys.computed("audio.projector_type", "string", lambda hparams: "gemma4a" if hparams.flag(HEARD) else None),
        audio("projection_dim", "projection_dim"),
        audio("embedding_length", "a_hidden_size"),
        audio("feed_forward_length", "a_inner"),
        audio("block_count", "a_num_hidden_layers"),
        audio("attention.head_count", "a_num_attention_heads"),
        audio("num_mel_bins", "a_input_feat_size"),
        audio("attention.layer_norm_epsilon", "a_layer_norm_eps", "f32"),
    ),
    text=INNER_TEXT,
)  # fmt: skip

TOWERS = (GEMMA4,)
