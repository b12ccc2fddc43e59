"""The table: what each consumer refuses or warns of, why, what to choose instead, and where that was looked up.

"run" says that the consumer was given such a file, "read" that its source or a decision of its maintainers was read.
Reasons and alternatives may name {rows}, {cols}, {bits}, {group} of the layer, {heads}, {kv_heads}, {tp}, and
{lower}, the greatest number of devices below {tp} that the rule has nothing against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from quantkit.consumers.finders import (
    BY_INPUTS,
    BY_OUTPUTS,
    EXPERTS,
    Finder,
    cut,
    experts,
    fused,
    in_blocks,
    kept_experts,
    layers,
    shapes,
    uncut_heads,
    uncut_inputs,
    uncut_key_heads,
    uncut_outputs,
    unlike,
    whole,
)
from quantkit.formats.awq import AWQLayout
from quantkit.formats.bitsandbytes import BitsandbytesLayout
from quantkit.formats.compressed_tensors import STREAMED_BITS, Activations, CompressedLayout
from quantkit.formats.fp8 import FP8Layout
from quantkit.formats.gptq import GPTQLayout
from quantkit.qtypes.integers import Integers
from quantkit.qtypes.microscaling import MXFP4, NVFP4
from quantkit.qtypes.minifloat import TILE, Float8

CHECKED = date(2026, 11, 21)

TRANSFORMERS = "transformers 5.23.0"
COMPRESSED = f"run: {TRANSFORMERS}, compressed-tensors 0.20.0"
GPTQMODEL = f"run: {TRANSFORMERS}, optimum 2.3.0, gptqmodel 7.6.0"
CONVERTER = "run: conversion/base.py of llama.cpp, October 2026"
VLLM = "read: vLLM, 2026"
TENSORRT = "read: TensorRT-LLM, _torch/model_config.py and models/quant_config_utils.py, 2026"

GGUF_TRANSFORMERS = frozenset({
    "llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "qwen35", "qwen35moe", "gemma2", "gemma3", "gemma4", "phi3",
    "gpt-oss", "lfm2", "falcon", "bloom", "t5", "t5encoder", "stablelm", "gpt2", "starcoder2", "mamba", "nemotron",
    "deci", "minimax-m2",
})  # fmt: skip
GGUF_VLLM = frozenset({
    "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
    "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs",
})  # fmt: skip
MARLIN_GROUPS = (-1, 32, 64, 128)
MARLIN_OUTPUTS, MARLIN_INPUTS = 64, 128
NVFP4_BLOCK = 64  # weights of a block in GGUF: four groups


@dataclass(frozen=True)
class Rule:
    """One row. `finds` looks for what `consumer` refuses; where `refuses` is False it loads, and there is a catch.

    `name` is unique among the rules of a consumer.
    """

    consumer: str
    name: str
    finds: Finder
    reason: str
    nearest: str
    source: str
    refuses: bool = True
    checked_on: date = CHECKED


def packed(test: Callable[[Integers], bool]) -> Finder:
    """An objection to integers without rounded activations: pack-quantized."""
    return layers(
        CompressedLayout,
        lambda layout: isinstance(layout.scheme, Integers) and layout.activations == "none" and test(layout.scheme),
    )


def fp8(test: Callable[[Float8, Activations], bool]) -> Finder:
    """An objection to FP8 of compressed-tensors with such activations."""
    return layers(
        CompressedLayout,
        lambda layout: isinstance(layout.scheme, Float8) and test(layout.scheme, layout.activations),
    )


ZERO_IN_V1 = layers(
    GPTQLayout, lambda layout: layout.version == 1 and not layout.scheme.symmetric and layout.scheme.lowest_zero < 1
)
ZERO_REASON = "version 1 of GPTQ stores zero points less one: a zero point of 0 comes back as 2^{bits}"
ZERO_NEAREST = "zero points from 1 on, gptq_v2 (--to gptq-w4g128-asym), or symmetric codes (--to gptq-w4g128)"

MIXED = whole(lambda subject: len(subject.layouts) > 1 and subject.container != "compressed-tensors")
MIXED_REASON = "layers differ, and this container describes all of them with one set of bits and groups"
MIXED_NEAREST = 'container = "compressed-tensors", which has groups of layers'

HEAD = whole(lambda subject: subject.head_quantized and subject.container in ("gptq", "awq", "bitsandbytes"))
HEAD_NEAREST = "keep the output head as it is: --keep lm_head=bf16"

ROWS_REASON = "{rows:,} outputs cannot be cut for {tp} devices: {outputs} of them share a word or a scale"
COLS_REASON = "{cols:,} inputs cannot be cut for {tp} devices: {inputs} of them share a word or a scale"
HEADS_REASON = "{heads} heads cannot be shared by {tp} devices"
LOWER = "--tp {lower}"

# transformers

RULES_OF_TRANSFORMERS = (
    Rule(
        "transformers", "asymmetric-packed",
        packed(lambda scheme: not scheme.symmetric),
        "its loader expects zero points unpacked and stops at their shape, unless the user passes "
        "CompressedTensorsConfig(dequantize=True)",
        "symmetric codes (--to w4a16)", f"{COMPRESSED}; llm-compressor #1618, transformers PR #47430",
    ),
    Rule("transformers", "gptq-zero", ZERO_IN_V1, ZERO_REASON, ZERO_NEAREST, GPTQMODEL),
    Rule(
        "transformers", "mixed", MIXED, MIXED_REASON, MIXED_NEAREST,
        f"read: {TRANSFORMERS}, GPTQConfig drops `dynamic` without a word",
    ),
    Rule(
        "transformers", "head", HEAD, "its output head is never replaced by a quantized layer", HEAD_NEAREST,
        f"read: {TRANSFORMERS}, quantizers/base.py, get_keys_to_not_convert; optimum 2.3.0",
    ),
    Rule(
        "transformers", "fp8-ragged",
        shapes(lambda m, tp: isinstance(m.layout, FP8Layout) and any(n > TILE and n % TILE for n in (m.rows, m.cols))),
        "a weight of {rows:,} x {cols:,} is no whole number of blocks of 128: sizes of blocks are guessed from the "
        "scales, and values come out wrong without a word",
        "one scale per channel (--to fp8)", f"run: {TRANSFORMERS}",
    ),
    Rule(
        "transformers", "fp8-block-inputs",
        shapes(lambda m, tp: isinstance(m.layout, CompressedLayout) and in_blocks(m.layout) and m.cols % TILE > 0),
        "activations of FP8 blocks come in groups of 128, which {cols:,} inputs are not", "--to fp8", COMPRESSED,
    ),
    Rule(
        "transformers", "experts",
        experts(lambda layout: isinstance(layout, GPTQLayout | AWQLayout | BitsandbytesLayout)),
        "it holds all experts of a block in one tensor, which the loader of {container} does not fill: experts keep "
        "random weights, or it stops",
        "--to w4a16, --to mxfp4a16 or --to fp8, or keep experts as they are (--keep experts=bf16)",
        f"{GPTQMODEL}; bitsandbytes 0.50.2",
    ),
    Rule(
        "transformers", "experts-unlike",
        fused(lambda group: unlike(group) if EXPERTS in group[0].name else None),
        "it holds all experts of a block in one tensor: all of them must be stored alike", "one rule for all experts",
        f"read: {TRANSFORMERS}, core_model_loading.py",
    ),
    Rule(
        "transformers", "experts-kept", kept_experts,
        "experts that stay as they are beside layers that are not FP8 are taken for rounded ones, and it stops",
        "--to fp8, or the same weights in all layers", COMPRESSED,
    ),
    Rule(
        "transformers", "experts-int8",
        experts(lambda layout: isinstance(layout, CompressedLayout) and layout.format == "int-quantized"),
        "it holds all experts of a block in one tensor, and stops where it should decode INT8 into that",
        "--to w8a16 or --to fp8", COMPRESSED,
    ),
    Rule(
        "transformers", "experts-blocks",
        experts(lambda layout: isinstance(layout, CompressedLayout) and in_blocks(layout)),
        "it holds all experts of a block in one tensor, and stops where it should decode FP8 blocks of "
        "compressed-tensors into that",
        "--to fp8-native or --to fp8", COMPRESSED,
    ),
    Rule(
        "transformers", "experts-nvfp4",
        experts(lambda layout: isinstance(layout, CompressedLayout) and isinstance(layout.scheme, NVFP4)),
        "it holds all experts of a block in one tensor, and decodes NVFP4 into that without the factor of each weight: "
        "values come out wrong without a word",
        "--to mxfp4a16 or --to w4a16", COMPRESSED,
    ),
    Rule(
        "transformers", "experts-decoded", experts(lambda layout: isinstance(layout, CompressedLayout)),
        "experts are decoded as they are loaded, and take the memory of floats; their inputs are not rounded",
        "--to fp8-native", COMPRESSED, refuses=False,
    ),
    Rule(
        "transformers", "kv-cache",
        whole(lambda subject: subject.kv_cache and subject.container != "compressed-tensors"),
        "only compressed-tensors announces scales of keys and values", "--to fp8-kv", COMPRESSED,
    ),
    Rule(
        "transformers", "gguf-architecture",
        whole(lambda subject: subject.container == "gguf" and subject.architecture not in GGUF_TRANSFORMERS),
        'it does not read GGUF files of architecture "{architecture}"', "a checkpoint for servers (--to w4a16)",
        f"read: {TRANSFORMERS}, modeling_gguf_pytorch_utils.py",
    ),
    Rule(
        "transformers", "gguf-decoded", whole(lambda subject: subject.container == "gguf"),
        "GGUF files are decoded into memory as a whole", "a checkpoint for servers (--to w4a16)",
        f"read: {TRANSFORMERS}, modeling_gguf_pytorch_utils.py", refuses=False,
    ),
)  # fmt: skip

# vLLM

RULES_OF_VLLM = (
    Rule(
        "vllm", "gptq-bits", layers(GPTQLayout, lambda layout: layout.scheme.bits not in (4, 8)),
        "GPTQ goes through Marlin kernels, which have 4 and 8 bits, not {bits}",
        '--to gptq-w4g128, or {bits} bits in container = "compressed-tensors"', "read: vLLM PR #38288, auto_gptq.py",
    ),
    Rule(
        "vllm", "gptq-asymmetric", layers(GPTQLayout, lambda layout: not layout.scheme.symmetric),
        "GPTQ goes through Marlin kernels, which have no zero points",
        "symmetric codes (--to gptq-w4g128, --to gptq-w8g128), or --to awq-w4g128",
        "read: vLLM PR #38288, auto_gptq.py",
    ),
    Rule(
        "vllm", "gptq-group", layers(GPTQLayout, lambda layout: layout.scheme.group not in MARLIN_GROUPS),
        "Marlin kernels have groups of 32, 64 or 128, or a scale per row, not groups of {group}",
        "--to gptq-w4g128 or --to gptq-w4g32", f"{VLLM}, marlin_utils.py, MARLIN_SUPPORTED_GROUP_SIZES",
    ),
    Rule(
        "vllm", "asymmetric-packed",
        packed(lambda scheme: not scheme.symmetric and scheme.bits not in (4, 8)),
        "it takes zero points only with codes of 4 or 8 bits, not {bits}", "symmetric codes",
        "read: vLLM PR #46389, compressed_tensors_wNa16.py",
    ),
    Rule("vllm", "mixed", MIXED, MIXED_REASON, MIXED_NEAREST, f"{VLLM}; GPTQModel #1485, vLLM #15665"),
    Rule(
        "vllm", "fused", fused(lambda group: None if EXPERTS in group[0].name else unlike(group)),
        "q, k and v, and gate and up, run as one matrix: all of them must be stored alike",
        "one rule for all of a group (roles attn_q, attn_k, attn_v; ffn_gate, ffn_up)",
        f"{VLLM}, find_matched_target and should_ignore_layer of compressed_tensors/utils.py",
    ),
    Rule(
        "vllm", "experts", fused(lambda group: unlike(group) if EXPERTS in group[0].name else None),
        "all experts of a block run as one layer: all of them must be stored alike", "one rule for all experts",
        f"{VLLM}, one quantization method for each FusedMoE",
    ),
    Rule(
        "vllm", "fp8-fused-blocks",
        fused(lambda group: next((m for m in group if in_blocks(m.layout) and m.rows % TILE), None)),
        "it runs with its siblings as one matrix, whose parts must be whole blocks of 128; {rows:,} outputs are not",
        "one scale per channel (--to fp8)", f"{VLLM}, validate_fp8_block_shape",
    ),
    Rule(
        "vllm", "head", HEAD, "these configurations say that the output head is not quantized", HEAD_NEAREST,
        f"{VLLM}, auto_gptq.py and auto_awq.py: `lm_head`",
    ),
    Rule(
        "vllm", "kv-cache",
        whole(lambda subject: subject.kv_cache and subject.container not in ("compressed-tensors", "fp8")),
        "only FP8 and compressed-tensors announce scales of keys and values", "--to fp8-kv",
        f"{VLLM}, BaseKVCacheMethod",
    ),
    Rule(
        "vllm", "bitsandbytes-tp", cut(lambda m, tp: isinstance(m.layout, BitsandbytesLayout)),
        "weights that bitsandbytes has rounded are not cut for several devices", "--tp 1, or --to w4a16",
        "read: vLLM, bitsandbytes_loader.py, 2025; #13297",
    ),
    Rule("vllm", "tp-heads", uncut_heads, HEADS_REASON, LOWER, f"{VLLM}, verify_with_parallel_config"),
    Rule(
        "vllm", "tp-key-heads", uncut_key_heads,
        "{kv_heads} heads of keys and values can neither be shared by {tp} devices nor copied to as many of each",
        LOWER, f"{VLLM}, QKVParallelLinear",
    ),
    Rule("vllm", "tp-rows", cut(uncut_outputs), ROWS_REASON, LOWER, f"{VLLM}, parameter.py, validate_fp8_block_shape"),
    Rule("vllm", "tp-cols", cut(uncut_inputs), COLS_REASON, LOWER, f"{VLLM}, verify_group_size_divides_partition"),
    Rule(
        "vllm", "gguf-type",
        whole(lambda subject: subject.container == "gguf" and not GGUF_VLLM.issuperset(subject.file_types)),
        "its GGUF kernels lack a type of this file: {file_types}", "--to q4_k_m",
        "read: gguf.py of vLLM, later of vllm-gguf-plugin",
    ),
    Rule(
        "vllm", "gguf-plugin", whole(lambda subject: subject.container == "gguf"),
        "GGUF files need vllm-gguf-plugin, which is experimental and runs on GPUs only",
        "a checkpoint for servers (--to w4a16)", "read: documentation of vLLM, features/quantization/gguf",
        refuses=False,
    ),
    Rule(
        "vllm", "marlin-shape",
        shapes(
            lambda m, tp: isinstance(m.layout, GPTQLayout)
            and (
                m.rows // (tp if m.role in BY_OUTPUTS else 1) % MARLIN_OUTPUTS > 0
                or m.cols // (tp if m.role in BY_INPUTS else 1) % MARLIN_INPUTS > 0
            )
        ),
        "Marlin kernels take multiples of 64 outputs and 128 inputs on each device; a layer of {rows:,} x {cols:,} "
        "is left to slower kernels, which want float16",
        "keep the layer as it is, or --tp 1", f"{VLLM}, marlin_utils.py, verify_marlin_supports_shape", refuses=False,
    ),
)  # fmt: skip

# llama.cpp

GGUF_NEAREST = "a GGUF file of its own (--to q4_k_m)"
RULES_OF_LLAMA_CPP = (
    Rule("llama.cpp", "awq", layers(AWQLayout), "its converter does not read AWQ", GGUF_NEAREST, CONVERTER),
    Rule(
        "llama.cpp", "bitsandbytes", layers(BitsandbytesLayout), "its converter does not read bitsandbytes",
        GGUF_NEAREST, CONVERTER,
    ),
    Rule(
        "llama.cpp", "gptq-bits", layers(GPTQLayout, lambda layout: layout.scheme.bits == 3),
        "its converter does not read GPTQ of 3 bits", "4 bits (--to gptq-w4g128), or --to q3_k_m", CONVERTER,
    ),
    Rule("llama.cpp", "gptq-zero", ZERO_IN_V1, ZERO_REASON, ZERO_NEAREST, CONVERTER),
    Rule("llama.cpp", "mixed", MIXED, MIXED_REASON, GGUF_NEAREST, CONVERTER),
    Rule(
        "llama.cpp", "packed-bits",
        packed(lambda scheme: scheme.bits in STREAMED_BITS),
        "its converter reads codes of {bits} bits as they were stored before compressed-tensors 0.18",
        "2, 4 or 8 bits (--to w4a16), or a GGUF file (--to q6_k)", CONVERTER,
    ),
    Rule(
        "llama.cpp", "packed-row",
        packed(lambda scheme: scheme.group == -1),
        "its converter reads packed integers only in groups", "groups, for example of 128 (--to w4a16)", CONVERTER,
    ),
    Rule(
        "llama.cpp", "fp8-tensor",
        fp8(lambda scheme, activations: scheme.strategy == "tensor"),
        "its converter reads FP8 with a scale per channel or block, not per tensor", "--to fp8", CONVERTER,
    ),
    Rule(
        "llama.cpp", "static", layers(CompressedLayout, lambda layout: layout.activations == "static"),
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
        "llama.cpp", "mxfp4", layers(CompressedLayout, lambda layout: isinstance(layout.scheme, MXFP4)),
        "its converter reads no MXFP4 of compressed-tensors", "--to nvfp4a16, or a GGUF file (--to q4_k_m)", CONVERTER,
    ),
    Rule(
        "llama.cpp", "nvfp4-inputs",
        shapes(
            lambda m, tp: isinstance(m.layout, CompressedLayout)
            and isinstance(m.layout.scheme, NVFP4)
            and m.cols % NVFP4_BLOCK > 0
        ),
        "NVFP4 of GGUF has blocks of 64 weights, which rows of {cols:,} are not", "keep the layer as it is", CONVERTER,
    ),
)  # fmt: skip

# TensorRT-LLM

FP8_NEAREST = "--to fp8, --to fp8-block or --to fp8-native"
RULES_OF_TENSORRT = (
    Rule(
        "tensorrt-llm", "gguf", whole(lambda subject: subject.container == "gguf"), "it does not read GGUF files",
        FP8_NEAREST, TENSORRT,
    ),
    Rule(
        "tensorrt-llm", "bitsandbytes", layers(BitsandbytesLayout), "it does not read bitsandbytes", FP8_NEAREST,
        TENSORRT,
    ),
    Rule("tensorrt-llm", "gptq", layers(GPTQLayout), "it does not read GPTQ's configuration", FP8_NEAREST, TENSORRT),
    Rule("tensorrt-llm", "awq", layers(AWQLayout), "it does not read AWQ's configuration", FP8_NEAREST, TENSORRT),
    Rule(
        "tensorrt-llm", "integers",
        packed(lambda scheme: True),
        "of compressed-tensors it reads FP8 and four-bit floats, no packed integers",
        f"{FP8_NEAREST}, or --to mxfp4a16", TENSORRT,
    ),
    Rule(
        "tensorrt-llm", "int8",
        layers(CompressedLayout, lambda layout: isinstance(layout.scheme, Integers) and layout.activations != "none"),
        "it takes 8-bit integers with rounded activations for FP8 without looking at their type", FP8_NEAREST, TENSORRT,
    ),
    Rule(
        "tensorrt-llm", "nvfp4-weights", layers(CompressedLayout, lambda layout: isinstance(layout.scheme, NVFP4)),
        "it takes NVFP4 of compressed-tensors only with rounded activations", "--to mxfp4a16 or --to fp8", TENSORRT,
    ),
    Rule(
        "tensorrt-llm", "fp8-weights",
        fp8(lambda scheme, activations: activations == "none"),
        "its kernels round the activations of FP8 layers, which this recipe does not", "--to fp8", TENSORRT,
    ),
    Rule(
        "tensorrt-llm", "fp8-static",
        fp8(lambda scheme, activations: scheme.strategy != "tensor" and activations == "static"),
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

RULES = (*RULES_OF_TRANSFORMERS, *RULES_OF_VLLM, *RULES_OF_LLAMA_CPP, *RULES_OF_TENSORRT)
