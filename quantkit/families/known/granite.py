"""Granite, dense: a Llama whose embeddings, residuals, attention and logits are scaled by numbers of config.json."""

from __future__ import annotations

from collections.abc import Iterable

from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.placements import rope_freqs
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    MLP,
    NORMS,
    OUTSIDE,
    Family,
    TokenizerRules,
    rotated,
)
from quantkit.metadata import KeyValue

SCALES = tuple(
    keys.Key(name, "f32", said, nonzero=True)
    for name, said in (
        ("attention.scale", "attention_multiplier"),
        ("embedding_scale", "embedding_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("logit_scale", "logits_scaling"),
    )
)


def head_lengths(hparams: Hparams) -> Iterable[KeyValue]:
    """The dimensions of a head, only where they are not hidden size / heads, which the reference always takes."""
    if hparams.count("head") == hparams.count("hidden_size") // hparams.count("num_attention_heads"):
        return ()
    return (
        KeyValue("attention.key_length", "u32", hparams.count("head")),
        KeyValue("attention.value_length", "u32", hparams.count("head")),
    )


GRANITE = Family(
    name="granite",
    gguf="granite",
    hf=("GraniteForCausalLM",),
    defaults={
        "granite": {
            "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
            "attention_multiplier": 1.0, "embedding_multiplier": 1.0, "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
        },
    },
    outside=OUTSIDE,
    block=(*NORMS, *rotated(ATTENTION), *MLP),
    keys=(
        *(entry for entry in keys.LLAMA if entry not in keys.HEAD_LENGTHS),
        head_lengths,
        *SCALES,
    ),
    drop=(FREQUENCIES,),
    extra=rope_freqs,
    assumes=(assumptions.silu, assumptions.yarn_temperature),
    folds=folds.DENSE,
    tokens=TokenizerRules(prefix_setting=True),
    computes=frozenset(key.value for key in SCALES),
)  # fmt: skip

FAMILIES = (GRANITE,)
