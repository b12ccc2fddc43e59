"""StableLM: layer norms, a part of each head rotated, attention and MLP one after the other or side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.rows import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    FREQUENCIES,
    HEAD,
    MLP,
    NORMS,
    Family,
    biased,
    with_biases,
)
from quantkit.metadata import KeyValue

BEFORE, AFTER = NORMS
PARALLEL = "use_parallel_residual"


def side_by_side(hparams: Hparams) -> Iterable[KeyValue]:
    """Whether attention and MLP read the same."""
    return (KeyValue(PARALLEL, "bool", hparams.flag(PARALLEL)),)


STABLELM = Family(
    name="stablelm",
    gguf="stablelm",
    hf=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
    defaults={
        "stablelm": {
            "vocab_size": 50304, "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
            "layer_norm_eps": 1e-5, "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "tie_word_embeddings": False,
            "use_qkv_bias": False, "qk_layernorm": False, PARALLEL: False,
        },
    },
    aliases={"rope_pct": "partial_rotary_factor", "norm_eps": "layer_norm_eps"},  # of the first models
    outside=(EMBEDDING, *with_biases((FINAL_NORM,)), HEAD),
    block=(
        *with_biases((BEFORE, replace(AFTER, unless=PARALLEL))),
        *biased(ATTENTION, output=None, others="use_qkv_bias"), *MLP),
    keys=(*keys.SIZES, keys.partial_rope, side_by_side, keys.LAYER_EPSILON),
    drop=(FREQUENCIES,),
    assumes=(assumptions.silu,),
    folds=(
        replace(folds.ATTENTION_IN, unless=PARALLEL),
        replace(folds.ATTENTION_IN, consumers=(*folds.QKV, *folds.GATE_UP), when=PARALLEL),
        folds.VALUES,
        replace(folds.MLP_IN, unless=PARALLEL),
        folds.MLP_OUT,
    ),
    computes=frozenset({
        "layer_norm_eps", "partial_rotary_factor", "use_qkv_bias", "qk_layernorm", PARALLEL,
    }),
)  # fmt: skip

FAMILIES = (STABLELM,)
