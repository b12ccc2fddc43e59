"""Llama, Mistral and Mixtral: queries and keys with their rotation pairs side by side."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.placements import rope_freqs
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    MLP,
    NORMS,
    OUTSIDE,
    OWN_CODE,
    Condition,
    Family,
    T,
    TokenizerRules,
    experts,
    rotated,
)

LLAMA = Family(
    name="llama",
    gguf="llama",
    hf=("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "VLlama3ForCausalLM"),  # the last in SmolVLM 2
    defaults={
        "llama": {
            "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
        "mistral": {
            "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": None, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    when=Condition("config.json has no draft_vocab_size", lambda said: said.get("draft_vocab_size") is None),
    outside=OUTSIDE,
    block=(*NORMS, *rotated(ATTENTION), *MLP),
    keys=keys.LLAMA,
    drop=(FREQUENCIES,),
    extra=rope_freqs,
    assumes=(assumptions.silu, assumptions.no_window, assumptions.yarn_temperature),
    folds=folds.DENSE,
    tokens=TokenizerRules(prefix_setting=True),
)  # fmt: skip
MIXTRAL = replace(
    LLAMA,
    name="mixtral",
    hf=("MixtralForCausalLM",),
    defaults={
        "mixtral": {
            "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": False,
            "num_local_experts": 8, "num_experts_per_tok": 2,
        },
    },
    block=(
        *NORMS,
        *rotated(ATTENTION),
        *experts("intermediate_size", "block_sparse_moe", "w1", "w3", "w2"),
        T("mlp.gate.weight", "ffn_gate_inp.weight", Role.ROUTER, "num_local_experts hidden_size"),
    ),
    folds=folds.MIXTURE,
)  # fmt: skip

IQUEST_CODER = replace(
    LLAMA,
    name="iquestcoder",
    hf=("IQuestCoderForCausalLM",),
    defaults={
        "iquestcoder": {
            "vocab_size": 76800, "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 80,
            "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (LLAMA, MIXTRAL, IQUEST_CODER)
