"""dots.llm1: a mixture after the first layers, with experts that read every token."""

from __future__ import annotations

from quantkit.families import assumptions, folds, keys
from quantkit.families.layers import before, from_
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    MLP,
    NORMS,
    OUTSIDE,
    QK_NORMS,
    Family,
    T,
    at,
    experts,
    shared_expert,
)

DENSE = "first_k_dense_replace"

DOTS1 = Family(
    name="dots1",
    gguf="dots1",
    hf=("Dots1ForCausalLM",),
    defaults={
        "dots1": {
            "vocab_size": 152064, "hidden_size": 4608, "intermediate_size": 10944, "num_hidden_layers": 62,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False, "moe_intermediate_size": 1408,
            "first_k_dense_replace": 0, "norm_topk_prob": False, "routed_scaling_factor": 1.0, "n_group": 1,
            "topk_group": 1,
        },
    },
    aliases={"n_routed_experts": "num_local_experts"},
    outside=OUTSIDE,
    block=(
        *NORMS,
        *ATTENTION,
        *QK_NORMS,
        *at(before(DENSE), MLP),
        *at(from_(DENSE), (
            *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
            T("mlp.gate.e_score_correction_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts"),
            *shared_expert("n_shared_experts*moe_intermediate_size", "mlp.shared_experts"),
        )),
    ),
    keys=(
        *keys.COMMON,
        *keys.ROUTED[:-1],
        keys.sigmoid_unless_said,
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        keys.Key("leading_dense_block_count", "u32", DENSE),
        keys.Key("expert_shared_count", "u32", "n_shared_experts"),
        keys.Key("expert_weights_scale", "f32", "routed_scaling_factor"),
        keys.Key("expert_weights_norm", "bool", "norm_topk_prob"),
    ),
    drop=(FREQUENCIES,),
    assumes=(assumptions.silu, assumptions.yarn_temperature),
    folds=folds.INNER,
)  # fmt: skip

FAMILIES = (DOTS1,)
