"""InternLM 2 (queries, keys and values of a group in one stretch of rows) and 3 (a Llama with switches for biases)."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.folds import Fold
from quantkit.families.known.llama import LLAMA
from quantkit.families.placements import grouped_keys, grouped_queries, grouped_values
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    MLP,
    NORMS,
    OWN_CODE,
    Family,
    T,
    TokenizerRules,
    biased,
    rotated,
)

WQKV, FUSED = "attention.wqkv.weight", "qkv_rows hidden_size"
INNER, OUTER = "intermediate_size hidden_size", "hidden_size intermediate_size"

INTERNLM2 = Family(
    name="internlm2",
    gguf="internlm2",
    hf=("InternLM2ForCausalLM",),
    defaults={
        "internlm2": {
            "vocab_size": 103168, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    outside=(
        T("model.tok_embeddings.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        T("model.norm.weight", "output_norm.weight", Role.NORM, "hidden_size"),
        T("output.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size", unless="tie_word_embeddings"),
    ),
    block=(
        T("attention_norm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        T("ffn_norm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        T(WQKV, "attn_q.weight", Role.ATTN_Q, FUSED, grouped_queries),
        T(WQKV, "attn_k.weight", Role.ATTN_K, FUSED, grouped_keys),
        T(WQKV, "attn_v.weight", Role.ATTN_V, FUSED, grouped_values),
        T("attention.wo.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
        T("feed_forward.w1.weight", "ffn_gate.weight", Role.FFN_GATE, INNER),
        T("feed_forward.w3.weight", "ffn_up.weight", Role.FFN_UP, INNER),
        T("feed_forward.w2.weight", "ffn_down.weight", Role.FFN_DOWN, OUTER),
    ),
    keys=keys.COMMON,
    drop=(FREQUENCIES,),
    assumes=(assumptions.silu,),
    folds=(
        Fold("attention_norm", ("attention.wqkv",), norm=True),
        Fold("ffn_norm", ("feed_forward.w1", "feed_forward.w3"), norm=True),
        Fold("feed_forward.w3", ("feed_forward.w2",)),
    ),
    tokens=TokenizerRules(said_prefix=True, chat_end="<|im_end|>"),
    unserved=OWN_CODE,
)  # fmt: skip
INTERNLM3 = replace(
    LLAMA,
    name="internlm3",
    hf=("InternLM3ForCausalLM",),
    defaults={
        "internlm3": {
            "vocab_size": 128512, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False, "qkv_bias": False,
            "bias": False,
        },
    },
    block=(
        *NORMS,
        *rotated(biased(ATTENTION, output="bias", others="qkv_bias")),
        *(replace(t, bias="bias") for t in MLP),
    ),
    keys=keys.LLAMA,
    folds=folds.DENSE,
    tokens=TokenizerRules(prefix_setting=True, chat_end="<|im_end|>"),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (INTERNLM2, INTERNLM3)
