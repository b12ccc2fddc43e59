"""Kimi-VL, Kimi K2.5 and GLM 5V: MoonViT, squares of whose patches become one before two linears."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.layouts import column, flat, fold, joined, line, regroup, rows
from quantkit.families.roles import Role
from quantkit.families.rows import T, with_biases
from quantkit.families.spellings import Rename
from quantkit.families.tower import SAID, Tower
from quantkit.families.vit import GELU, INNER_TEXT, KERNEL, epsilon, split_attention, vision_keys

TOWER = "vision_tower."
MERGED = "merge*merge*hidden_size"
FEWEST = 8  # patches of an image
POSITIONS = "init_pos_emb_height init_pos_emb_width hidden_size"
NAMES = {
    "vt_hidden_size": "hidden_size", "vt_intermediate_size": "intermediate_size",
    "vt_num_hidden_layers": "num_hidden_layers", "vt_num_attention_heads": "num_attention_heads",
    **{f"pos_emb_{axis}": f"init_pos_emb_{axis}" for axis in ("height", "width", "time")},  # as transformers says it
}  # fmt: skip


def merged(hparams: Hparams) -> Mapping[str, Any]:
    """How many patches of each side become one."""
    said = hparams.values.get("merge_kernel_size")
    side = said[0] if isinstance(said, list) and said else said
    return {"merge": Hparams({"merge_kernel_size": side}).count("merge_kernel_size")}


def image(hparams: Hparams) -> Mapping[str, Any]:
    """The side of the square image that there are positions for."""
    return {"image_size": hparams.count("init_pos_emb_height") * hparams.count("patch_size")}


def fewest(hparams: Hparams) -> int:
    """The fewest pixels of an image."""
    return FEWEST * hparams.count("patch_size") ** 2


def most(hparams: Hparams) -> int:
    """The most pixels of an image, as the processor limits patches."""
    said = Hparams({"in_patch_limit": hparams.values[SAID].get("in_patch_limit", 16384)})
    return said.count("in_patch_limit") * hparams.count("patch_size") ** 2


QUERIES, KEYS, VALUES = (rows(f"{n}*hidden_size" if n else "0", f"{n + 1}*hidden_size") for n in range(3))
# Pairs of a head that are rotated by the row of a patch come to lie before those that are by its column.
HALVES = fold("num_attention_heads", "head_dim") >> regroup("head_dim//4", "2") >> flat
ROTATED = joined(QUERIES >> HALVES, KEYS >> HALVES, VALUES)
ROTATED_BIAS = joined(QUERIES >> column >> HALVES >> line, KEYS >> column >> HALVES >> line, VALUES)
LAYER = with_biases((
    T("norm0.weight", "ln1.weight", Role.NORM, "hidden_size"),
    T("norm1.weight", "ln2.weight", Role.NORM, "hidden_size"),
    T("wo.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size"),
    T("mlp.fc0.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
    T("mlp.fc1.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
))  # fmt: skip


def outside(projector: str, first: str, second: str) -> tuple[T, ...]:
    """Patches, the last norm, and the projector."""
    return with_biases((
        T(f"{TOWER}patch_embed.proj.weight", "v.patch_embd.weight", Role.OTHER, KERNEL),
        T(f"{TOWER}encoder.final_layernorm.weight", "v.post_ln.weight", Role.NORM, "hidden_size"),
        T(f"{projector}pre_norm.weight", "mm.input_norm.weight", Role.NORM, "hidden_size"),
        T(f"{projector}{first}.weight", "mm.1.weight", Role.OTHER, f"{MERGED} {MERGED}"),
        T(f"{projector}{second}.weight", "mm.2.weight", Role.OTHER, f"projection_dim {MERGED}"),
    ))  # fmt: skip


SIDE = keys.Key("vision.projector.scale_factor", "u32", "merge")
KIMIVL = Tower(
    name="kimivl",
    hf=("KimiVLForConditionalGeneration",),
    owns=(TOWER, "multi_modal_projector."),
    outside=(
        *outside("multi_modal_projector.", "linear_1", "linear_2"),
        T(f"{TOWER}patch_embed.pos_emb.weight", "v.position_embd.weight", Role.POSITION, POSITIONS, flat),
    ),
    block=(*LAYER, *split_attention("wqkv.weight", "always")),
    source_block=f"{TOWER}encoder.blocks.{{}}.",
    defaults={
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
        "num_channels": 3, "patch_size": 14, "init_pos_emb_height": 64, "init_pos_emb_width": 64,
        "merge_kernel_size": [2, 2], "layer_norm_eps": 1e-5,
    },
    derive=(merged, lambda hparams: {"image_size": 64 * 14}),
    keys=vision_keys("kimivl", epsilon(), GELU, SIDE),
    text=(Rename(r"^language_model\.", ""),),
)  # fmt: skip
KIMIK25 = replace(
    KIMIVL,
    name="kimik25",
    hf=("KimiK25ForConditionalGeneration", "Kimi_K25ForConditionalGeneration"),
    owns=(TOWER, "mm_projector."),
    outside=(
        *outside("mm_projector.", "proj.0", "proj.2"),
        T(f"{TOWER}patch_embed.pos_emb.weight", "v.position_embd.weight", Role.POSITION, POSITIONS),
    ),
    block=(
        *LAYER,
        T("wqkv.weight", "attn_qkv.weight", Role.ATTN_QKV, "3*hidden_size hidden_size", ROTATED),
        T("wqkv.bias", "attn_qkv.bias", Role.BIAS, "3*hidden_size", ROTATED_BIAS),
    ),
    defaults={**KIMIVL.defaults, "init_pos_emb_time": 4, "projector_hidden_act": "gelu", "projector_ln_eps": 1e-5},
    aliases=NAMES,
    derive=(merged, image, lambda hparams: {"gelu": hparams.values["projector_hidden_act"] == "gelu"}),
    keys=vision_keys(
        "kimik25",
        epsilon("projector_ln_eps"),
        keys.Key("use_gelu", "bool", "gelu"),
        SIDE,
        *(keys.Key(f"vision.pos_emb_{axis}", "u32", f"init_pos_emb_{axis}") for axis in ("height", "width", "time")),
        keys.computed("vision.image_min_pixels", "u32", fewest),
        keys.computed("vision.image_max_pixels", "u32", most),
    ),
    spellings=(Rename(r"^vision_tower\.encoder\.patch_embed\.", f"{TOWER}patch_embed."),),  # as transformers saves it
)
GLM5V = replace(
    KIMIK25,
    hf=("Glm5vForConditionalGeneration",),
    spellings=(
        *KIMIK25.spellings,
        Rename(r"^mm_projector\.(?:proj\.)?linear_1\.", "mm_projector.proj.0."),
        Rename(r"^mm_projector\.(?:proj\.)?linear_2\.", "mm_projector.proj.2."),
    ),
    text=INNER_TEXT,
)

TOWERS = (KIMIVL, KIMIK25, GLM5V)
