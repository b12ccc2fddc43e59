"""Command-R and Command-R7B: one norm feeds attention and MLP side by side, and the head is the embedding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.folds import Fold
from quantkit.families.hparams import Hparams
from quantkit.families.rows import ATTENTION, EMBEDDING, FINAL_NORM, FREQUENCIES, MLP, NORMS, Drop, Family
from quantkit.metadata import KeyValue


def rotary_part(hparams: Hparams) -> Iterable[KeyValue]:
    """The dimensions of a head that are rotated: all, or a part that only config.json of the first models names."""
    part = hparams.number("rotary_pct")
    head = hparams.count("hidden_size") // hparams.count("num_attention_heads")
    return (KeyValue("rope.dimension_count", "u32", int((1.0 if part is None else part) * head)),)


BASE = (
    keys.rope_scaling,
    keys.FREQUENCY_BASE,
    keys.LAYER_EPSILON,
    *keys.HEAD_LENGTHS,
    keys.LOGIT_SCALE,
)
TIED = Drop("lm_head.weight", "the same values as the embeddings", when="tie_word_embeddings")

COMMAND_R = Family(
    name="command_r",
    gguf="command-r",
    hf=("CohereForCausalLM",),
    defaults={
        "cohere": {
            "vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
            "num_attention_heads": 64, "num_key_value_heads": None, "max_position_embeddings": 8192,
            "layer_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True, "logit_scale": 0.0625,
            "use_qk_norm": False,
        },
    },
    outside=(EMBEDDING, FINAL_NORM),
    block=(NORMS[0], *ATTENTION, *MLP),
    keys=(
        *keys.without(keys.SIZES, "context_length"),
        # the context that the model was trained on; max_position_embeddings is that of the first tests
        keys.FirstOf("context_length", "u32", ("model_max_length", "max_position_embeddings")),
        *BASE,
        keys.no_rope_scaling,
    ),
    drop=(FREQUENCIES, TIED),
    assumes=(assumptions.silu,),
    folds=(Fold("input_layernorm", (*folds.QKV, *folds.GATE_UP), norm=True), folds.VALUES, folds.MLP_OUT),
    computes=frozenset({"layer_norm_eps", "logit_scale", "use_qk_norm"}),
)  # fmt: skip
COHERE2 = replace(
    COMMAND_R,
    name="cohere2",
    gguf="cohere2",
    hf=("Cohere2ForCausalLM",),
    defaults={
        "cohere2": {
            "vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
            "num_attention_heads": 64, "num_key_value_heads": None, "max_position_embeddings": 8192,
            "layer_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "logit_scale": 0.0625,
            "head_dim": None, "sliding_window": 4096,
        },
    },
    keys=(*keys.SIZES, *BASE, keys.SLIDING_WINDOW, keys.VOCAB_SIZE, rotary_part, keys.no_rope_scaling),
    assumes=(assumptions.silu, assumptions.windows_every(4)),
    computes=frozenset({"layer_norm_eps", "logit_scale"}),
)  # fmt: skip

FAMILIES = (COMMAND_R, COHERE2)
