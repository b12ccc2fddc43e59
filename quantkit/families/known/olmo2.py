"""OLMo 2: norms after each layer instead of before it, and over the queries and keys of all heads at once."""

from __future__ import annotations

from quantkit.families import assumptions, folds, keys
from quantkit.families.rows import ATTENTION, FREQUENCIES, MLP, NORMS_AFTER, OUTSIDE, QK_NORMS_OF_ALL, Family

OLMO2 = Family(
    name="olmo2",
    gguf="olmo2",
    hf=("Olmo2ForCausalLM",),
    defaults={
        "olmo2": {
            "vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    outside=OUTSIDE,
    block=(*ATTENTION, *QK_NORMS_OF_ALL, *MLP, *NORMS_AFTER),
    keys=keys.COMMON,
    drop=(FREQUENCIES,),
    assumes=(assumptions.silu, assumptions.yarn_temperature),
    folds=(folds.VALUES, folds.MLP_OUT),  # queries, keys, values, gate and up read what no norm has made
)  # fmt: skip

FAMILIES = (OLMO2,)
