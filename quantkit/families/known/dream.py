"""Dream: a Qwen 2 that attends in both directions and fills in masked tokens."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import keys
from quantkit.families.known.qwen import QWEN2
from quantkit.families.rows import OWN_CODE

DREAM = replace(
    QWEN2,
    name="dream",
    gguf="dream",
    hf=("DreamModel",),
    defaults={
        "Dream": {
            "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    keys=(*(key for key in QWEN2.keys if key is not keys.causality), keys.both_ways),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (DREAM,)
