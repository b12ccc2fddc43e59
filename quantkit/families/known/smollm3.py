"""SmolLM 3: a Llama of which every fourth layer does without positions."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.llama import LLAMA

PERIOD = 4  # of the layers, the last of so many does not rotate: llama.cpp has no key for it


def unrotated_every_fourth(hparams: Hparams) -> str | None:
    """Every fourth layer does without positions."""
    layers, interval = hparams.values.get("no_rope_layers"), hparams.values.get("no_rope_layer_interval")
    if isinstance(layers, list):
        expected = [int((i + 1) % PERIOD != 0) for i in range(len(layers))]
        return None if layers == expected else "no_rope_layers are not every fourth layer"
    return None if interval in (None, PERIOD) else f"no_rope_layer_interval is {interval}, it takes {PERIOD}"


SMOLLM3 = replace(
    LLAMA,
    name="smollm3",
    gguf="smollm3",
    hf=("SmolLM3ForCausalLM",),
    defaults={
        "smollm3": {
            "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6, "rope_theta": 2e6, "tie_word_embeddings": True,
        },
    },
    keys=keys.LLAMA,
    assumes=(
        assumptions.silu, assumptions.no_switched_window, assumptions.yarn_temperature, unrotated_every_fourth,
    ),
    computes=frozenset({"no_rope_layers", "no_rope_layer_interval"}),
)  # fmt: skip

FAMILIES = (SMOLLM3,)
