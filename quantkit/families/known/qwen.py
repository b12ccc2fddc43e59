"""Qwen 2 (biased queries, keys and values), and Qwen 3 (normalized queries and keys), dense and as mixtures."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    MLP,
    NORMS,
    OUTSIDE,
    OWN_CODE,
    PRESENT,
    QK_NORMS,
    Family,
    TokenizerRules,
    biased,
    experts,
)
from quantkit.families.spellings import Rename

QWEN2 = Family(
    name="qwen2",
    gguf="qwen2",
    hf=("Qwen2ForCausalLM",),
    defaults={
        "qwen2": {
            "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    outside=OUTSIDE,
    block=(*NORMS, *biased(ATTENTION, output=None), *MLP),
    keys=(*keys.COMMON, keys.POOLING_TYPE),
    drop=(FREQUENCIES,),
    assumes=(assumptions.silu, assumptions.no_switched_window, assumptions.yarn_temperature),
    folds=folds.DENSE,
    tokens=TokenizerRules(slow="Qwen2Tokenizer"),
)  # fmt: skip
QWEN3 = replace(
    QWEN2,
    name="qwen3",
    gguf="qwen3",
    hf=("Qwen3ForCausalLM",),
    defaults={
        "qwen3": {
            "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    block=(*NORMS, *ATTENTION, *QK_NORMS, *MLP),
    keys=(*QWEN2.keys, keys.classifier),
    reranks=True,
)  # fmt: skip
QWEN3_MOE = replace(
    QWEN3,
    name="qwen3_moe",
    gguf="qwen3moe",
    hf=("Qwen3MoeForCausalLM",),
    defaults={
        "qwen3_moe": {
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24,
            "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
            "num_local_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
        },
    },
    block=(
        *NORMS,
        *ATTENTION,
        *QK_NORMS,
        *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
    ),
    keys=(*keys.COMMON, *keys.EXPERT_LENGTHS),
    assumes=(*QWEN3.assumes, assumptions.normalized_router),
    folds=folds.MIXTURE,
    reranks=False,
)  # fmt: skip

KORMO = replace(  # in the graph of Qwen 2, whose biases may be missing
    QWEN2,
    name="kormo",
    hf=("KORMoForCausalLM",),
    defaults={"kormo": QWEN2.defaults["qwen2"]},
    block=(*NORMS, *biased(ATTENTION, output=None, others=PRESENT), *MLP),
    spellings=(
        Rename(r"\.pre_attention_layernorm\.", ".input_layernorm."),
        Rename(r"\.pre_mlp_layernorm\.", ".post_attention_layernorm."),
    ),
    unserved=OWN_CODE,
)

FAMILIES = (QWEN2, KORMO, QWEN3, QWEN3_MOE)
