"""EXAONE 4.5: the tower of Qwen2.5-VL, with fewer keys and values than queries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import T, with_biases
from quantkit.families.tower import WHOLE
from quantkit.families.towers.qwen_vl import NORMS, OUTPUT, QWEN25VL, window_period
from quantkit.families.vit import GATED, PIXELS, SILU, vision_keys


def norm_epsilon(hparams: Hparams) -> float:
    """Of the tower, else of the root of config.json."""
    said: Any = hparams.values.get("rms_norm_eps", hparams.values[WHOLE].get("rms_norm_eps", 1e-6))
    return Hparams({"rms_norm_eps": said}).required("rms_norm_eps")


def period(hparams: Hparams) -> int | None:
    """Every so many layers attend to the whole image; None where all do."""
    return window_period(hparams) if hparams.values.get("fullatt_block_indexes") else None


EXAONE = replace(
    QWEN25VL,
    name="exaone4_5",
    hf=("Exaone4_5_ForConditionalGeneration",),
    block=(
        *NORMS,
        T("attn.qkv.weight", "attn_qkv.weight", Role.ATTN_QKV,
          "hidden_size+2*num_key_value_heads*head_dim hidden_size", bias="always"),
        OUTPUT,
        *with_biases(GATED),
    ),
    defaults={**QWEN25VL.defaults, "num_key_value_heads": 8, "window_size": 112},
    keys=vision_keys(
        "exaone4_5", SILU, *PIXELS,
        keys.Key("vision.attention.head_count_kv", "u32", "num_key_value_heads"),
        keys.computed("vision.attention.layer_norm_epsilon", "f32", norm_epsilon),
        keys.Key("vision.window_size", "u32", "window_size"),
        keys.computed("vision.n_wa_pattern", "u32", period),
    ),
)  # fmt: skip

TOWERS = (EXAONE,)
