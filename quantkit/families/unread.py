"""Architectures that llama.cpp's converter reads and that have no row here.

Source: the tables of conversion/__init__.py of llama.cpp, October 2026. A name leaves this list when a row claims it.
"""

from __future__ import annotations

UNREAD = frozenset({
    "BailingMoeV3VLForConditionalGeneration",
    "DeepseekV4DSparkModel",
    "Dots3NoteForCausalLM", "Dots3NoteForConditionalGeneration", "Dots3NoteTextForCausalLM",
    "Gemma4DSparkModel", "Glm5vForConditionalGeneration",
    "Lfm25AudioTokenizer", "MERaLiON2ForConditionalGeneration", "MambaLMHeadModel",
    "PlamoForCausalLM", "PocketTTSModel", "Qwen3TTSForConditionalGeneration", "RADIOModel", "WavTokenizerDec",
})  # fmt: skip
