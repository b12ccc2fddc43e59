"""Qwen 1.5 and 2 as mixtures: beside the experts that a router chooses, one that reads every token behind a gate."""

from __future__ import annotations

from quantkit.families import assumptions, folds, keys
from quantkit.families.folds import Fold
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    NORMS,
    OUTSIDE,
    Family,
    TokenizerRules,
    biased,
    experts,
    shared_expert,
)

QWEN2_MOE = Family(
    name="qwen2_moe",
    gguf="qwen2moe",
    hf=("Qwen2MoeForCausalLM",),
    defaults={
        "qwen2_moe": {
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
            "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False, "qkv_bias": True,
            "num_local_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
        },
    },
    outside=OUTSIDE,
    block=(
        *NORMS,
        *biased(ATTENTION, output=None, others="qkv_bias"),
        *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
        *shared_expert("shared_expert_intermediate_size", "mlp.shared_expert", gate="mlp.shared_expert_gate"),
    ),
    keys=(*keys.COMMON, *keys.EXPERT_LENGTHS),
    drop=(FREQUENCIES,),
    assumes=(
        assumptions.silu, assumptions.no_switched_window, assumptions.yarn_temperature, assumptions.plain_router,
    ),
    folds=(
        folds.ATTENTION_IN,
        folds.VALUES,
        Fold(
            "post_attention_layernorm",
            (*folds.EXPERTS, "mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert_gate"),
            norm=True,
        ),
        folds.EXPERT_OUT,
        Fold("mlp.shared_expert.up_proj", ("mlp.shared_expert.down_proj",)),
    ),
    tokens=TokenizerRules(slow="Qwen2Tokenizer"),
    computes=frozenset({"qkv_bias", "shared_expert_intermediate_size"}),
)  # fmt: skip

FAMILIES = (QWEN2_MOE,)
