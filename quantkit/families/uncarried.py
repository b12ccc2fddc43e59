"""Encoders of known models that quantkit does not write: why, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

ALONE = "one is written beside a language model, and this checkpoint has none"
CONVERTER = "llama.cpp's convert_hf_to_gguf.py --mmproj writes it"


class Why(NamedTuple):
    """The reason, as the end of a sentence about the encoder, and what gives one all the same."""

    reason: str
    instead: str


UNCARRIED: Mapping[str, Why] = {
    "GlmAsrForConditionalGeneration": Why(
        "llama.cpp adds positions to sound (embed_positions) and vectors at its ends (audio_bos_eos_token), and the"
        " layout of transformers has neither",
        "take the checkpoint as it was first published, of architecture GlmasrModel",
    ),
    "KimiK3ForConditionalGeneration": Why("llama.cpp has none for this model", "use it with the code of the model"),
    "MiMoV2ForCausalLM": Why(
        "that of its sound is in a folder of its own (audio_tokenizer), which is not read", CONVERTER
    ),
    "RADIOModel": Why(ALONE, "give the checkpoint of the model around it, such as NemotronH_Nano_VL_V2"),
    "UltravoxModel": Why(ALONE, f"{CONVERTER}; convert the language model that config.json names as text_model_id"),
}
