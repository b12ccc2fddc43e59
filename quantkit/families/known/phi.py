"""Phi 3 and 4: queries, keys and values in one matrix, gate and up in another."""

from __future__ import annotations

import math
from collections.abc import Iterable

from quantkit.families import assumptions, keys
from quantkit.families.folds import Fold
from quantkit.families.hparams import Hparams
from quantkit.families.placements import longrope_factors
from quantkit.families.roles import Role
from quantkit.families.rows import FREQUENCIES, NORMS, OUTSIDE, Family, T, TokenizerRules
from quantkit.metadata import KeyValue


def longrope_attention(hparams: Hparams) -> Iterable[KeyValue]:
    """Attention temperature of longrope: sqrt(1 + ln(scale) / ln(original context)), 1 without extension."""
    if not hparams.values.get("rope_long_factor"):
        return
    original = hparams.count("rope_original_context")
    scale = hparams.count("max_position_embeddings") / original
    factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 and original > 1 else 1.0
    yield KeyValue("rope.scaling.attn_factor", "f32", factor)


PHI3 = Family(
    name="phi3",
    gguf="phi3",
    hf=("Phi3ForCausalLM",),
    defaults={
        "phi3": {
            "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": False, "sliding_window": None,
        },
    },
    outside=OUTSIDE,
    block=(
        *NORMS,
        T("self_attn.qkv_proj.weight", "attn_qkv.weight", Role.ATTN_QKV, "qkv_rows hidden_size"),
        T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
        # gate and up in one tensor, which llama.cpp calls, and treats as, ffn_up
        T("mlp.gate_up_proj.weight", "ffn_up.weight", Role.FFN_UP, "2*intermediate_size hidden_size"),
        T("mlp.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
    ),
    back={"rope.scaling.original_context_length": "original_max_position_embeddings"},
    keys=(
        longrope_attention,
        *keys.SIZES,
        keys.Key("rope.scaling.original_context_length", "u32", "rope_original_context"),
        keys.RMS_EPSILON,
        keys.Key("rope.dimension_count", "u32", "rope_dim"),
        keys.Key("rope.freq_base", "f32", "rope_theta"),
        keys.Key("attention.sliding_window", "u32", "sliding_window", default=0),  # 0 tells Phi-4 from Phi-3
    ),
    drop=(FREQUENCIES,),
    extra=longrope_factors,
    assumes=(assumptions.silu, assumptions.no_window),
    folds=(
        Fold("input_layernorm", ("self_attn.qkv_proj",), norm=True),
        Fold("self_attn.qkv_proj", ("self_attn.o_proj",), heads=True),
        Fold("post_attention_layernorm", ("mlp.gate_up_proj",), norm=True),
        Fold("mlp.gate_up_proj", ("mlp.down_proj",)),
    ),
    tokens=TokenizerRules(phi=True),
)  # fmt: skip

FAMILIES = (PHI3,)
