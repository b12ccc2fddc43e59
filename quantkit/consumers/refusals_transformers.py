"""What transformers refuses, and where it loads with a catch."""

from __future__ import annotations

from collections.abc import Mapping

from quantkit.consumers.finders import (
    AWQ,
    BITSANDBYTES,
    COMPRESSED,
    EXPERTS,
    FLOATS,
    GPTQ,
    INT8,
    MLX,
    MXFP4,
    NATIVE_FP8,
    NVFP4,
    PACKED,
    Found,
    experts,
    fused,
    gates,
    kept_experts,
    layers,
    shapes,
    unlike,
    unlike_experts,
    whole,
)
from quantkit.consumers.names import unopened
from quantkit.consumers.row import (
    DRAFT_NEAREST,
    GGUF_NEAREST,
    HEAD,
    HEAD_NEAREST,
    MIXED,
    MIXED_NEAREST,
    MIXED_REASON,
    MLX_NEAREST,
    MLX_REASON,
    T5,
    ZERO_IN_V1,
    ZERO_NEAREST,
    ZERO_REASON,
    Rule,
    drafting,
    packed,
    turned,
)
from quantkit.consumers.subject import Module, Subject
from quantkit.qtypes.schemes import TILE

TRANSFORMERS = "transformers 5.23.0"
ELSEWHERE = "another program (--for vllm)"
ABSENT_REASON = "it makes no {architecture} of the model type {model_type}"
LOADED = f"run: {TRANSFORMERS}, compressed-tensors 0.20.0"
GPTQMODEL = f"run: {TRANSFORMERS}, optimum 2.3.0, gptqmodel 7.6.0"
AWQ_GROUPS = (32, 64, 128)
ATEN_GROUPS = (32, 64, 128, 256)  # of the kernel that PyTorch has for 4 bits on CPUs
GPTQ_GROUPS = (-1, 16, 32, 64, 128, 256, 512, 1024)
FACTORED = "nvfp4"  # a type of GGUF whose factors are tensors of their own
UNKNOWN_TO_GGUF = frozenset({"q1_0", "q2_0"})
GGUF_TRANSFORMERS = frozenset({
    "llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "qwen35", "qwen35moe", "gemma2", "gemma3", "gemma4", "phi3",
    "gpt-oss", "lfm2", "falcon", "bloom", "t5", "t5encoder", "stablelm", "gpt2", "starcoder2", "mamba", "nemotron",
    "deci", "minimax-m2",
})  # fmt: skip

# Classes that know experts by their stack alone -> the formats whose loaders do not take it apart, either.
ONLY_STACKED: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        ("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration", "GraniteMoeSWAForCausalLM", "HYV4ForCausalLM",
         "Qwen3VLMoeForConditionalGeneration"),
        COMPRESSED | NATIVE_FP8,
    ),
    **dict.fromkeys(("Llama4ForCausalLM", "Llama4ForConditionalGeneration"), NATIVE_FP8),
}  # fmt: skip
# Classes that have in one tensor what files have in several: convolutions, or shards of a table.
JOINING = frozenset({
    "BailingHybridForCausalLM", "BailingMoeV3ForCausalLM", "Glm5NextForConditionalGeneration", "KimiLinearForCausalLM",
    "Qwen4ExpForCausalLM", "Qwen4ExpForConditionalGeneration",
})  # fmt: skip
# Classes that join gate and up into one matrix as they are loaded.
GATES_JOINED = frozenset({"MiniMaxM3SparseForCausalLM", "MiniMaxM3SparseForConditionalGeneration"})
# Classes that take joined matrices apart as they are loaded, of an encoder of images, too.
TAKING_APART = frozenset({
    "HrmTextForCausalLM", "UnlimitedOCRForCausalLM", "UnlimitedOcrForConditionalGeneration",
})  # fmt: skip
CPU_ROWS, CPU_COLS = 32, 64  # of which bitsandbytes' kernels for 4 bits on CPUs want multiples
NOT_JOINED = PACKED | BITSANDBYTES | GPTQ | AWQ
# Classes that initialize weights of linears by their names before anything is loaded -> what those names end in.
INITIALIZING = {
    "FalconForCausalLM": "", "FalconMambaForCausalLM": "out_proj", "GPTBigCodeForCausalLM": "c_proj",
    "Mamba2ForCausalLM": "out_proj", "MambaForCausalLM": "out_proj", "ModernBertModel": "", "ModernBertForMaskedLM": "",
    "ModernBertForSequenceClassification": "",
}  # fmt: skip
# Classes without a forward pass, whose thinker is run by `generate`.
THINKING = frozenset({
    "Qwen2_5OmniForConditionalGeneration", "Qwen2_5OmniModel", "Qwen3OmniMoeForConditionalGeneration",
})  # fmt: skip
PUBLISHED_ASR = "Qwen3ASRForConditionalGeneration", "thinker."  # and how its published names begin
ASSISTANTS = frozenset({"Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM"})
TYPES_OF_DRAFTS = frozenset({"gemma4_assistant", "gemma4_unified_assistant", "muse_glimmer_assistant"})
WITHOUT_WEIGHT = PACKED | MXFP4 | NVFP4 | GPTQ | AWQ  # layers that have codes under another name


def initialized(subject: Subject, tp: int) -> Found | None:
    """An objection to a packed layer whose weight the class asks for."""
    end = INITIALIZING.get(subject.architecture)
    found = (m for m in subject.modules if m.stored_as(WITHOUT_WEIGHT))
    return None if end is None else next((Found(m) for m in found if m.name.endswith(end)), None)


def published_asr(subject: Subject, tp: int) -> Found | None:
    """An objection to a layer under the name that the class was published with, not that it is saved with."""
    architecture, start = PUBLISHED_ASR
    found = subject.modules if subject.architecture == architecture else ()
    return next((Found(m) for m in found if m.name.startswith(start)), None)


def ragged(module: Module) -> bool:
    """Whether a matrix is of another shape than bitsandbytes' kernels for 4 bits on CPUs take."""
    return module.rows % CPU_ROWS > 0 or module.cols % CPU_COLS > 0


RULES_OF_TRANSFORMERS = (
    Rule("transformers", "mlx", layers(MLX), MLX_REASON, MLX_NEAREST, f"run: {TRANSFORMERS}"),
    Rule(
        "transformers", "asymmetric-packed",
        packed(lambda it: not it.symmetric),
        "its loader expects zero points unpacked and stops at their shape, unless the user passes "
        "CompressedTensorsConfig(dequantize=True)",
        "symmetric codes (--to w4a16)", f"{LOADED}; llm-compressor #1618, transformers PR #47430",
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
        shapes(lambda m, tp: m.stored_as(NATIVE_FP8) and any(n > TILE and n % TILE for n in (m.rows, m.cols))),
        "a weight of {rows:,} x {cols:,} is no whole number of blocks of 128: sizes of blocks are guessed from the "
        "scales, and values come out wrong without a word",
        "one scale per channel (--to fp8)", f"run: {TRANSFORMERS}",
    ),
    Rule(
        "transformers", "fp8-block-inputs",
        shapes(lambda m, tp: m.stored_as(COMPRESSED) and m.traits.in_blocks and m.cols % TILE > 0),
        "activations of FP8 blocks come in groups of 128, which {cols:,} inputs are not", "--to fp8", LOADED,
    ),
    Rule(
        "transformers", "experts",
        experts(GPTQ | AWQ | BITSANDBYTES),
        "it holds all experts of a block in one tensor, which the loader of {container} does not fill: experts keep "
        "random weights, or it stops",
        "--to w4a16, --to mxfp4a16 or --to fp8, or keep experts as they are (--keep experts=bf16)",
        f"{GPTQMODEL}; bitsandbytes 0.50.2",
    ),
    Rule(
        "transformers", "experts-named",
        lambda subject, tp: experts(ONLY_STACKED.get(subject.architecture, frozenset()))(subject, tp),
        "it knows the experts of {architecture} by their stack alone, and leaves random weights where they come one by "
        "one, as other servers want them",
        "--keep experts=bf16", LOADED,
    ),
    Rule(
        "transformers", "falcon-4-bit",
        lambda subject, tp: (
            layers(BITSANDBYTES | GPTQ)(subject, tp) if subject.architecture == "FalconForCausalLM" else None
        ),
        "{architecture} has linears of a class of its own, which the loader of {container} does not replace",
        "--to fp8", f"run: {TRANSFORMERS}, bitsandbytes 0.50.2, optimum 2.3.0, gptqmodel 7.6.0",
    ),
    Rule(
        "transformers", "turned", turned(COMPRESSED | AWQ | NATIVE_FP8),
        "{architecture} multiplies by modules of its own, in whose place the loader of {container} puts no rounded "
        "layers: matrices stay as they were made, or it stops",
        "--to nf4 or --to int8", f"{GPTQMODEL}, compressed-tensors 0.20.0",
    ),
    Rule(
        "transformers", "turned-initialized", turned(GPTQ, "c_proj"),
        "{architecture} initializes a weight that packed layers do not have, and stops",
        "--to nf4 or --to int8, or keep such layers as they are (--keep c_proj=bf16)", GPTQMODEL,
    ),
    Rule(
        "transformers", "initialized", initialized,
        "{architecture} initializes weights that packed layers do not have, and stops",
        "--to fp8, or keep such layers as they are (--keep out_proj=bf16)", f"{LOADED}, optimum 2.3.0, gptqmodel 7.6.0",
    ),
    Rule(
        "transformers", "joined",
        lambda subject, tp: layers(COMPRESSED - FLOATS)(subject, tp) if subject.architecture in JOINING else None,
        "beside such layers it looks for packed pieces alone where it joins tensors of {architecture}, and stops",
        "--to fp8 or --to fp8-native", LOADED,
    ),
    Rule(
        "transformers", "assistants", whole(lambda subject: subject.architecture in ASSISTANTS),
        "releases before 5.24.0 make no {architecture}", "a newer release of transformers",
        f"run: {TRANSFORMERS}; read: transformers 5.24.0, configuration_gemma4.py, kv_sharing_modes", refuses=False,
    ),
    Rule(
        "transformers", "t5-packed",
        lambda subject, tp: layers(WITHOUT_WEIGHT)(subject, tp) if subject.architecture in T5 else None,
        "it stops at packed layers of {architecture}, whose weights it initializes before anything is loaded",
        "--to nf4, --to int8, --to w8a8 or --to fp8", GPTQMODEL,
    ),
    Rule(
        "transformers", "thinker",
        lambda subject, tp: layers(COMPRESSED)(subject, tp) if subject.architecture in THINKING else None,
        "it decodes layers at the first pass of a whole model, and {architecture} has none: its thinker stops at them",
        "--to nf4, --to int8 or --to fp8-native", LOADED,
    ),
    Rule(
        "transformers", "thinker-blocks",
        lambda subject, tp: layers(GPTQ)(subject, tp) if subject.architecture in THINKING else None,
        "its loader of {container} finds no blocks in the thinker of {architecture}, and stops",
        "--to nf4, --to int8 or --to fp8-native", GPTQMODEL,
    ),
    Rule(
        "transformers", "taken-apart",
        lambda subject, tp: layers(NATIVE_FP8)(subject, tp) if subject.architecture in TAKING_APART else None,
        "it takes matrices of {architecture} apart as they are loaded, not what native FP8 has beside them, and stops",
        "--to fp8", f"run: {TRANSFORMERS}",
    ),
    Rule(
        "transformers", "4-bit-on-cpus",
        shapes(lambda m, tp: m.stored_as(BITSANDBYTES) and m.traits.bits == 4 and ragged(m)),
        "on CPUs bitsandbytes decodes rows of {cols:,} weights, no multiple of 64, to other values without a word, or "
        "stops at {rows:,} outputs, no multiple of 32",
        "a GPU, --to int8, or keep such layers as they are (--keep)", f"run: {TRANSFORMERS}, bitsandbytes 0.50.2",
        refuses=False,
    ),
    Rule(
        "transformers", "8-bit-on-cpus",
        shapes(lambda m, tp: m.stored_as(BITSANDBYTES) and m.traits.bits == 8 and m.name.endswith(".kv_b_proj")),
        "on CPUs bitsandbytes stops at kv_b_proj, whose inputs have an axis more than it takes", "a GPU, or --to w8a16",
        f"run: {TRANSFORMERS}, bitsandbytes 0.50.2", refuses=False,
    ),
    Rule(
        "transformers", "absent", unopened(by_vllm=True), ABSENT_REASON, ELSEWHERE, f"run: {TRANSFORMERS}",
    ),
    Rule(
        "transformers", "absent-in-both", unopened(by_vllm=False), ABSENT_REASON, GGUF_NEAREST, f"run: {TRANSFORMERS}",
    ),
    Rule(
        "transformers", "drafts", drafting(lambda subject: subject.model_type not in TYPES_OF_DRAFTS),
        "it makes drafts of a few model types alone, and of the type {model_type} a whole model, with random weights "
        "where a draft has its own, or stops",
        DRAFT_NEAREST, "run: transformers 5.24.0, drafts of the types llama and qwen3",
    ),
    Rule(
        "transformers", "thinker-names", published_asr,
        "it knows {architecture} as it saves it: what is published in a thinker it does not find, in config.json "
        "neither, and makes another model with random weights",
        ELSEWHERE, f"run: {TRANSFORMERS}",
    ),
    Rule(
        "transformers", "gates-joined",
        lambda subject, tp: gates(NOT_JOINED)(subject, tp) if subject.architecture in GATES_JOINED else None,
        "it joins gate and up of {architecture} as they are loaded, not what packed layers have beside their weights, "
        "and stops",
        "--to fp8 or --to mxfp4a16", f"{LOADED}; bitsandbytes 0.50.2",
    ),
    Rule(
        "transformers", "experts-unlike",
        fused(lambda group: unlike(group) if EXPERTS in group[0].name else None),
        "it holds all experts of a block in one tensor: all of them must be stored alike", "one rule for all experts",
        f"read: {TRANSFORMERS}, core_model_loading.py",
    ),
    Rule(
        "transformers", "experts-of-groups", unlike_experts,
        "it decodes all experts by one group of config.json, whatever theirs is, and stops or takes wrong scales",
        "one group size that divides the rows of all experts (a recipe of your own)", LOADED,
    ),
    Rule(
        "transformers", "experts-kept", kept_experts,
        "experts that stay as they are beside layers that are not FP8 are taken for rounded ones, and it stops",
        "--to fp8, or the same weights in all layers", LOADED,
    ),
    Rule(
        "transformers", "experts-int8",
        experts(INT8),
        "it holds all experts of a block in one tensor, and stops where it should decode INT8 into that",
        "--to w8a16 or --to fp8", LOADED,
    ),
    Rule(
        "transformers", "experts-blocks",
        experts(FLOATS, lambda it: it.in_blocks),
        "it holds all experts of a block in one tensor, and stops where it should decode FP8 blocks of "
        "compressed-tensors into that",
        "--to fp8-native or --to fp8", LOADED,
    ),
    Rule(
        "transformers", "experts-nvfp4",
        experts(NVFP4),
        "it holds all experts of a block in one tensor, and decodes NVFP4 into that without the factor of each weight: "
        "values come out wrong without a word",
        "--to mxfp4a16 or --to w4a16", LOADED,
    ),
    Rule(
        "transformers", "experts-decoded", experts(COMPRESSED),
        "experts are decoded as they are loaded, and take the memory of floats; their inputs are not rounded",
        "--to fp8-native", LOADED, refuses=False,
    ),
    Rule(
        "transformers", "awq-group", layers(AWQ, lambda it: it.group not in AWQ_GROUPS),
        "its kernels for AWQ on CPUs have groups of 32, 64 or 128, not {groups}", "group = {group_to_128}", GPTQMODEL,
    ),
    Rule(
        "transformers", "gptq-group", layers(GPTQ, lambda it: it.group not in GPTQ_GROUPS),
        "its kernels for GPTQ have groups of 16 to 1,024 in powers of two, or a scale per row, not {groups}",
        "group = {group_to_1024}", GPTQMODEL,
    ),
    Rule(
        "transformers", "gptq-cpu",
        shapes(
            lambda m, tp: m.stored_as(GPTQ)
            and m.traits.bits == 4
            and m.traits.group in (-1, 16)
            and (m.cols if m.traits.group == -1 else 16) not in ATEN_GROUPS
        ),
        "its kernel for 4 bits on CPUs has groups of 32 to 256, and stops at the first token of {groups}",
        "group = {group_to_128}", GPTQMODEL,
    ),
    Rule(
        "transformers", "kv-cache",
        whole(lambda subject: subject.kv_cache and subject.container != "compressed-tensors"),
        "only compressed-tensors announces scales of keys and values", "--to fp8-kv", LOADED,
    ),
    Rule(
        "transformers", "gguf-architecture",
        whole(lambda subject: subject.container == "gguf" and subject.architecture not in GGUF_TRANSFORMERS),
        'it does not read GGUF files of architecture "{architecture}"', "a checkpoint for servers (--to w4a16)",
        f"read: {TRANSFORMERS}, modeling_gguf_pytorch_utils.py",
    ),
    Rule(
        "transformers", "gguf-type",
        whole(lambda subject: subject.container == "gguf" and not UNKNOWN_TO_GGUF.isdisjoint(subject.file_types)),
        "it reads GGUF files with the gguf package, which does not decode a type of this file: {file_types}",
        "--to tq2_0, or --to q4_k_m", "run: gguf 0.19.0",
    ),
    Rule(
        "transformers", "gguf-factors", whole(lambda subject: FACTORED in subject.file_types),
        "it skips the factors that GGUF files have beside NVFP4: values come out wrong without a word",
        "--to bf16 --allow-requantize", f"read: {TRANSFORMERS}, modeling_gguf_pytorch_utils.py",
    ),
    Rule(
        "transformers", "gguf-decoded", whole(lambda subject: subject.container == "gguf"),
        "GGUF files are decoded into memory as a whole", "a checkpoint for servers (--to w4a16)",
        f"read: {TRANSFORMERS}, modeling_gguf_pytorch_utils.py", refuses=False,
    ),
)  # fmt: skip
