"""What vLLM refuses, and SGLang, whose loaders descend from it."""

from __future__ import annotations

from dataclasses import replace

from quantkit.consumers.finders import (
    BITSANDBYTES,
    EXPERTS,
    FLOATS,
    GPTQ,
    INT8,
    MLX,
    NATIVE_FP8,
    Finder,
    Found,
    cut,
    float_experts,
    fused,
    layers,
    uncut_heads,
    uncut_inputs,
    uncut_key_heads,
    uncut_outputs,
    unfit_for_marlin,
    unlike,
    whole,
)
from quantkit.consumers.names import unlisted
from quantkit.consumers.row import (
    COLS_REASON,
    DRAFT_NEAREST,
    DRAFT_REASON,
    ENCODERS,
    GGUF_NEAREST,
    HEAD,
    HEAD_NEAREST,
    HEADS_REASON,
    LOWER,
    MIXED,
    MIXED_NEAREST,
    MIXED_REASON,
    MLX_NEAREST,
    MLX_REASON,
    ROWS_REASON,
    T5,
    T5_NEAREST,
    T5_REASON,
    UNTRIED_NEAREST,
    UNTRIED_REASON,
    Rule,
    drafting,
    packed,
    turned,
)
from quantkit.consumers.subject import Subject
from quantkit.qtypes.schemes import TILE

VLLM = "read: vLLM, 2026"
MARLIN_GROUPS = (-1, 32, 64, 128)
MARLIN_OUTPUTS, MARLIN_INPUTS = 64, 128
GGUF_VLLM = frozenset({
    "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
    "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs",
})  # fmt: skip
# Models with mixers of Mamba 1, which are built as floats whatever the configuration says.
MAMBA_1 = frozenset({"FalconMambaForCausalLM", "JambaForCausalLM", "MambaForCausalLM"})
UNPACKED = BITSANDBYTES | FLOATS | INT8 | NATIVE_FP8  # layers whose codes are called like the weight
MIXERS = (".mixer.", ".mamba.")


def mixers(architectures: frozenset[str]) -> Finder:
    """An objection to the first rounded layer of a mixer, in models of these architectures."""

    def find(subject: Subject, tp: int) -> Found | None:
        rounded = (m for m in subject.modules if m.layout is not None and any(part in m.name for part in MIXERS))
        return next(map(Found, rounded), None) if subject.architecture in architectures else None

    return find


RULES_OF_VLLM = (
    Rule("vllm", "mlx", layers(MLX), MLX_REASON, MLX_NEAREST, f"{VLLM}, quant_method of config.json"),
    Rule(
        "vllm", "t5", whole(lambda subject: subject.architecture in T5), T5_REASON, T5_NEAREST,
        f"{VLLM}, models/registry.py; PR #24907, #31004",
    ),
    Rule(
        "vllm", "named-otherwise", unlisted(renamed=True), "it finds no class called {architecture}",
        "the name {known} for the class in config.json", f"{VLLM}, models/registry.py",
    ),
    Rule(
        "vllm", "absent", unlisted(renamed=False), "it has no model of {architecture}, or has none any more",
        GGUF_NEAREST, f"{VLLM}, models/registry.py: _PREVIOUSLY_SUPPORTED_MODELS; jina.py",
    ),
    Rule(
        "vllm", "encoders", whole(lambda subject: subject.architecture in ENCODERS and subject.container != "plain"),
        UNTRIED_REASON, UNTRIED_NEAREST, f"{VLLM}, models/registry.py, bert.py", refuses=False,
    ),
    Rule(
        "vllm", "drafts", drafting(), DRAFT_REASON, DRAFT_NEAREST,
        f"{VLLM}, models/registry.py: _SPECULATIVE_DECODING_MODELS, which has Eagle3LlamaForCausalLM, "
        "LlamaForCausalLMEagle3 and DFlashDraftModel",
        refuses=False,
    ),
    Rule(
        "vllm", "gptq-bits", layers(GPTQ, lambda it: it.bits not in (4, 8)),
        "GPTQ goes through Marlin kernels, which have 4 and 8 bits, not {bits}",
        '--to gptq-w4g128, or {bits} bits in container = "compressed-tensors"', "read: vLLM PR #38288, auto_gptq.py",
    ),
    Rule(
        "vllm", "gptq-asymmetric", layers(GPTQ, lambda it: not it.symmetric),
        "GPTQ goes through Marlin kernels, which have no zero points",
        "symmetric codes (--to gptq-w4g128, --to gptq-w8g128), or --to awq-w4g128",
        "read: vLLM PR #38288, auto_gptq.py",
    ),
    Rule(
        "vllm", "gptq-group", layers(GPTQ, lambda it: it.group not in MARLIN_GROUPS),
        "Marlin kernels have groups of 32, 64 or 128, or a scale per row, not groups of {group}",
        "--to gptq-w4g128 or --to gptq-w4g32", f"{VLLM}, marlin_utils.py, MARLIN_SUPPORTED_GROUP_SIZES",
    ),
    Rule(
        "vllm", "asymmetric-packed",
        packed(lambda it: not it.symmetric and it.bits not in (4, 8)),
        "it takes zero points only with codes of 4 or 8 bits, not {bits}", "symmetric codes",
        "read: vLLM PR #46389, compressed_tensors_wNa16.py",
    ),
    Rule(
        "vllm", "packed-group",
        packed(lambda it: it.group not in MARLIN_GROUPS and it.scale_dtype != "F16"),
        "Marlin kernels have groups of 32, 64 or 128, or a scale per row; other groups are left to the kernel of "
        "ExLlama, which computes in float16 only, and this model does not",
        "--to w4a16, whose groups are of 128, or fallback = [64, 32]", f"{VLLM}, marlin_utils.py and exllama.py",
    ),
    Rule(
        "vllm", "packed-exllama",
        packed(lambda it: it.group not in MARLIN_GROUPS and it.scale_dtype == "F16"),
        "Marlin kernels have groups of 32, 64 or 128, or a scale per row; others are left to the kernel of ExLlama",
        "--to w4a16, whose groups are of 128", f"{VLLM}, marlin_utils.py and exllama.py", refuses=False,
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
        fused(lambda group: next((m for m in group if m.traits.in_blocks and m.rows % TILE), None)),
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
        "vllm", "bitsandbytes-tp", cut(lambda m, tp: m.stored_as(BITSANDBYTES)),
        "weights that bitsandbytes has rounded are not cut for several devices", "--tp 1, or --to w4a16",
        "read: vLLM, bitsandbytes_loader.py, 2025; #13297",
    ),
    Rule(
        "vllm", "bitsandbytes-experts", float_experts,
        "with bitsandbytes it takes experts for rounded whatever the configuration says, and these are floats",
        "--to w4a16 or --to fp8", "read: vLLM, bitsandbytes.py, get_quant_method, 2026",
    ),
    Rule(
        "vllm", "turned", turned(UNPACKED),
        "it turns each matrix of {architecture} as it is loaded, one that is stored rounded, too",
        "--to gptq-w4g128 or --to w4a16", "read: vLLM, gpt2.py, load_weights, 2025",
    ),
    Rule(
        "vllm", "mamba-1", mixers(MAMBA_1),
        "it builds the mixers of {architecture} as floats, whatever the configuration says",
        "keep them as they are (--keep mixer=bf16, --keep mamba=bf16)", "read: vLLM, 2026, mamba_mixer.py",
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
        unfit_for_marlin(GPTQ, MARLIN_OUTPUTS, MARLIN_INPUTS),
        "Marlin kernels take multiples of 64 outputs and 128 inputs on each device; a layer of {rows:,} x {cols:,}, "
        "with what runs as one matrix with it, is left to slower kernels, which want float16",
        "keep the layer as it is, or --tp 1", f"{VLLM}, marlin_utils.py, verify_marlin_supports_shape", refuses=False,
    ),
)  # fmt: skip

# SGLang

SGLANG = "read: SGLang, srt/layers/quantization, 2026"
SHARED = (  # its loaders of these descend from vLLM's
    "mlx", "t5", "encoders", "drafts", "mixed", "fused", "experts", "fp8-fused-blocks", "head", "kv-cache",
    "bitsandbytes-tp", "turned", "tp-heads", "tp-key-heads", "tp-rows", "tp-cols", "gguf-type",
)  # fmt: skip
RULES_OF_SGLANG = (
    Rule(
        "sglang", "gptq-v2", layers(GPTQ, lambda it: it.format == "gptq_v2"),
        "its kernels for GPTQ read the zero points of version 1 only", "symmetric codes (--to gptq-w4g128)", SGLANG,
    ),
    Rule(
        "sglang", "packed",
        packed(lambda it: not it.symmetric or it.bits not in (4, 8) or it.group not in MARLIN_GROUPS),
        "of packed integers it takes symmetric ones of 4 or 8 bits, in groups of 32, 64 or 128 or with a scale per row",
        "--to w4a16", SGLANG,
    ),
    Rule(
        "sglang", "mamba-1", mixers(frozenset({"MambaForCausalLM"})),
        "it builds the mixers of {architecture} as floats, whatever the configuration says",
        "keep them as they are (--keep mixer=bf16)", "read: SGLang, srt/models/mamba.py, 2026",
    ),
    *(replace(rule, consumer="sglang", source=SGLANG) for rule in RULES_OF_VLLM if rule.name in SHARED),
    Rule(
        "sglang", "gptq-kernel",
        layers(
            GPTQ,
            lambda it: (
                it.bits not in (4, 8)
                or not it.symmetric
                or it.group not in MARLIN_GROUPS
            ),
        ),
        "Marlin kernels have symmetric codes of 4 and 8 bits in groups of 32, 64 or 128; others are left to kernels "
        "that want --dtype float16",
        "--to gptq-w4g128", SGLANG, refuses=False,
    ),
    Rule(
        "sglang", "bitsandbytes", layers(BITSANDBYTES),
        "it is told with --load-format bitsandbytes", "--to w4a16", SGLANG, refuses=False,
    ),
    Rule(
        "sglang", "gguf", whole(lambda subject: subject.container == "gguf"),
        "GGUF files run on GPUs only, and slower than its own formats", "a checkpoint for servers (--to w4a16)", SGLANG,
        refuses=False,
    ),
)  # fmt: skip
