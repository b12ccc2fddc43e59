"""EXAONE 4: norms after attention and MLP instead of before, queries and keys normalized, windows in most layers."""

from __future__ import annotations

from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.placements import rope_freqs
from quantkit.families.rows import ATTENTION, FREQUENCIES, MLP, NORMS_AFTER, OUTSIDE, QK_NORMS, Family

LAYERS_OF_LARGEST = 64  # of the 32B, the one published model with windows


def windows_of_the_largest(hparams: Hparams) -> str | None:
    """Layers attend to a window in the model of 64 layers only."""
    window = hparams.number("sliding_window")
    if window is None or hparams.count("num_hidden_layers") == LAYERS_OF_LARGEST:
        return None
    return f"it ignores sliding_window {window:.0f} of a model that has not {LAYERS_OF_LARGEST} layers"


EXAONE4 = Family(
    name="exaone4",
    gguf="exaone4",
    hf=("Exaone4ForCausalLM",),
    defaults={
        "exaone4": {
            "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "sliding_window": 4096,
            "sliding_window_pattern": 4,
        },
    },
    outside=OUTSIDE,
    block=(*ATTENTION, *QK_NORMS, *MLP, *NORMS_AFTER),
    keys=(*keys.COMMON, keys.VOCAB_SIZE, keys.SLIDING_WINDOW, keys.windows),
    drop=(FREQUENCIES,),
    extra=rope_freqs,
    assumes=(assumptions.silu, assumptions.yarn_temperature, windows_of_the_largest),
    folds=(folds.VALUES, folds.MLP_OUT),
)  # fmt: skip

FAMILIES = (EXAONE4,)
