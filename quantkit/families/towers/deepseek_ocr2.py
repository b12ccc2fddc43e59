"""DeepSeek-OCR 2: SAM, and a Qwen2 that reads its patches and then learned queries, whose outputs are the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import keys
from quantkit.families.hparams import Hparams, part_of
from quantkit.families.layouts import lead
from quantkit.families.roles import Role
from quantkit.families.rows import T
from quantkit.families.tower import Tower
from quantkit.families.towers.deepseek_ocr import (
    DEFAULTS,
    PATCH,
    SAM,
    SAM_OUTSIDE,
    SAM_STACK,
    keys_of_sam,
    numbers_of_sam,
)
from quantkit.families.vit import GATED, INNER_TEXT, vision_keys

QWEN2, READER = "qwen2_model.", "qwen2_model.model.model."
TILES = 6  # the most of an image
# Of the published model, whose config.json has the width alone (deepencoderv2.py, build_qwen2_decoder_as_encoder).
FIXED = {
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864,
}  # fmt: skip
KV = "num_key_value_heads*head_dim"
QUERIES = (("768", 144), ("1024", 256))  # of an image of this side, and how many


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """Those of both towers, as published or as transformers saves them."""
    published = part_of(hparams.values, "width.qwen2-0-5b") or {}
    saved = part_of(hparams.values, "encoder_config") or {"hidden_size": published.get("dim")}
    reader = Hparams({**hparams.values, **saved})
    counted = {key: reader.count(key) for key in ("hidden_size", *FIXED)}
    return {**counted, "patch_size": PATCH, **numbers_of_sam(hparams, counted["hidden_size"])}


OCR2 = Tower(
    name="deepseekocr2",
    hf=("DeepseekOCR2ForCausalLM", "DeepseekOcr2ForConditionalGeneration"),
    owns=(SAM, QWEN2, "projector.", "view_seperator"),
    outside=(
        *SAM_OUTSIDE,
        *(
            T(f"{QWEN2}query_{side}.weight", f"v.resample_query_{side}.weight", Role.OTHER, f"{count} hidden_size")
            for side, count in QUERIES
        ),
        T(f"{READER}norm.weight", "v.post_ln.weight", Role.NORM, "hidden_size"),
        T("projector.layers.weight", "mm.model.fc.weight", Role.OTHER, "projection_dim hidden_size", bias="always"),
        T("view_seperator", "v.view_seperator", Role.OTHER, "projection_dim", lead),
    ),
    block=(
        T("input_layernorm.weight", "ln1.weight", Role.NORM, "hidden_size"),
        T("post_attention_layernorm.weight", "ln2.weight", Role.NORM, "hidden_size"),
        T("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "hidden_size hidden_size", bias="always"),
        T("self_attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, f"{KV} hidden_size", bias="always"),
        T("self_attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, f"{KV} hidden_size", bias="always"),
        T("self_attn.o_proj.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size"),
        *GATED,
    ),
    source_block=f"{READER}layers.{{}}.",
    stacks=SAM_STACK,
    defaults={**DEFAULTS, **FIXED},
    aliases={"layers": "num_hidden_layers"},
    derive=(numbers,),
    keys=vision_keys(
        "deepseekocr2",
        *keys_of_sam(TILES),
        keys.Key("vision.attention.head_count_kv", "u32", "num_key_value_heads"),
    ),
    text=INNER_TEXT,
)  # fmt: skip

TOWERS = (OCR2,)
