"""What TensorRT-LLM refuses."""

from __future__ import annotations

from quantkit.consumers.finders import AWQ, BITSANDBYTES, GPTQ, INT8, MLX, NVFP4, layers, uncut_heads, whole
from quantkit.consumers.row import (
    DRAFT_NEAREST,
    DRAFT_REASON,
    ENCODERS,
    HEADS_REASON,
    LOWER,
    MLX_REASON,
    T5,
    T5_NEAREST,
    T5_REASON,
    TURNED,
    Rule,
    drafting,
    fp8,
    packed,
)

TENSORRT = "read: TensorRT-LLM, _torch/model_config.py and models/quant_config_utils.py, 2026"
FP8_NEAREST = "--to fp8, --to fp8-block or --to fp8-native"
ENCODER_DECODERS = "read: documentation of TensorRT-LLM, models/encoder-decoder, 2026"
ENCODING = frozenset({"BertForSequenceClassification"})
RUNS = frozenset({"T5ForConditionalGeneration"})
RULES_OF_TENSORRT = (
    Rule("tensorrt-llm", "mlx", layers(MLX), MLX_REASON, FP8_NEAREST, TENSORRT),
    Rule(
        "tensorrt-llm", "gguf", whole(lambda subject: subject.container == "gguf"), "it does not read GGUF files",
        FP8_NEAREST, TENSORRT,
    ),
    Rule(
        "tensorrt-llm", "t5", whole(lambda subject: subject.architecture in T5 - RUNS), T5_REASON, T5_NEAREST,
        ENCODER_DECODERS,
    ),
    Rule(
        "tensorrt-llm", "encoders", whole(lambda subject: subject.architecture in ENCODERS - ENCODING), T5_REASON,
        T5_NEAREST, "read: TensorRT-LLM, _torch/models, 2026",
    ),
    Rule(
        "tensorrt-llm", "drafts", drafting(), DRAFT_REASON, DRAFT_NEAREST, TENSORRT, refuses=False,
    ),
    Rule(
        "tensorrt-llm", "turned", whole(lambda subject: subject.architecture in TURNED), T5_REASON, T5_NEAREST,
        "read: TensorRT-LLM, _torch/models/_arch_index.py, 2026",
    ),
    Rule(
        "tensorrt-llm", "t5-rounded",
        whole(lambda subject: subject.architecture in RUNS and subject.container != "plain"),
        "of {architecture} it is known to run plain weights, rounded ones were not tried", "--to hf-bf16",
        ENCODER_DECODERS, refuses=False,
    ),
    Rule(
        "tensorrt-llm", "bitsandbytes", layers(BITSANDBYTES), "it does not read bitsandbytes", FP8_NEAREST,
        TENSORRT,
    ),
    Rule("tensorrt-llm", "gptq", layers(GPTQ), "it does not read GPTQ's configuration", FP8_NEAREST, TENSORRT),
    Rule("tensorrt-llm", "awq", layers(AWQ), "it does not read AWQ's configuration", FP8_NEAREST, TENSORRT),
    Rule(
        "tensorrt-llm", "integers",
        packed(),
        "of compressed-tensors it reads FP8 and four-bit floats, no packed integers",
        f"{FP8_NEAREST}, or --to mxfp4a16", TENSORRT,
    ),
    Rule(
        "tensorrt-llm", "int8",
        layers(INT8),
        "it takes 8-bit integers with rounded activations for FP8 without looking at their type", FP8_NEAREST, TENSORRT,
    ),
    Rule(
        "tensorrt-llm", "nvfp4-weights", layers(NVFP4),
        "it takes NVFP4 of compressed-tensors only with rounded activations", "--to mxfp4a16 or --to fp8", TENSORRT,
    ),
    Rule(
        "tensorrt-llm", "fp8-weights",
        fp8(lambda it: it.activations == "none"),
        "its kernels round the activations of FP8 layers, which this recipe does not", "--to fp8", TENSORRT,
    ),
    Rule(
        "tensorrt-llm", "fp8-static",
        fp8(lambda it: it.granularity != "tensor" and it.activations == "static"),
        "activations beside FP8 channels or blocks have dynamic scales",
        "--to fp8, or one scale per tensor (--to fp8-static)", TENSORRT,
    ),
    Rule(
        "tensorrt-llm", "groups",
        whole(lambda subject: subject.container == "compressed-tensors" and len(subject.layouts) > 1),
        "with several groups of layers it does not know the target Linear", "the same weights in all layers", TENSORRT,
    ),
    Rule("tensorrt-llm", "tp-heads", uncut_heads, HEADS_REASON, LOWER, "read: TensorRT-LLM, _torch/modules"),
)  # fmt: skip
