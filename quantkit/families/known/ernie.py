"""ERNIE 4.5, dense: a Llama whose rotation pairs lie side by side; that of PaddleOCR-VL, with three axes."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import keys
from quantkit.families.known.llama import LLAMA
from quantkit.families.known.qwen3_next import VISION
from quantkit.families.placements import first_half, part_of_keys, part_of_queries, part_of_values, second_half
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, MLP, NORMS, Drop, T, without_biases

# Baidu's own checkpoints of the first days
FUSED = (
    T("self_attn.qkv_proj.weight", "attn_q.weight", Role.ATTN_Q, "qkv_rows hidden_size", part_of_queries),
    T("self_attn.qkv_proj.weight", "attn_k.weight", Role.ATTN_K, "qkv_rows hidden_size", part_of_keys),
    T("self_attn.qkv_proj.weight", "attn_v.weight", Role.ATTN_V, "qkv_rows hidden_size", part_of_values),
    T("mlp.up_gate_proj.weight", "ffn_gate.weight", Role.FFN_GATE, "2*intermediate_size hidden_size", first_half),
    T("mlp.up_gate_proj.weight", "ffn_up.weight", Role.FFN_UP, "2*intermediate_size hidden_size", second_half),
)

ERNIE4_5 = replace(
    LLAMA,
    name="ernie4_5",
    gguf="ernie4_5",
    hf=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
    defaults={
        "ernie4_5": {
            "vocab_size": 103424, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 18,
            "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True,
        },
    },
    block=(
        *NORMS,
        *without_biases((*ATTENTION, *MLP)),  # llama.cpp has no place for those that `use_bias` would give
        *FUSED,
    ),
    keys=keys.COMMON,
    extra=None,
    computes=frozenset({"use_bias"}),
)  # fmt: skip

PADDLEOCR = replace(
    ERNIE4_5,
    name="paddleocr",
    gguf="paddleocr",
    hf=("PaddleOCRVLForConditionalGeneration",),
    defaults={"paddleocr_vl_text": ERNIE4_5.defaults["ernie4_5"]},
    keys=(*keys.COMMON, keys.rope_sections()),
    drop=(
        *ERNIE4_5.drop,
        *VISION,
        Drop("mlp_AR.*", VISION[0].reason, in_memory="projector"),
        Drop("model.projector.*", VISION[0].reason),
    ),
    strip="language_model.",
)

FAMILIES = (ERNIE4_5, PADDLEOCR)
