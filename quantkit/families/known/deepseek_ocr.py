"""DeepSeek-OCR and Unlimited-OCR: the language model is a DeepSeek V2 with the attention of a Llama."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.known.deepseek import DEEPSEEK2, MIXTURE
from quantkit.families.known.qwen3_next import VISION
from quantkit.families.layers import before, both, from_
from quantkit.families.rows import ATTENTION, MLP, NORMS, Drop, TokenizerRules, at, without_biases

TOWER = "vision_tower"  # as transformers calls what sees, whichever of both encoders of a version it is
ENCODERS = {
    "sam_model.": TOWER, "vision_model.": TOWER, "qwen2_model.": TOWER, "projector.": "multi_modal_projector",
    "image_newline": None, "view_seperator": None,
}  # fmt: skip

DEEPSEEK_OCR = replace(
    DEEPSEEK2,
    name="deepseek_ocr",
    gguf="deepseek2-ocr",
    hf=(
        "DeepseekOCRForCausalLM", "DeepseekOCR2ForCausalLM", "UnlimitedOCRForCausalLM",
        "DeepseekOcr2ForConditionalGeneration", "UnlimitedOcrForConditionalGeneration",
    ),
    defaults={
        "deepseek_ocr": {
            "vocab_size": 129280, "hidden_size": 1280, "intermediate_size": 6848, "num_hidden_layers": 12,
            "num_attention_heads": 10, "num_key_value_heads": 10, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6, "rope_theta": None, "tie_word_embeddings": False, "num_local_experts": 64,
            "num_experts_per_tok": 6, "moe_intermediate_size": 896, "n_shared_experts": 2,
            "first_k_dense_replace": 1, "qk_rope_head_dim": 0,
        },
    },
    block=(
        *NORMS,
        *without_biases(ATTENTION),
        *at(before("dense_layers"), MLP),
        *(replace(t, where=both(from_("dense_layers"), t.where)) for t in MIXTURE),
    ),
    keys=(
        *keys.COMMON,
        *keys.ROUTED,
        keys.Key("leading_dense_block_count", "u32", "dense_layers"),
        keys.VOCAB_SIZE,
        keys.Key("expert_feed_forward_length", "u32", "expert_width"),
        keys.Key("expert_shared_count", "u32", "n_shared_experts", default=0),
        keys.Key("expert_weights_scale", "f32", "routed_scaling_factor"),
        keys.Key("expert_weights_norm", "bool", "norm_topk_prob", nonzero=True),
        keys.Key("rope.dimension_count", "u32", "qk_rope_head_dim"),
        keys.FirstOf("attention.sliding_window", "u32", ("sliding_window_size", "sliding_window")),
    ),
    back={},
    graph=None,
    drop=(
        *DEEPSEEK2.drop,
        *(
            Drop(f"{start}{own}*", VISION[0].reason, in_memory=part)
            for own, part in ENCODERS.items()
            for start in ("", "model.")
        ),
    ),
    folds=(folds.ATTENTION_IN, folds.VALUES, *folds.INNER),
    assumes=(assumptions.silu,),
    tokens=TokenizerRules(template="{% for m in messages %}{{m['content']}}{% endfor %}"),
)  # fmt: skip

FAMILIES = (DEEPSEEK_OCR,)
