"""Qwen2-VL, Qwen2.5-VL and Sarashina2.2 Vision: patches of two images at once, four of which become one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from quantkit.errors import InputError
from quantkit.families import keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, T, with_biases
from quantkit.families.spellings import Rename
from quantkit.families.tower import WHOLE, Tower, layers_listed
from quantkit.families.vit import GATED, INNER_TEXT, SILU, kernel_of_two, split_attention, vision_keys

BLOCKS = "visual.blocks.{}."
NUMBERS = {"depth": "num_hidden_layers", "num_heads": "num_attention_heads", "in_chans": "num_channels",
           "in_channels": "num_channels"}  # fmt: skip
IMAGE = 560  # sizes are free; llama.cpp wants one to warm up with
MERGED = "spatial_merge_size*spatial_merge_size*hidden_size"
NORMS = (
    T("norm1.weight", "ln1.weight", Role.NORM, "hidden_size"),
    T("norm2.weight", "ln2.weight", Role.NORM, "hidden_size"),
)
OUTPUT = T("attn.proj.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size", bias="always")


def own_names(hparams: Hparams) -> Mapping[str, Any]:
    """Qwen2-VL calls the width embed_dim, and hidden_size what the text model has."""
    width = hparams.count("embed_dim")
    inner = int(width * hparams.required("mlp_ratio"))
    return {"intermediate_size": hparams.count("hidden_size"), "hidden_size": width, "inner": inner}


def text_epsilon(hparams: Hparams) -> float:
    """What the root of config.json says, as the reference reads it."""
    return Hparams({"rms_norm_eps": hparams.values[WHOLE].get("rms_norm_eps", 1e-6)}).required("rms_norm_eps")


def window_period(hparams: Hparams) -> int:
    """Every so many layers attend to the whole image. Raises InputError where they are not evenly spread."""
    layers = layers_listed(hparams, "fullatt_block_indexes")
    period = layers[0] + 1 if layers else 0
    if not layers or any(b - a != period for a, b in pairwise(layers)):
        what = f"config.json: fullatt_block_indexes is {layers}, llama.cpp knows every so many layers only"
        raise InputError(what, key="fullatt_block_indexes", path="config.json", hint=CONFIG_HINT)
    return period


def outside(bias: str | None) -> tuple[T, ...]:
    """Patches, and the merger."""
    return (
        *kernel_of_two("visual.patch_embed.proj.weight"),
        T("visual.merger.ln_q.weight", "v.post_ln.weight", Role.NORM, "hidden_size", bias=bias),
        T("visual.merger.mlp.0.weight", "mm.0.weight", Role.OTHER, f"{MERGED} {MERGED}", bias="always"),
        T("visual.merger.mlp.2.weight", "mm.2.weight", Role.OTHER, f"projection_dim {MERGED}", bias="always"),
    )


EPSILON = keys.computed("vision.attention.layer_norm_epsilon", "f32", text_epsilon)

QWEN2VL = Tower(
    name="qwen2vl_merger",
    hf=("Qwen2VLForConditionalGeneration", "Qwen2VLModel"),
    owns=("visual.",),
    outside=outside("always"),
    block=(
        *with_biases(NORMS),
        *split_attention("attn.qkv.weight", "always"),
        OUTPUT,
        T("mlp.fc1.weight", "ffn_up.weight", Role.FFN_UP, "inner hidden_size", bias="always"),
        T("mlp.fc2.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size inner", bias="always"),
    ),
    source_block=BLOCKS,
    defaults={
        "num_hidden_layers": 32, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4, "num_attention_heads": 16,
        "num_channels": 3, "patch_size": 14, "spatial_merge_size": 2, "image_size": IMAGE,
    },
    aliases=NUMBERS,
    derive=(own_names,),
    keys=vision_keys("qwen2vl_merger", EPSILON),

    text=INNER_TEXT,
)  # fmt: skip
WINDOWED = (EPSILON, SILU, keys.computed("vision.n_wa_pattern", "u32", window_period))
QWEN25VL = replace(
    QWEN2VL,
    name="qwen2.5vl_merger",
    hf=("Qwen2_5_VLForConditionalGeneration",),
    outside=outside(None),
    block=(*NORMS, *split_attention("attn.qkv.weight", "always"), OUTPUT, *with_biases(GATED)),
    defaults={
        "num_hidden_layers": 32, "hidden_size": 3584, "intermediate_size": 3420, "num_attention_heads": 16,
        "num_channels": 3, "patch_size": 14, "spatial_merge_size": 2, "image_size": IMAGE,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    derive=(),
    keys=vision_keys("qwen2.5vl_merger", *WINDOWED),
)  # fmt: skip

SARASHINA2 = replace(
    QWEN2VL,
    hf=("Sarashina2VisionForCausalLM",),
    owns=("visual.", "norm."),
    drop=(Drop("norm.*", "llama.cpp has no place for a norm behind the projector"),),
    text=(Rename(r"^llm\.", ""),),
)

TOWERS = (QWEN2VL, QWEN25VL, SARASHINA2)
