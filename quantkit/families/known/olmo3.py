"""OLMo 3: OLMo 2 where three of four layers attend to a window; and OLMoE, a mixture with norms before its layers."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.olmo2 import OLMO2
from quantkit.families.layers import by_rule, first_said, kind, listed, not_, of_period
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    NORMS,
    OUTSIDE,
    QK_NORMS_OF_ALL,
    Family,
    experts,
)

WINDOW, GLOBAL = "sliding_attention", "full_attention"


def one_base(hparams: Hparams) -> str | None:
    """Positions are rotated alike in windows and outside."""
    base, inside = hparams.number("rope_theta"), hparams.number("rope_theta_swa")
    return None if base == inside else f"rope_theta is {inside} inside windows, it takes {base}"


OLMO3 = replace(
    OLMO2,
    name="olmo3",
    hf=("Olmo3ForCausalLM",),
    defaults={
        "olmo3": {
            "vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "rope_local_base_freq": 500000.0,
            "tie_word_embeddings": False, "sliding_window": 4096,
        },
    },
    keys=(
        *keys.COMMON,
        keys.SLIDING_WINDOW,
        keys.per_layer("attention.sliding_window_pattern", "bool", "", kind(WINDOW)),
    ),
    derive=(
        first_said(
            "layer_types",
            listed("layer_types", {WINDOW: WINDOW, GLOBAL: GLOBAL}),
            by_rule(WINDOW, not_(of_period(4, 3)), GLOBAL),
        ),
    ),
    assumes=(*OLMO2.assumes, one_base),
)  # fmt: skip


def unclipped(hparams: Hparams) -> str | None:
    """Queries, keys and values are not clipped."""
    return f"it ignores clip_qkv {clip:g}" if (clip := hparams.number("clip_qkv")) is not None else None


OLMOE = Family(
    name="olmoe",
    gguf="olmoe",
    hf=("OlmoeForCausalLM",),
    defaults={
        "olmoe": {
            "vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 2048, "num_hidden_layers": 16,
            "num_attention_heads": 16, "num_key_value_heads": None, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
            "num_local_experts": 64, "num_experts_per_tok": 8,
        },
    },
    outside=OUTSIDE,
    block=(
        *NORMS,
        *ATTENTION,
        *QK_NORMS_OF_ALL,
        *experts("intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
    ),
    keys=keys.COMMON,
    computes=frozenset({"clip_qkv"}),
    drop=(FREQUENCIES,),
    assumes=(assumptions.silu, assumptions.yarn_temperature, assumptions.plain_router, unclipped),
    folds=(folds.ATTENTION_IN, replace(folds.VALUES, unless="clip_qkv"), *folds.MIXTURE[2:]),
)  # fmt: skip

FAMILIES = (OLMO3, OLMOE)
