"""Qwen3-VL, Qwen3.5 and 3.8, Ling 3 VL: learned positions, and mergers that feed layers of the text model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import keys
from quantkit.families.hparams import Hparams, nested_part
from quantkit.families.layers import block_count
from quantkit.families.roles import Role
from quantkit.families.rows import Stack, T, at, with_biases
from quantkit.families.tower import WHOLE, Tower, layers_listed
from quantkit.families.towers.qwen_vl import BLOCKS, MERGED, NORMS, NUMBERS, OUTPUT
from quantkit.families.vit import GELU, INNER_TEXT, MERGED_SIDE, kernel_of_two, vision_keys

DEEP, LISTED = "visual.deepstack_merger_list.", "deepstack_visual_indexes"


def image_size(hparams: Hparams) -> Mapping[str, Any]:
    """The side of the square image that there are positions for, where config.json does not say it."""
    if hparams.values.get("image_size") is not None:
        return {}
    return {"image_size": int(hparams.count("num_position_embeddings") ** 0.5 * hparams.count("patch_size"))}


def has_merger(hparams: Hparams, layer: int) -> bool:
    """In the layers whose outputs the text model sees."""
    return layer in layers_listed(hparams, LISTED)


def deepstack(hparams: Hparams) -> tuple[bool, ...]:
    """Which layers these are."""
    return tuple(has_merger(hparams, layer) for layer in range(hparams.count("num_hidden_layers")))


def text_epsilon(hparams: Hparams) -> float:
    """That of the text model, as the reference takes it."""
    text = nested_part(hparams.values[WHOLE]) or {}
    return Hparams({"rms_norm_eps": text.get("rms_norm_eps", 1e-6)}).required("rms_norm_eps")


def merger(source: str, first: str, second: str) -> tuple[T, ...]:
    """The two linears of a merger."""
    return with_biases((
        T(f"{source}linear_fc1.weight", first, Role.OTHER, f"{MERGED} {MERGED}"),
        T(f"{source}linear_fc2.weight", second, Role.OTHER, f"projection_dim {MERGED}"),
    ))  # fmt: skip


EPSILON = keys.computed("vision.attention.layer_norm_epsilon", "f32", text_epsilon)
KEYS = (
    GELU,
    MERGED_SIDE,
    EPSILON,
    keys.computed("vision.is_deepstack_layers", "bool", deepstack),
)
QWEN3VL = Tower(
    name="qwen3vl_merger",
    hf=("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration"),
    owns=("visual.",),
    outside=(
        *kernel_of_two("visual.patch_embed.proj.weight"),
        T("visual.patch_embed.proj.bias", "v.patch_embd.bias", Role.BIAS, "hidden_size"),
        T("visual.pos_embed.weight", "v.position_embd.weight", Role.POSITION, "num_position_embeddings hidden_size"),
        T("visual.merger.norm.weight", "v.post_ln.weight", Role.NORM, "hidden_size", bias="always"),
        *merger("visual.merger.", "mm.0.weight", "mm.2.weight"),
    ),
    block=with_biases((
        *NORMS,
        T("attn.qkv.weight", "attn_qkv.weight", Role.ATTN_QKV, "3*hidden_size hidden_size"),
        OUTPUT,
        T("mlp.linear_fc1.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
        T("mlp.linear_fc2.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
    )),
    source_block=BLOCKS,
    stacks=(
        Stack(f"{DEEP}{{}}.", "v.deepstack.{}.", block_count, at(has_merger, (
            T("norm.weight", "norm.weight", Role.NORM, MERGED, bias="always"),
            *merger("", "fc1.weight", "fc2.weight"),
        ))),
    ),
    numbered=((DEEP, LISTED),),
    defaults={
        "num_hidden_layers": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16,
        "num_channels": 3, "patch_size": 16, "spatial_merge_size": 2, "num_position_embeddings": 2304,
        LISTED: [8, 16, 24],
    },
    aliases=NUMBERS,
    derive=(image_size,),
    keys=vision_keys("qwen3vl_merger", *KEYS),
    text=INNER_TEXT,
)  # fmt: skip

# of these config.json names no layers where the text model is fed by none
QWEN3_5 = replace(
    QWEN3VL,
    hf=("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration", "Qwen4ExpForConditionalGeneration"),
    defaults={**QWEN3VL.defaults, LISTED: []},
)
# A norm alone merges patches; the two linears behind it stand outside of the tower.
LING3VL = replace(
    QWEN3VL,
    name="ling3vl",
    hf=("BailingMoeV3VLForConditionalGeneration",),
    owns=("visual.", "linear_proj."),
    outside=(
        *kernel_of_two("visual.patch_embed.proj.weight"),
        T("visual.patch_embed.proj.bias", "v.patch_embd.bias", Role.BIAS, "hidden_size", optional=True),
        T("visual.pos_embed.weight", "v.position_embd.weight", Role.POSITION, "num_position_embeddings hidden_size"),
        T("visual.merger.norm.weight", "mm.input_norm.weight", Role.NORM, "hidden_size", bias="always"),
        T("linear_proj.0.weight", "mm.0.weight", Role.OTHER, f"projection_dim {MERGED}", bias="always"),
        T("linear_proj.2.weight", "mm.2.weight", Role.OTHER, "projection_dim projection_dim", bias="always"),
    ),
    stacks=(),
    numbered=(),
    keys=vision_keys("ling3vl", GELU, MERGED_SIDE, EPSILON),
)

TOWERS = (QWEN3VL, QWEN3_5, LING3VL)
