"""Mistral Small 3, Ministral 3 and their like as transformers saves them: a Llama, often with a vision encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.gemma import VISION
from quantkit.families.known.llama import LLAMA
from quantkit.families.rows import FREQUENCIES
from quantkit.metadata import KeyValue


def temperature(hparams: Hparams) -> Iterable[KeyValue]:
    """Ministral 3 scales attention by position, and says so among its rope settings."""
    scale = hparams.number("rope_llama_4_scaling_beta")
    if scale is None:
        return
    if hparams.values.get("rope_type") != "yarn":
        message = (
            f'rope scaling "{hparams.values.get("rope_type")}" of a Ministral 3, which llama.cpp knows with yarn only'
        )
        raise UnsupportedError(message, key="rope_type", hint="is config.json of this model?")
    yield KeyValue("rope.scaling.yarn_log_multiplier", "f32", hparams.required("rope_mscale_all_dim"))
    yield KeyValue("attention.temperature_scale", "f32", scale)


BACK = {
    "attention.temperature_scale": "file.temperature", "rope.scaling.yarn_log_multiplier": "file.log_multiplier",
}  # fmt: skip


def temperature_of_file(hparams: Hparams) -> Mapping[str, Any]:
    """The rope settings of a file with a temperature, which is a Ministral 3."""
    scale, scaling = hparams.number("file.temperature"), hparams.values.get("rope_scaling")
    if scale is None or not isinstance(scaling, Mapping):
        return {}
    mscale = hparams.number("file.log_multiplier")
    settings = {**scaling, "mscale": mscale, "mscale_all_dim": mscale, "llama_4_scaling_beta": scale}
    return {"rope_scaling": settings}


MISTRAL3 = replace(
    LLAMA,
    name="mistral3",
    gguf="mistral3",
    hf=("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"),
    defaults={
        "ministral3": {
            "vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": False,
        },
    },
    keys=(*keys.LLAMA, temperature),
    back=BACK,
    graph=temperature_of_file,
    drop=(FREQUENCIES, *VISION),
    strip="language_model.",
)  # fmt: skip

FAMILIES = (MISTRAL3,)
