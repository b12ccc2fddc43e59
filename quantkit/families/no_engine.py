"""Architectures that llama.cpp cannot run, so that there is no file to make of them.

Its converter knows none of these names, but for PLM, and its graphs have no place for what they need (October 2026).
"""

from __future__ import annotations

from collections.abc import Mapping

ENCODER_DECODER = "it has no graph for this pair of encoder and decoder"
POSITIONS = "it has no graph with these positions"
HYBRID = "it has no graph for this mix of recurrent layers and attention"
SPEECH = "speech recognition has an engine of its own, whisper.cpp"

NO_ENGINE: Mapping[str, str] = {
    "GPTJForCausalLM": "it has had no graph for GPT-J since GGUF",
    "GPTNeoForCausalLM": "it has no graph for GPT-Neo, which attends to windows in every second layer",
    "OPTForCausalLM": POSITIONS,
    "XGLMForCausalLM": POSITIONS,
    "CodeGenForCausalLM": "it has no graph for CodeGen",
    "BioGptForCausalLM": POSITIONS,
    "RecurrentGemmaForCausalLM": "it has no graph for recurrent blocks of this kind",
    "RwkvForCausalLM": "it has graphs for RWKV 6 and 7, not for 4",
    "Rwkv5ForCausalLM": "it has graphs for RWKV 6 and 7, not for 5",
    "ZambaForCausalLM": HYBRID,
    "Zamba2ForCausalLM": HYBRID,
    "HymbaForCausalLM": HYBRID,
    "OlmoHybridForCausalLM": HYBRID,
    "Phi4FlashForCausalLM": HYBRID,
    "xLSTMForCausalLM": "it has no graph for recurrent blocks of this kind",
    "PLMForCausalLM": "its graph for PLM stops with an assertion where attention is fused, as it is by default",
    "PersimmonForCausalLM": "it has no graph for Persimmon any more",
    "FuyuForCausalLM": "it has no graph for Fuyu",
    "MllamaForConditionalGeneration": "it has no graph for text that attends to images in layers of their own",
    "BartForConditionalGeneration": ENCODER_DECODER,
    "MBartForConditionalGeneration": ENCODER_DECODER,
    "PegasusForConditionalGeneration": ENCODER_DECODER,
    "BlenderbotForConditionalGeneration": ENCODER_DECODER,
    "M2M100ForConditionalGeneration": ENCODER_DECODER,
    "MarianMTModel": ENCODER_DECODER,
    "MPNetModel": "it has no graph with relative positions in an encoder (MPNet)",
    "MPNetForMaskedLM": "it has no graph with relative positions in an encoder (MPNet)",
    "DebertaModel": "it has no graph for disentangled attention",
    "DebertaV2Model": "it has no graph for disentangled attention",
    "DebertaV2ForSequenceClassification": "it has no graph for disentangled attention",
    "AlbertModel": "it has no graph for layers that share their weights",
    "LongformerModel": "it has no graph for this kind of sparse attention",
    "BigBirdModel": "it has no graph for this kind of sparse attention",
    "WhisperForConditionalGeneration": SPEECH,
    "Wav2Vec2ForCTC": SPEECH,
}
