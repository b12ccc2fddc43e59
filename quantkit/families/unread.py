"""Architectures that llama.cpp's converter reads and that have no row here, and what to do instead.

Source: the tables of conversion/__init__.py of llama.cpp, October 2026. A name leaves this list when a row claims it.
"""

from __future__ import annotations

from collections.abc import Mapping

CONVERTER = "make a GGUF file in 16 bit with its convert_hf_to_gguf.py: quantkit quantizes that as any other"
BESIDE = "make a GGUF file in 16 bit with its convert_hf_to_gguf.py --target-model-dir TARGET: quantkit quantizes that"
MAMBA = "use the checkpoint as transformers saves it, of MambaForCausalLM (state-spaces/mamba-130m-hf)"

UNREAD: Mapping[str, str] = {
    "DeepseekV4DSparkModel": BESIDE,
    "Dots3NoteForCausalLM": CONVERTER,
    "Dots3NoteForConditionalGeneration": CONVERTER,
    "Dots3NoteTextForCausalLM": CONVERTER,
    "Gemma4DSparkModel": BESIDE,
    "Lfm25AudioTokenizer": CONVERTER,
    "MambaLMHeadModel": MAMBA,
    "PocketTTSModel": CONVERTER,
    "Qwen3TTSForConditionalGeneration": CONVERTER,
    "WavTokenizerDec": CONVERTER,
}
