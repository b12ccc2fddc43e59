"""What the programs around llama.cpp refuse: its converter."""

from __future__ import annotations

from quantkit.consumers.finders import (
    AWQ,
    BITSANDBYTES,
    COMPRESSED,
    GPTQ,
    MLX,
    MXFP4,
    NATIVE_FP8,
    NVFP4,
    layers,
    shapes,
    whole,
)
from quantkit.consumers.row import MIXED, MIXED_REASON, ZERO_IN_V1, ZERO_NEAREST, ZERO_REASON, Rule, fp8, packed, turned
from quantkit.formats.containers.packed import STREAMED_BITS

CONVERTER = "run: conversion/base.py of llama.cpp, October 2026"
NVFP4_BLOCK = 64  # weights of a block in GGUF: four groups
GGUF_NEAREST = "a GGUF file of its own (--to q4_k_m)"
RULES_OF_LLAMA_CPP = (
    Rule("llama.cpp", "mlx", layers(MLX), "its converter does not read checkpoints of MLX", GGUF_NEAREST, CONVERTER),
    Rule("llama.cpp", "awq", layers(AWQ), "its converter does not read AWQ", GGUF_NEAREST, CONVERTER),
    Rule(
        "llama.cpp", "bitsandbytes", layers(BITSANDBYTES), "its converter does not read bitsandbytes",
        GGUF_NEAREST, CONVERTER,
    ),
    Rule(
        "llama.cpp", "turned", turned(GPTQ | COMPRESSED | NATIVE_FP8),
        "its converter turns each matrix of {architecture}, one that was stored rounded, too", GGUF_NEAREST, CONVERTER,
    ),
    Rule(
        "llama.cpp", "gptq-bits", layers(GPTQ, lambda it: it.bits == 3),
        "its converter does not read GPTQ of 3 bits", "4 bits (--to gptq-w4g128), or --to q3_k_m", CONVERTER,
    ),
    Rule("llama.cpp", "gptq-zero", ZERO_IN_V1, ZERO_REASON, ZERO_NEAREST, CONVERTER),
    Rule("llama.cpp", "mixed", MIXED, MIXED_REASON, GGUF_NEAREST, CONVERTER),
    Rule(
        "llama.cpp", "packed-bits",
        packed(lambda it: it.bits in STREAMED_BITS),
        "its converter reads codes of {bits} bits as they were stored before compressed-tensors 0.18",
        "2, 4 or 8 bits (--to w4a16), or a GGUF file (--to q6_k)", CONVERTER,
    ),
    Rule(
        "llama.cpp", "packed-row",
        packed(lambda it: it.group == -1),
        "its converter reads packed integers only in groups", "groups, for example of 128 (--to w4a16)", CONVERTER,
    ),
    Rule(
        "llama.cpp", "fp8-tensor",
        fp8(lambda it: it.granularity == "tensor"),
        "its converter reads FP8 with a scale per channel or block, not per tensor", "--to fp8", CONVERTER,
    ),
    Rule(
        "llama.cpp", "static", layers(COMPRESSED, lambda it: it.activations == "static"),
        "its converter stops at stored scales of activations", "dynamic activations (--to fp8, --to w8a8)", CONVERTER,
    ),
    Rule(
        "llama.cpp", "kv-cache", whole(lambda subject: subject.kv_cache and subject.container != "gguf"),
        "its converter stops at scales of keys and values", "the same recipe without kv_cache", CONVERTER,
    ),
    Rule(
        "llama.cpp", "groups",
        whole(lambda subject: subject.container == "compressed-tensors" and len(subject.layouts) > 1),
        "its converter reads one group of layers", "the same weights in all layers, or a GGUF file (--to q4_k_m)",
        CONVERTER,
    ),
    Rule(
        "llama.cpp", "mxfp4", layers(MXFP4),
        "its converter reads no MXFP4 of compressed-tensors", "--to nvfp4a16, or a GGUF file (--to q4_k_m)", CONVERTER,
    ),
    Rule(
        "llama.cpp", "nvfp4-inputs",
        shapes(lambda m, tp: m.stored_as(NVFP4) and m.cols % NVFP4_BLOCK > 0),
        "NVFP4 of GGUF has blocks of 64 weights, which rows of {cols:,} are not", "keep the layer as it is", CONVERTER,
    ),
)  # fmt: skip
