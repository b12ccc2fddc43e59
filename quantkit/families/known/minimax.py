"""MiniMax M2: a mixture whose router is a sigmoid, with norms over the queries and keys of all heads."""

from __future__ import annotations

from quantkit.families import assumptions, folds, keys
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    NORMS,
    OUTSIDE,
    QK_NORMS_OF_ALL,
    Drop,
    Family,
    T,
    experts,
)

MINIMAX_M2 = Family(
    name="minimax_m2",
    gguf="minimax-m2",
    hf=("MiniMaxM2ForCausalLM",),
    defaults={
        "minimax_m2": {
            "vocab_size": 200064, "hidden_size": 3072, "intermediate_size": 1536, "num_hidden_layers": 62,
            "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 196608,
            "rms_norm_eps": 1e-6, "rope_theta": 5e6, "tie_word_embeddings": False,
            "num_local_experts": 256, "num_experts_per_tok": 8,
        },
    },
    outside=OUTSIDE,
    block=(
        *NORMS,
        *ATTENTION,
        *QK_NORMS_OF_ALL,
        *experts("intermediate_size", "block_sparse_moe", "w1", "w3", "w2"),
        T("block_sparse_moe.e_score_correction_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts"),
    ),
    keys=(
        *keys.COMMON,
        *keys.ROUTED,
        keys.Key("expert_feed_forward_length", "u32", "intermediate_size"),
        keys.Key("rope.dimension_count", "u32", "rotary_dim"),
    ),
    drop=(FREQUENCIES, Drop("mtp.*", "llama.cpp predicts no further tokens with this architecture")),
    assumes=(assumptions.silu, assumptions.yarn_temperature),
    folds=(folds.EXPERT_OUT,),
    computes=frozenset({"rotary_dim"}),
)  # fmt: skip

FAMILIES = (MINIMAX_M2,)
