"""What Ollama refuses. Since 0.30 it runs GGUF files with llama.cpp's own server; before, with an engine of its own."""

from __future__ import annotations

from quantkit.consumers.finders import whole
from quantkit.consumers.row import Rule

# Classes of config.json that its own converter knows (convert/convert.go).
CONVERTED = frozenset({
    "BertModel", "CohereForCausalLM", "DeepseekOCRForCausalLM", "DeepseekV3ForCausalLM", "Gemma2ForCausalLM",
    "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "Gemma3TextModel", "Gemma3nForConditionalGeneration",
    "Gemma4ForCausalLM", "Gemma4ForConditionalGeneration", "GemmaForCausalLM", "Glm4MoeLiteForCausalLM",
    "GlmOcrForConditionalGeneration", "GptOssForCausalLM", "LagunaForCausalLM", "Lfm2ForCausalLM",
    "Lfm2MoeForCausalLM", "Lfm2VlForConditionalGeneration", "Llama4ForConditionalGeneration", "LlamaForCausalLM",
    "Ministral3ForCausalLM", "Mistral3ForConditionalGeneration", "MixtralForCausalLM",
    "MllamaForConditionalGeneration", "NemotronHForCausalLM", "NemotronH_Nano_Omni_Reasoning_V3",
    "NemotronH_Nano_VL_V2", "NomicBertModel", "NomicBertMoEModel", "Olmo3ForCausalLM", "Phi3ForCausalLM",
    "Qwen2ForCausalLM", "Qwen2_5_VLForConditionalGeneration", "Qwen3NextForCausalLM",
    "Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration", "Qwen3_5ForConditionalGeneration",
    "Qwen3_5MoeForConditionalGeneration",
})  # fmt: skip
# What `ollama create` sets a renderer of its own for (server/create.go, createModel), TEMPLATE or not.
RENDERED = frozenset({"gemma4", "laguna", "nemotron_h", "nemotron_h_moe", "nemotron_h_omni"})
NEW_TYPES = frozenset({"nvfp4", "q1_0"})
GGUF_NEAREST = "a GGUF file of its own (--to q4_k_m)"

IMPORT = "read: documentation of Ollama, import; convert/convert.go of 0.33.0-rc2"
CREATE = "read: server/create.go and parser/parser.go of Ollama 0.33.0-rc2; ollama #5245"
TYPES = "read: fs/ggml/type.go of Ollama 0.33.0-rc2 and 0.29; runs llama.cpp b10488"
RULES_OF_OLLAMA = (
    Rule(
        "ollama", "safetensors", whole(lambda subject: subject.container not in ("gguf", "plain")),
        "it imports GGUF files, and of safetensors only those whose weights are floats", GGUF_NEAREST, IMPORT,
    ),
    Rule(
        "ollama", "safetensors-architecture",
        whole(lambda it: it.container == "plain" and it.architecture != "" and it.architecture not in CONVERTED),
        "its own converter of safetensors does not know {architecture}", GGUF_NEAREST, IMPORT,
    ),
    Rule(
        "ollama", "split", whole(lambda subject: subject.container == "gguf" and subject.files > 1),
        "releases before 0.30 take a GGUF file in one piece, not {files} of them",
        "the same recipe without --split-max-size", CREATE,
    ),
    Rule(
        "ollama", "gguf-type", whole(lambda subject: "q2_0" in _types(subject.file_types)),
        "it knows no type Q2_0", "--to q2_k", TYPES,
    ),
    Rule(
        "ollama", "gguf-new-type", whole(lambda subject: not NEW_TYPES.isdisjoint(_types(subject.file_types))),
        "releases before 0.30 lack a type of this file: {file_types}", "--to q4_k_m", TYPES, refuses=False,
    ),
    Rule(
        "ollama", "rendered", whole(lambda it: it.container == "gguf" and it.architecture in RENDERED),
        "it renders conversations of {architecture} by code of its own, not by the model's chat template",
        "nothing: the template in a Modelfile is for releases that do not", CREATE, refuses=False,
    ),
)  # fmt: skip


def _types(names: tuple[str, ...]) -> set[str]:
    return {name.lower() for name in names}
