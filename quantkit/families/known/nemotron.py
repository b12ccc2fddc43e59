"""Nemotron 4 and Minitron: layer norms that store their distance from 1, and MLPs that square what is above zero."""

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
    TokenizerRules,
    centered,
    ungated,
    with_biases,
)
from quantkit.metadata import KeyValue


def scaling(hparams: Hparams) -> Iterable[KeyValue]:
    """Positions are divided by a factor, or taken as they are; the file says either."""
    factor = hparams.number("factor") or hparams.number("rope_factor")
    if factor is None:
        yield KeyValue("rope.scaling.type", "string", "none")
        return
    yield KeyValue("rope.scaling.type", "string", "linear")
    yield KeyValue("rope.scaling.factor", "f32", factor)


NEMOTRON = Family(
    name="nemotron",
    gguf="nemotron",
    hf=("NemotronForCausalLM",),
    defaults={
        "nemotron": {
            "vocab_size": 256000, "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 32,
            "num_attention_heads": 48, "num_key_value_heads": None, "head_dim": None, "max_position_embeddings": 4096,
            "norm_eps": 1e-5, "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "tie_word_embeddings": False,
        },
    },
    outside=(EMBEDDING, *centered(with_biases((FINAL_NORM,))), HEAD),
    block=(*centered(with_biases(NORMS)), *ATTENTION, *ungated(MLP)),
    keys=(
        *keys.SIZES,
        keys.FREQUENCY_BASE,
        replace(keys.RMS_EPSILON, value="norm_eps"),
        replace(keys.LAYER_EPSILON, value="norm_eps"),
        *keys.HEAD_LENGTHS,
        keys.VOCAB_SIZE,
        keys.Key("rope.dimension_count", "u32", "rope_dim"),
        scaling,
    ),
    drop=(FREQUENCIES,),
    assumes=(assumptions.activation("hidden_act", "relu2"),),
    folds=(  # none at norms: their weights lie around zero and have biases, and no scale suits both as they are stored
        folds.VALUES,
    ),
    tokens=TokenizerRules(ids={"pad": 0, "unk": 1}),
    computes=frozenset({"norm_eps", "partial_rotary_factor"}),
)  # fmt: skip

FAMILIES = (NEMOTRON,)
