"""GLM-4.1V, GLM-4.5V, GLM-OCR and GLM-5.3-Flash: a gated tower, squares of whose patches a convolution makes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import PRESENT, T
from quantkit.families.tower import HALF, SAID, Tower
from quantkit.families.towers.qwen_vl import BLOCKS, NORMS, NUMBERS
from quantkit.families.vit import ACTIVATIONS, INNER_TEXT, MERGED_SIDE, epsilon, kernel_of_two, patches, vision_keys
from quantkit.metadata import KeyValue

MERGER = "visual.merger."


def widths(hparams: Hparams) -> Mapping[str, Any]:
    """The inner widths of layers and merger, which GLM-4.1V calls by each other's name."""
    inner, outer = hparams.count("intermediate_size"), hparams.count("out_hidden_size")
    if hparams.values.get("model_type") == "glm_ocr_vision":
        return {"inner": inner, "merger_rows": outer * hparams.count("num_channels")}
    return {"inner": outer, "merger_rows": inner}


def activation(hparams: Hparams) -> Iterable[KeyValue]:
    """The key of the activation, none for one that llama.cpp does not know by name."""
    row = ACTIVATIONS.get(str(hparams.values.get("hidden_act")).lower())
    return row(hparams) if row is not None and not isinstance(row, keys.Key) else ()


GLM4V = Tower(
    name="glm4v",
    hf=("Glm4vForConditionalGeneration", "Glm4vMoeForConditionalGeneration", "GlmOcrForConditionalGeneration"),
    owns=("visual.",),
    outside=(
        *kernel_of_two("visual.patch_embed.proj.weight"),
        T("visual.patch_embed.proj.bias", "v.patch_embd.bias", Role.BIAS, "hidden_size"),
        T("visual.embeddings.position_embedding.weight", "v.position_embd.weight", Role.POSITION,
          "patches hidden_size", optional=True),
        T("visual.post_conv_layernorm.weight", "v.norm_embd.weight", Role.NORM, "hidden_size", optional=True),
        T("visual.post_layernorm.weight", "v.post_ln.weight", Role.NORM, "hidden_size"),
        T("visual.downsample.weight", "mm.patch_merger.weight", Role.OTHER,
          "out_hidden_size hidden_size spatial_merge_size spatial_merge_size", bias="always", stored=HALF),
        T(f"{MERGER}proj.weight", "mm.model.fc.weight", Role.OTHER, "out_hidden_size out_hidden_size"),
        T(f"{MERGER}post_projection_norm.weight", "mm.post_norm.weight", Role.NORM, "out_hidden_size", bias="always"),
        T(f"{MERGER}gate_proj.weight", "mm.gate.weight", Role.OTHER, "merger_rows out_hidden_size"),
        T(f"{MERGER}up_proj.weight", "mm.up.weight", Role.OTHER, "merger_rows out_hidden_size"),
        T(f"{MERGER}down_proj.weight", "mm.down.weight", Role.OTHER, "out_hidden_size merger_rows"),
    ),
    block=(
        *NORMS,
        T("attn.qkv.weight", "attn_qkv.weight", Role.ATTN_QKV, "3*hidden_size hidden_size", bias=PRESENT),
        T("attn.q_norm.weight", "attn_q_norm.weight", Role.NORM, "head_dim", optional=True),
        T("attn.k_norm.weight", "attn_k_norm.weight", Role.NORM, "head_dim", optional=True),
        T("attn.proj.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size", bias=PRESENT),
        T("mlp.gate_proj.weight", "ffn_gate.weight", Role.FFN_GATE, "inner hidden_size", bias=PRESENT),
        T("mlp.up_proj.weight", "ffn_up.weight", Role.FFN_UP, "inner hidden_size", bias=PRESENT),
        T("mlp.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size inner", bias=PRESENT),
    ),
    source_block=BLOCKS,
    defaults={
        "num_hidden_layers": 24, "hidden_size": 1536, "intermediate_size": 13696, "num_attention_heads": 12,
        "num_channels": 3, "image_size": 336, "patch_size": 14, "rms_norm_eps": 1e-5, "spatial_merge_size": 2,
        "out_hidden_size": 4096, "hidden_act": "silu",
    },
    aliases=NUMBERS,
    derive=(patches, widths),
    keys=vision_keys("glm4v", epsilon("rms_norm_eps"), activation),
    text=INNER_TEXT,
)  # fmt: skip


def own_widths(hparams: Hparams) -> Mapping[str, Any]:
    """The inner widths of layers and merger, each by its own name."""
    return {
        "inner": hparams.count("intermediate_size"), "merger_rows": hparams.count("projection_intermediate_size"),
    }  # fmt: skip


def pixels_of_tokens(which: str) -> Callable[[Hparams], int | None]:
    """The fewest ("min") or most ("max") pixels of an image, which a processor file says in tokens, where it does."""

    def pixels(hparams: Hparams) -> int | None:
        said = Hparams(hparams.values[SAID])
        key = f"{which}_image_tokens"
        side = [
            Hparams({"patch_size": 14, "merge_size": 2, **said.values}).count(k) for k in ("patch_size", "merge_size")
        ]
        return None if said.number(key) is None else said.count(key) * (side[0] * side[1]) ** 2

    return pixels


GLM5V = replace(
    GLM4V,
    name="glm5v",
    hf=("Glm5NextForConditionalGeneration",),
    defaults={
        **GLM4V.defaults, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
        "out_hidden_size": 1536, "projection_intermediate_size": 10240, "swiglu_limit": 10.0,
    },
    derive=(patches, own_widths),
    keys=vision_keys(
        "glm5v", epsilon("rms_norm_eps"), activation, MERGED_SIDE,
        keys.Key("vision.swiglu_clamp", "f32", "swiglu_limit"),
        keys.computed("vision.image_min_pixels", "u32", pixels_of_tokens("min")),
        keys.computed("vision.image_max_pixels", "u32", pixels_of_tokens("max")),
    ),
)  # fmt: skip

TOWERS = (GLM4V, GLM5V)
