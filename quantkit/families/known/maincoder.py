"""Maincoder: a Qwen 3 without biases, under its own name."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import keys
from quantkit.families.known.qwen import QWEN3
from quantkit.families.rows import OWN_CODE, TokenizerRules

MAINCODER = replace(
    QWEN3,
    name="maincoder",
    gguf="maincoder",
    hf=("MaincoderForCausalLM",),
    defaults={
        "maincoder": {
            "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 32,
            "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": True,
        },
    },
    keys=(*keys.COMMON, keys.Key("rope.dimension_count", "u32", "head_dim")),
    tokens=TokenizerRules(),
    reranks=False,
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (MAINCODER,)
