"""The language models of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: those of Qwen 2 and 3, with a position on three axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import folds, keys
from quantkit.families.alone import Alone
from quantkit.families.hparams import Hparams
from quantkit.families.known.qwen import QWEN2, QWEN3, QWEN3_MOE
from quantkit.families.known.qwen3_next import VISION
from quantkit.families.layers import flagged, not_, turned
from quantkit.families.rows import FREQUENCIES, at, experts
from quantkit.families.spellings import Rename
from quantkit.families.stacked import turned_stacks

DOWN = "model.layers.{}.mlp.experts.down_proj"
GATE_UP = "model.layers.{}.mlp.experts.gate_up_proj"
TURNED = "experts_turned"


def deepstack(hparams: Hparams) -> Mapping[str, Any]:
    """How many of the first layers are given an image's features from the depth of its encoder."""
    vision = hparams.values.get("vision_config")
    taken = vision.get("deepstack_visual_indexes") if isinstance(vision, Mapping) else None
    return {"deepstack_layers": len(taken) if isinstance(taken, list) else 0}


DEEPSTACK = keys.Key("n_deepstack_layers", "u32", "deepstack_layers")
QWEN2_NUMBERS = {
    "vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
}  # fmt: skip
QWEN2_VL = replace(
    QWEN2,
    name="qwen2_vl",
    gguf="qwen2vl",
    alone=Alone("qwen2"),
    hf=("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"),
    defaults=dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text"), QWEN2_NUMBERS),
    keys=(*keys.COMMON, keys.rope_sections()),
    drop=(FREQUENCIES, *VISION),
    strip="language_model.",
    inside={
        "Qwen2VLModel": "Qwen2VLForConditionalGeneration",
        "Qwen2_5_VLModel": "Qwen2_5_VLForConditionalGeneration",
    },
)
QWEN3_VL = replace(
    QWEN3,
    name="qwen3_vl",
    gguf="qwen3vl",
    alone=Alone("qwen3"),
    hf=("Qwen3VLForConditionalGeneration",),
    defaults={
        "qwen3_vl_text": {
            "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6, "rope_theta": 500000.0,
        },
    },
    keys=(*keys.COMMON, keys.POOLING_TYPE, keys.rope_sections(24, 20, 20), DEEPSTACK),
    drop=(FREQUENCIES, *VISION),
    strip="language_model.",
    inside={"Qwen3VLModel": "Qwen3VLForConditionalGeneration"},
    derive=(deepstack,),
    reranks=False,
)  # fmt: skip
WIDTH = "moe_intermediate_size"
MIXTURE = experts(WIDTH, "mlp", "gate_proj", "up_proj", "down_proj")
STACKS = tuple(t for t in MIXTURE if t.source.startswith("mlp.experts.") and "{}" not in t.source)
TURNED_STACKS = turned_stacks("mlp", WIDTH)  # as published; transformers 5 saves them as those of other mixtures
QWEN3_VL_MOE = replace(
    QWEN3_MOE,
    name="qwen3_vl_moe",
    gguf="qwen3vlmoe",
    alone=Alone("qwen3_moe"),
    hf=("Qwen3VLMoeForConditionalGeneration",),
    defaults={
        "qwen3_vl_moe_text": {
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
            "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": None, "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6, "rope_theta": 500000.0, "tie_word_embeddings": True,
            "num_local_experts": 60, "num_experts_per_tok": 4, WIDTH: 1408,
        },
    },
    block=(
        *(t for t in QWEN3_MOE.block if t not in STACKS),
        *at(not_(flagged(TURNED)), STACKS),
        *at(flagged(TURNED), TURNED_STACKS),
    ),
    keys=(*keys.COMMON, *keys.EXPERT_LENGTHS, keys.rope_sections(24, 20, 20), DEEPSTACK),
    drop=(FREQUENCIES, *VISION),
    strip="language_model.",
    inside={"Qwen3VLMoeModel": "Qwen3VLMoeForConditionalGeneration"},
    spellings=(Rename(r"(mlp\.experts\.(?:gate_up|down)_proj)\.weight$", r"\1"),),
    derive=(deepstack,),
    seen=(turned(TURNED, {GATE_UP: ("hidden_size", f"2*{WIDTH}"), DOWN: (WIDTH, "hidden_size")}),),
    assumes=QWEN3.assumes,
    folds=(folds.VALUES, folds.EXPERT_OUT),
)  # fmt: skip

FAMILIES = (QWEN2_VL, QWEN3_VL, QWEN3_VL_MOE)
