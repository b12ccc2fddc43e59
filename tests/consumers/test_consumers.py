"""The table of consumers: every rule has an artifact that it refuses and a near one that it lets pass."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from quantkit.cli.exits import exit_code
from quantkit.consumers import (
    CONSUMERS,
    RULES,
    Module,
    Subject,
    Verdict,
    parse_consumers,
    require_consumers,
    stale,
    verdicts,
)
from quantkit.consumers.refusals import CHECKED, Rule
from quantkit.consumers.refusals_vllm import SHARED
from quantkit.errors import UnsupportedError, UsageError
from quantkit.families.roles import Role
from quantkit.formats.containers import table
from quantkit.formats.containers.awq import AWQLayout
from quantkit.formats.containers.bitsandbytes import BitsandbytesLayout
from quantkit.formats.containers.compressed_tensors_layout import CompressedLayout
from quantkit.formats.containers.fp8 import FP8Layout
from quantkit.formats.containers.gptq import GPTQLayout
from quantkit.formats.containers.mlx import MLXLayout
from quantkit.formats.containers.plain import PlainLayout
from quantkit.formats.containers.table import layout_of
from quantkit.qtypes.schemes.affine import Affine
from quantkit.qtypes.schemes.codebook import Codebook
from quantkit.qtypes.schemes.halves import Halves
from quantkit.qtypes.schemes.integers import Integers, RowInt8
from quantkit.qtypes.schemes.microscaling import MXFP4, NVFP4
from quantkit.qtypes.schemes.minifloat import Float8
from quantkit.recipes.read import load_recipe, recipe_names

PAGE = Path(__file__).parents[2] / "docs" / "consumers.md"

W4 = Integers(4, 128)
W4_ASYM = Integers(4, 128, "asymmetric")
GPTQ = GPTQLayout(W4)
AWQ = AWQLayout(W4_ASYM)
W4A16 = CompressedLayout(W4)
W8A8 = CompressedLayout(Integers(8), "dynamic")
FP8 = CompressedLayout(Float8("channel"), "dynamic")
FP8_TENSOR = CompressedLayout(Float8("tensor"), "static")
FP8_BLOCK = CompressedLayout(Float8("block"), "dynamic")
NF4 = BitsandbytesLayout(Codebook())
NVFP4_A16, MXFP4_A16 = CompressedLayout(NVFP4()), CompressedLayout(MXFP4())

NAMES = {
    Role.ATTN_Q: "self_attn.q_proj", Role.ATTN_K: "self_attn.k_proj", Role.ATTN_V: "self_attn.v_proj",
    Role.ATTN_OUTPUT: "self_attn.o_proj", Role.FFN_GATE: "mlp.gate_proj", Role.FFN_UP: "mlp.up_proj",
    Role.FFN_DOWN: "mlp.down_proj",
}  # fmt: skip
MLX4 = MLXLayout(Affine(4, 64, "BF16"))
NATIVE, PLAIN = FP8Layout(), PlainLayout(Halves())
CONTAINER_OF = {
    GPTQLayout: "gptq", AWQLayout: "awq", CompressedLayout: "compressed-tensors", BitsandbytesLayout: "bitsandbytes",
    FP8Layout: "fp8", PlainLayout: "plain", MLXLayout: "mlx",
}  # fmt: skip


def model(layout, changed=None, *, hidden: int = 1024, inner: int = 4096, **facts) -> Subject:
    """A block of 8 heads, 2 of them for keys and values; `changed` are other layouts by role."""
    layouts = dict.fromkeys(NAMES, layout) | (changed or {})
    shapes = dict.fromkeys(NAMES, (hidden, hidden)) | {
        Role.ATTN_K: (hidden // 4, hidden), Role.ATTN_V: (hidden // 4, hidden), Role.FFN_GATE: (inner, hidden),
        Role.FFN_UP: (inner, hidden), Role.FFN_DOWN: (hidden, inner),
    }  # fmt: skip
    modules = tuple(
        Module(f"model.layers.0.{name}", role, *shapes[role], layouts[role]) for role, name in NAMES.items()
    )
    return Subject(CONTAINER_OF[type(layout)], modules, heads=8, kv_heads=2, **facts)


def mixture(*layouts) -> Subject:
    """A block with an expert for each layout."""
    modules = tuple(
        Module(f"model.layers.0.mlp.experts.{number}.{name}", role, 512, 512, layout)
        for number, layout in enumerate(layouts)
        for role, name in ((Role.FFN_GATE, "gate_proj"), (Role.FFN_UP, "up_proj"), (Role.FFN_DOWN, "down_proj"))
    )
    return Subject(CONTAINER_OF.get(type(layouts[0]), "compressed-tensors"), modules)


def blocks_of_experts(*layouts) -> Subject:
    """A block of experts for each layout."""
    blocks = [mixture(layout).modules for layout in layouts]
    return replace(
        mixture(layouts[0]),
        modules=tuple(
            replace(m, name=m.name.replace("layers.0", f"layers.{n}")) for n, block in enumerate(blocks) for m in block
        ),
    )


def partly_kept(layout) -> Subject:
    """A rounded attention, and an expert that stays as it is."""
    dense = model(layout)
    return replace(dense, modules=(*dense.modules, *mixture(None).modules))


def mixers(architecture: str) -> Subject:
    """A model whose first layer is of a mixer."""
    made = model(W4A16, architecture=architecture)
    first = replace(made.modules[0], name="model.layers.0.mamba.in_proj", role=Role.OTHER)
    return replace(made, modules=(first, *made.modules[1:]))


def latent(layout) -> Subject:
    """A model that keeps keys and values as one narrow vector for all heads."""
    made = model(layout)
    first = replace(made.modules[0], name="model.layers.0.self_attn.kv_b_proj", role=Role.OTHER)
    return replace(made, modules=(first, *made.modules[1:]))


def renamed(start: str, made: Subject) -> Subject:
    """The same with a beginning before the names of its layers."""
    return replace(made, modules=tuple(replace(m, name=start + m.name) for m in made.modules))


def gpt2(layout, changed=None) -> Subject:
    """A model whose class has its matrices as (in, out), one of them called as there."""
    made = model(layout, changed, architecture="GPT2LMHeadModel")
    return replace(made, modules=tuple(replace(m, name=m.name.replace("o_proj", "c_proj")) for m in made.modules))


def gguf(*types: str, architecture: str = "llama") -> Subject:
    return Subject("gguf", architecture=architecture, file_types=types)


def gptq(bits: int, group: int = 128, symmetry="symmetric", **settings) -> Subject:
    return model(GPTQLayout(Integers(bits, group, symmetry, lowest_zero=settings.pop("lowest_zero", 0)), **settings))


def awq(group: int) -> Subject:
    return model(AWQLayout(Integers(4, group, "asymmetric")))


def w4(group: int, dtype) -> Subject:
    return model(CompressedLayout(Integers(4, group, scale_dtype=dtype)))


@dataclass(frozen=True)
class Example:
    """What a rule refuses, and what differs in the point that matters."""

    refused: Subject
    accepted: Subject
    tp: int = 1
    accepted_tp: int | None = None


V1_ZERO = Example(gptq(4, symmetry="asymmetric"), gptq(4, symmetry="asymmetric", lowest_zero=1))
MIXED = Example(model(GPTQ, {Role.FFN_DOWN: GPTQLayout(Integers(8, 128))}), model(GPTQ))
HEAD = Example(model(GPTQ, head_quantized=True), model(W4A16, head_quantized=True))
RAGGED_HEADS = replace(model(FP8), heads=9, kv_heads=9)

EXAMPLES = {
    "transformers/mlx": Example(model(MLX4), model(AWQ)),
    "vllm/mlx": Example(model(MLX4, {Role.FFN_DOWN: MLXLayout(Affine(4, 32))}), model(AWQ)),
    "llama.cpp/mlx": Example(model(MLX4), model(GPTQ)),
    "tensorrt-llm/mlx": Example(model(MLX4), model(FP8)),
    "mlx/gguf": Example(gguf("q4_k"), model(MLX4)),
    "mlx/container": Example(model(W4A16), model(AWQ)),
    "mlx/experts": Example(replace(mixture(MLX4), architecture="Qwen3MoeForCausalLM"), mixture(MLX4)),
    "mlx/experts-awq": Example(mixture(AWQ), partly_kept(AWQ)),
    "mlx/experts-unlike": Example(mixture(MLX4, MLXLayout(Affine(8, 64, "BF16"))), mixture(MLX4, MLX4)),
    "mlx/kv-cache": Example(model(MLX4, kv_cache=True), model(MLX4)),
    "mlx/awq-group": Example(awq(256), awq(128)),
    "lmstudio/macs": Example(model(MLX4), gguf("q4_k")),
    "lmstudio/experts": Example(replace(mixture(MLX4), architecture="Qwen3MoeForCausalLM"), mixture(MLX4)),
    "lmstudio/experts-unlike": Example(mixture(MLX4, MLXLayout(Affine(8, 64, "BF16"))), mixture(MLX4, MLX4)),
    "lmstudio/kv-cache": Example(model(MLX4, kv_cache=True), model(MLX4)),
    "transformers/asymmetric-packed": Example(model(CompressedLayout(W4_ASYM)), model(W4A16)),
    "transformers/gptq-zero": V1_ZERO,
    "transformers/mixed": MIXED,
    "transformers/head": HEAD,
    "transformers/fp8-ragged": Example(model(FP8Layout(), inner=4000), model(FP8Layout())),
    "transformers/fp8-block-inputs": Example(model(FP8_BLOCK, hidden=1000), model(FP8, hidden=1000)),
    "transformers/experts": Example(mixture(GPTQ, GPTQ), mixture(W4A16, W4A16)),
    "transformers/experts-named": Example(
        replace(mixture(NATIVE), architecture="Gemma4ForCausalLM"), mixture(NATIVE)
    ),
    "vllm/mamba-1": Example(mixers("JambaForCausalLM"), mixers("BambaForCausalLM")),
    "sglang/mamba-1": Example(mixers("MambaForCausalLM"), mixers("Mamba2ForCausalLM")),
    "transformers/initialized": Example(
        replace(model(W4A16), architecture="ModernBertModel"), replace(model(W4A16), architecture="Mamba2ForCausalLM")
    ),
    "transformers/joined": Example(
        replace(mixture(W4A16), architecture="Qwen4ExpForCausalLM"),
        replace(mixture(FP8), architecture="Qwen4ExpForCausalLM"),
    ),
    "transformers/assistants": Example(model(FP8, architecture="Gemma4AssistantForCausalLM"), model(FP8)),
    "transformers/t5-packed": Example(
        model(W4A16, architecture="T5EncoderModel"), model(W8A8, architecture="T5EncoderModel")
    ),
    "transformers/turned": Example(gpt2(FP8), gpt2(NF4)),
    "transformers/turned-initialized": Example(gpt2(GPTQ), gpt2(GPTQ, {Role.ATTN_OUTPUT: None})),
    "vllm/turned": Example(gpt2(NF4), gpt2(W4A16)),
    "sglang/turned": Example(gpt2(FP8), gpt2(GPTQ)),
    "tensorrt-llm/turned": Example(gpt2(FP8), model(FP8)),
    "llama.cpp/turned": Example(gpt2(GPTQ), model(GPTQ)),
    "mlx/turned": Example(gpt2(MLX4), gpt2(AWQ)),
    "lmstudio/turned": Example(gpt2(MLX4), model(MLX4)),
    "vllm/t5": Example(gguf("q4_k", architecture="t5"), gguf("q4_k")),
    "mlx/t5": Example(model(MLX4, architecture="MT5ForConditionalGeneration"), model(MLX4)),
    "lmstudio/t5": Example(model(MLX4, architecture="T5EncoderModel"), gguf("q4_k", architecture="t5encoder")),
    "vllm/encoders": Example(model(FP8, architecture="BertModel"), model(PLAIN, architecture="BertModel")),
    "sglang/encoders": Example(model(FP8, architecture="BertModel"), model(PLAIN, architecture="BertModel")),
    "tensorrt-llm/encoders": Example(model(FP8, architecture="BertModel"), model(FP8)),
    "mlx/encoders": Example(model(MLX4, architecture="EuroBertModel"), model(MLX4)),
    "lmstudio/encoders": Example(model(MLX4, architecture="RobertaModel"), model(MLX4)),
    "tensorrt-llm/t5": Example(model(FP8, architecture="T5EncoderModel"), model(FP8)),
    "tensorrt-llm/t5-rounded": Example(
        model(FP8, architecture="T5ForConditionalGeneration"), model(PLAIN, architecture="T5ForConditionalGeneration")
    ),
    "transformers/falcon-4-bit": Example(replace(model(NF4), architecture="FalconForCausalLM"), model(NF4)),
    "transformers/thinker": Example(
        model(FP8, architecture="Qwen2_5OmniModel"), model(FP8Layout(), architecture="Qwen2_5OmniModel")
    ),
    "transformers/absent": Example(
        model(FP8, architecture="MiMoV2ForCausalLM", model_type="mimo_v2"),
        model(FP8, architecture="MiMoV2ForCausalLM", model_type="mimo_v2_flash"),
    ),
    "transformers/absent-in-both": Example(
        model(FP8, architecture="JinaEmbeddingsV5Model", model_type="jina_embeddings_v5"),
        model(FP8, architecture="EuroBertModel", model_type="eurobert"),
    ),
    "vllm/named-otherwise": Example(
        model(FP8, architecture="VLlama3ForCausalLM", model_type="llama"),
        model(FP8, architecture="LLaMAForCausalLM", model_type="llama"),
    ),
    "vllm/absent": Example(
        model(FP8, architecture="MiniMaxM1ForCausalLM"), model(FP8, architecture="MiMoV2ForCausalLM")
    ),
    **{
        f"{consumer}/drafts": Example(
            model(PLAIN, architecture="LlamaForCausalLM", model_type="llama", drafts=True),
            model(PLAIN, architecture="LlamaForCausalLM", model_type="llama"),
        )
        for consumer in ("transformers", "vllm", "mlx", "tensorrt-llm")
    },
    "transformers/thinker-names": Example(
        renamed("thinker.", model(FP8, architecture="Qwen3ASRForConditionalGeneration")),
        model(FP8, architecture="Qwen3ASRForConditionalGeneration"),
    ),
    "transformers/thinker-blocks": Example(
        model(GPTQ, architecture="Qwen2_5OmniModel"), model(NF4, architecture="Qwen2_5OmniModel")
    ),
    "transformers/taken-apart": Example(
        model(NATIVE, architecture="HrmTextForCausalLM"), model(FP8, architecture="HrmTextForCausalLM")
    ),
    "transformers/4-bit-on-cpus": Example(model(NF4, inner=4096 + 32), model(NF4)),
    "transformers/8-bit-on-cpus": Example(latent(BitsandbytesLayout(RowInt8())), latent(NF4)),
    "transformers/gates-joined": Example(
        model(W4A16, architecture="MiniMaxM3SparseForCausalLM"), model(FP8, architecture="MiniMaxM3SparseForCausalLM")
    ),
    "transformers/experts-unlike": Example(mixture(FP8, None), mixture(FP8, FP8)),
    "transformers/experts-of-groups": Example(
        blocks_of_experts(W4A16, CompressedLayout(Integers(4, 64))), blocks_of_experts(W4A16, W4A16)
    ),
    "transformers/experts-kept": Example(partly_kept(W4A16), partly_kept(FP8)),
    "transformers/experts-int8": Example(mixture(W8A8), mixture(CompressedLayout(Integers(8)))),
    "transformers/experts-blocks": Example(mixture(FP8_BLOCK), mixture(FP8)),
    "transformers/experts-nvfp4": Example(mixture(NVFP4_A16), mixture(MXFP4_A16)),
    "transformers/experts-decoded": Example(mixture(FP8), mixture(FP8Layout())),
    "transformers/awq-group": Example(awq(256), awq(128)),
    "transformers/gptq-group": Example(gptq(4, 2048), gptq(4, 1024)),
    "transformers/gptq-cpu": Example(gptq(4, -1), gptq(8, -1)),
    "transformers/kv-cache": Example(model(GPTQ, kv_cache=True), model(FP8_TENSOR, kv_cache=True)),
    "transformers/gguf-architecture": Example(gguf("q4_k", architecture="rwkv7"), gguf("q4_k")),
    "transformers/gguf-type": Example(gguf("q6_k", "q2_0"), gguf("q6_k", "tq2_0")),
    "transformers/gguf-factors": Example(gguf("bf16", "nvfp4"), gguf("bf16", "mxfp4")),
    "transformers/gguf-decoded": Example(gguf("q4_k"), model(W4A16)),
    "vllm/gptq-bits": Example(gptq(3), gptq(8)),
    "vllm/gptq-asymmetric": Example(gptq(4, symmetry="asymmetric", version=2), gptq(4, symmetry="full-range")),
    "vllm/gptq-group": Example(gptq(4, 256), gptq(4, 64)),
    "vllm/asymmetric-packed": Example(
        model(CompressedLayout(Integers(3, 128, "asymmetric"))), model(CompressedLayout(W4_ASYM))
    ),
    "vllm/packed-group": Example(w4(16, "BF16"), w4(32, "BF16")),
    "vllm/packed-exllama": Example(w4(16, "F16"), w4(32, "F16")),
    "vllm/mixed": MIXED,
    "vllm/fused": Example(
        model(W4A16, {Role.ATTN_V: CompressedLayout(Integers(8, 128))}),
        model(W4A16, {Role.FFN_DOWN: CompressedLayout(Integers(8, 128))}),
    ),
    "vllm/experts": Example(mixture(W4A16, W4A16, None), mixture(W4A16, W4A16)),
    "vllm/fp8-fused-blocks": Example(model(FP8_BLOCK, hidden=256), model(FP8_BLOCK, hidden=512)),
    "vllm/head": HEAD,
    "vllm/kv-cache": Example(model(AWQ, kv_cache=True), model(FP8Layout(), kv_cache=True)),
    "vllm/bitsandbytes-tp": Example(model(NF4), model(NF4), tp=2, accepted_tp=1),
    "vllm/bitsandbytes-experts": Example(
        replace(model(NF4), architecture="GptOssForCausalLM"), replace(model(FP8), architecture="GptOssForCausalLM")
    ),
    "vllm/tp-heads": Example(RAGGED_HEADS, RAGGED_HEADS, tp=2, accepted_tp=1),
    "vllm/tp-key-heads": Example(
        replace(model(FP8, hidden=1536), heads=12, kv_heads=4),
        replace(model(FP8, hidden=1536), heads=12, kv_heads=4), tp=6, accepted_tp=4,
    ),
    "vllm/tp-rows": Example(model(AWQ, inner=4112), model(FP8, inner=4112), tp=4),
    "vllm/tp-cols": Example(model(W4A16, inner=1280), model(CompressedLayout(Integers(4, 32)), inner=1280), tp=4),
    "vllm/gguf-type": Example(gguf("q6_k", "tq2_0"), gguf("q6_k", "iq4_xs")),
    "vllm/gguf-plugin": Example(gguf("q4_k"), model(W4A16)),
    # q, k and v of 128, 32 and 32 outputs are one matrix of 192; on two devices of 96.
    "vllm/marlin-shape": Example(
        model(GPTQLayout(Integers(4, 32)), hidden=128), model(GPTQLayout(Integers(4, 32)), hidden=128), tp=2,
        accepted_tp=1,
    ),
    "sglang/gptq-v2": Example(gptq(4, version=2), gptq(4)),
    "sglang/packed": Example(model(CompressedLayout(W4_ASYM)), model(W4A16)),
    "sglang/gptq-kernel": Example(gptq(3), gptq(8)),
    "sglang/bitsandbytes": Example(model(NF4), model(W4A16)),
    "sglang/gguf": Example(gguf("q4_k"), model(W4A16)),
    "ollama/safetensors": Example(model(W4A16), gguf("q4_k")),
    "ollama/split": Example(replace(gguf("q4_k"), files=2), gguf("q4_k")),
    "ollama/safetensors-architecture": Example(
        model(PLAIN, architecture="Ernie4_5ForCausalLM"), model(PLAIN, architecture="LlamaForCausalLM")
    ),
    "ollama/gguf-type": Example(gguf("q6_k", "q2_0"), gguf("q6_k", "q2_k")),
    "ollama/gguf-new-type": Example(gguf("bf16", "nvfp4"), gguf("bf16", "mxfp4")),
    "ollama/rendered": Example(gguf("q4_k", architecture="gemma4"), gguf("q4_k", architecture="gemma3")),
    "lmstudio/folders": Example(gguf("q4_k"), model(MLX4)),
    "lmstudio/safetensors": Example(model(W4A16), gguf("q4_k")),
    "llama.cpp/awq": Example(model(AWQ), model(GPTQ)),
    "llama.cpp/bitsandbytes": Example(model(BitsandbytesLayout(RowInt8())), model(W8A8)),
    "llama.cpp/gptq-bits": Example(gptq(3), gptq(2)),
    "llama.cpp/gptq-zero": V1_ZERO,
    "llama.cpp/mixed": MIXED,
    "llama.cpp/packed-bits": Example(
        model(CompressedLayout(Integers(6, 32))), model(CompressedLayout(Integers(8, 32)))
    ),
    "llama.cpp/packed-row": Example(model(CompressedLayout(Integers(8))), model(CompressedLayout(Integers(8, 128)))),
    "llama.cpp/fp8-tensor": Example(model(CompressedLayout(Float8("tensor"), "dynamic")), model(FP8)),
    "llama.cpp/static": Example(model(CompressedLayout(Integers(8), "static")), model(W8A8)),
    "llama.cpp/kv-cache": Example(model(FP8, kv_cache=True), model(FP8)),
    "llama.cpp/groups": Example(model(W4A16, {Role.FFN_DOWN: W8A8}), model(W4A16, {Role.FFN_DOWN: None})),
    "llama.cpp/mxfp4": Example(model(MXFP4_A16), model(NVFP4_A16)),
    "llama.cpp/nvfp4-inputs": Example(model(NVFP4_A16, hidden=1040), model(NVFP4_A16, hidden=1088)),
    "tensorrt-llm/gguf": Example(gguf("q4_k"), model(FP8)),
    "tensorrt-llm/bitsandbytes": Example(model(NF4), model(MXFP4_A16)),
    "tensorrt-llm/gptq": Example(model(GPTQ), model(FP8Layout())),
    "tensorrt-llm/awq": Example(model(AWQ), model(FP8_BLOCK)),
    "tensorrt-llm/integers": Example(model(W4A16), model(MXFP4_A16)),
    "tensorrt-llm/int8": Example(model(W8A8), model(FP8)),
    "tensorrt-llm/nvfp4-weights": Example(model(NVFP4_A16), model(MXFP4_A16)),
    "tensorrt-llm/fp8-weights": Example(model(CompressedLayout(Float8("channel"))), model(FP8)),
    "tensorrt-llm/fp8-static": Example(model(CompressedLayout(Float8("channel"), "static")), model(FP8_TENSOR)),
    "tensorrt-llm/groups": Example(model(FP8, {Role.FFN_DOWN: FP8_BLOCK}), model(FP8, {Role.FFN_DOWN: None})),
    "tensorrt-llm/tp-heads": Example(RAGGED_HEADS, RAGGED_HEADS, tp=2, accepted_tp=3),
}  # fmt: skip
EXAMPLES |= {f"sglang/{name}": EXAMPLES[f"vllm/{name}"] for name in SHARED}

each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.consumer}/{rule.name}")


def example(rule: Rule) -> Example:
    return EXAMPLES[f"{rule.consumer}/{rule.name}"]


def test_every_rule_has_an_example_and_no_name_is_used_twice():
    names = [f"{rule.consumer}/{rule.name}" for rule in RULES]
    assert sorted(names) == sorted(EXAMPLES)
    assert {rule.consumer for rule in RULES} == set(CONSUMERS)


@each_rule
def test_a_rule_refuses_what_it_is_about_and_says_so(rule):
    case = example(rule)
    (verdict,) = verdicts(case.refused, [rule.consumer], case.tp)
    if not rule.refuses:
        assert verdict.ok
        assert rule.finds(case.refused, case.tp) is not None
        assert verdict.caveats[0].startswith(rule.reason.split("{")[0])
        return
    assert (verdict.ok, verdict.rule) == (False, rule.name)
    with pytest.raises(UnsupportedError) as caught:
        require_consumers(case.refused, [rule.consumer], case.tp)
    error = caught.value
    assert exit_code(error) == 4
    assert rule.consumer in error.message
    assert verdict.reason in error.message
    assert error.hint == f"use {verdict.nearest}"
    assert error.tensor == verdict.module
    assert verdict.module is None or verdict.module in error.message
    assert "{" not in error.message + error.hint


@each_rule
def test_a_rule_lets_pass_what_differs_in_its_point(rule):
    case = example(rule)
    tp = case.tp if case.accepted_tp is None else case.accepted_tp
    (verdict,) = verdicts(case.accepted, [rule.consumer], tp)
    assert verdict.ok, verdict
    assert rule.finds(case.accepted, tp) is None
    require_consumers(case.accepted, [rule.consumer], tp)


@each_rule
def test_a_row_says_when_and_where_it_was_looked_up(rule):
    assert rule.checked_on <= CHECKED
    assert rule.source.startswith(("run: ", "read: "))
    assert rule.reason
    assert rule.nearest


@each_rule
def test_alternatives_exist(rule):
    """Every recipe that an alternative names is shipped."""
    assert set(re.findall(r"--to ([\w-]+)", rule.nearest)) <= set(recipe_names())


def test_the_table_is_fresh_for_half_a_year():
    assert stale(CHECKED + timedelta(days=180)) == ()
    assert stale(CHECKED + timedelta(days=181)) == RULES
    assert stale(date(2020, 1, 1)) == ()


# What no rule is about passes: the refusals are all there is.


def test_every_consumer_loads_something_of_every_container_that_it_reads():
    common = {
        "transformers": [
            GPTQ,
            AWQ,
            W4A16,
            W8A8,
            FP8,
            FP8_TENSOR,
            FP8_BLOCK,
            NF4,
            NVFP4_A16,
            MXFP4_A16,
            FP8Layout(),
            PLAIN,
        ],
        "vllm": [GPTQ, AWQ, W4A16, W8A8, FP8, FP8_TENSOR, FP8_BLOCK, NF4, NVFP4_A16, MXFP4_A16, FP8Layout(), PLAIN],
        "llama.cpp": [GPTQ, W4A16, W8A8, FP8, FP8_BLOCK, NVFP4_A16, FP8Layout(), PLAIN],
        "ollama": [PLAIN],
        "mlx": [MLX4, AWQ, PLAIN],
        "lmstudio": [MLX4],
        "tensorrt-llm": [FP8, FP8_TENSOR, FP8_BLOCK, MXFP4_A16, FP8Layout(), PLAIN],
    }
    for consumer, layouts in common.items():
        for layout in layouts:
            (verdict,) = verdicts(model(layout), [consumer])
            assert verdict.ok, (consumer, layout, verdict)
    loaded = {CONTAINER_OF[type(layout)] for layouts in common.values() for layout in layouts}
    assert loaded == set(table.names())


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
@pytest.mark.parametrize("layout", [GPTQ, AWQ, W4A16, W8A8, FP8, NVFP4_A16, MXFP4_A16], ids=str)
def test_powers_of_two_cut_a_common_model(layout, tp):
    assert verdicts(model(layout), ["vllm"], tp)[0].ok


@pytest.mark.parametrize(
    ("consumer", "subject"),
    [
        ("vllm", model(CompressedLayout(Integers(8, 128, "asymmetric")))),
        ("vllm", gptq(8, -1)),
        ("vllm", gguf("f16", "q8_0")),
        ("transformers", model(FP8Layout(), hidden=64, inner=96)),
        ("transformers", gptq(3)),
        ("transformers", gptq(4, symmetry="asymmetric", version=2)),
        ("llama.cpp", gptq(8, symmetry="asymmetric", version=2)),
        ("llama.cpp", gguf("q4_k", architecture="anything")),
    ],
    ids=str,
)
def test_near_misses_are_let_pass(consumer, subject):
    assert verdicts(subject, [consumer])[0].ok


def test_permuted_groups_can_be_cut_anywhere():
    """Every device holds the scales of all groups (marlin_repeat_scales_on_all_ranks)."""
    plain, ordered = (model(GPTQLayout(W4, act_order=order), inner=1280) for order in (False, True))
    assert verdicts(plain, ["vllm"], 4)[0].rule == "tp-cols"
    assert verdicts(ordered, ["vllm"], 4)[0].ok


@pytest.mark.parametrize(
    ("layout", "inputs", "outputs"),
    [
        (GPTQ, 128, 8), (GPTQLayout(Integers(8)), 4, 4), (GPTQLayout(W4, act_order=True), 8, 8), (AWQ, 128, 8),
        (AWQLayout(Integers(4)), 1, 8), (W4A16, 128, 1), (CompressedLayout(W4_ASYM), 128, 8),
        (CompressedLayout(Integers(4)), 8, 1), (CompressedLayout(Integers(3, 48)), 96, 1),
        (CompressedLayout(Integers(3, 32, "asymmetric")), 32, 32), (W8A8, 1, 1), (FP8, 1, 1), (FP8_BLOCK, 128, 128),
        (FP8Layout(), 128, 128), (NVFP4_A16, 16, 1), (MXFP4_A16, 32, 1), (NF4, 1, 1), (None, 1, 1),
    ],
    ids=str,
)  # fmt: skip
def test_what_stays_together_when_a_layer_is_cut(layout, inputs, outputs):
    traits = Module("q", Role.ATTN_Q, 1, 1, layout).traits
    assert (traits.inputs, traits.outputs) == (inputs, outputs)


def test_the_nearest_number_of_devices_is_the_greatest_that_works():
    with pytest.raises(UnsupportedError, match="8 heads cannot be shared by 3 devices") as caught:
        require_consumers(model(FP8), ["vllm"], 3)
    assert caught.value.hint == "use --tp 2"
    with pytest.raises(UnsupportedError, match="1,280 inputs cannot be cut for 4 devices: 128 of them") as caught:
        require_consumers(model(W4A16, inner=1280), ["vllm"], 4)
    assert caught.value.hint == "use --tp 2"
    assert caught.value.tensor == "model.layers.0.mlp.down_proj"


def test_keys_and_values_may_be_copied_to_more_devices_than_there_are_heads_of_them():
    assert verdicts(model(FP8_BLOCK), ["vllm"], 8)[0].ok


def test_a_plain_sibling_counts():
    (verdict,) = verdicts(model(W4A16, {Role.FFN_UP: None}), ["vllm"])
    assert (verdict.rule, verdict.module) == ("fused", "model.layers.0.mlp.up_proj")


def test_factors_of_siblings_must_agree():
    shared, other = CompressedLayout(NVFP4(largest=3.0)), CompressedLayout(NVFP4(largest=2.0))
    assert verdicts(model(shared), ["vllm"])[0].ok
    assert verdicts(model(shared, {Role.ATTN_K: other}), ["vllm"])[0].rule == "fused"


# Names


def test_names_and_aliases():
    assert parse_consumers(["vllm,transformers", "HF", " llamacpp "]) == ("vllm", "transformers", "llama.cpp")
    assert parse_consumers([]) == ()
    require_consumers(model(NF4), [])


@pytest.mark.parametrize(
    ("word", "near"), [("vlm", "vllm"), ("llama.ccp", "llama.cpp"), ("tensorrt-lm", "tensorrt-llm")]
)
def test_an_unknown_name_suggests_the_nearest(word, near):
    with pytest.raises(UsageError, match=f'"{word}" is unknown; did you mean "{near}"') as caught:
        require_consumers(model(FP8), [f"transformers,{word}"])
    assert "tensorrt-llm" in caught.value.hint
    assert caught.value.key == "for"


@pytest.mark.parametrize("tp", [0, -2])
def test_fewer_devices_than_one_are_refused(tp):
    with pytest.raises(UsageError, match=f"--tp is {tp}"):
        verdicts(model(FP8), ["vllm"], tp)


def test_all_named_consumers_must_load_it():
    with pytest.raises(UnsupportedError, match=r"llama\.cpp does not load"):
        require_consumers(model(FP8_TENSOR), ["transformers", "vllm", "llama.cpp"])


# The page, which `python tests/consumers/test_consumers.py > docs/consumers.md` writes anew.

INTRODUCTION = """\
# What engines load

`quantkit convert --for vllm,transformers` refuses before any work what one of them would not load, with the nearest
legal choice; `--tp 2` says on how many devices. `quantkit plan` prints what all of them make of an artifact. The rules
are rows of `consumers/refusals.py`; tests hold llama.cpp's to its converter, and those of transformers to what it
loads, weight by weight, for dense models and for mixtures of experts. Engines change: each row has its date,
and a row older than half a year is to be looked up again. This page is generated from them. Whether an artifact
of yours is right where it loads is asked of the engine itself: `quantkit verify --engine llama.cpp|transformers`.

## Recipes

For a model whose layers have common shapes, on one device. "- awq" is refused by the rule "awq"
below; a cell says what becomes of mixtures of experts where that is something else.
"""


def page() -> str:
    lines = [INTRODUCTION, f"| recipe | {' | '.join(CONSUMERS)} |", f"|---|{'---|' * len(CONSUMERS)}"]
    for name in recipe_names():
        recipe = load_recipe(name)
        if recipe.mixture is None:
            layout = layout_of(recipe.container, recipe.weights, "BF16")
            subject = model(layout, kv_cache=recipe.kv_cache)
            experts = replace(subject, modules=(*subject.modules, *mixture(layout, layout).modules))
            said = map(answer, verdicts(subject, CONSUMERS), verdicts(experts, CONSUMERS))
            lines.append(f"| `{name}` | {' | '.join(said)} |")
    for consumer in CONSUMERS:
        lines += ["", f"## {consumer}", "", "| rule | why not | use instead | looked up |", "|---|---|---|---|"]
        for rule in RULES:
            if rule.consumer == consumer:
                why = rule.reason if rule.refuses else f"loads, but {rule.reason}"
                row = (rule.name, symbolic(why), symbolic(rule.nearest), f"{rule.checked_on:%Y-%m}, {rule.source}")
                lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def answer(dense: Verdict, experts: Verdict) -> str:
    """A verdict in a cell; that on mixtures of experts where it differs."""
    words = ["yes" if verdict.ok else f"- {verdict.rule}" for verdict in (dense, experts)]
    return words[0] if words[0] == words[1] else f"{words[0]}; mixtures: {words[1]}"


def symbolic(text: str) -> str:
    """A reason with the names of its numbers: "{rows:,} outputs" is "*rows* outputs"."""
    return re.sub(r"\{(\w+)[^}]*\}", lambda found: f"*{found[1].replace('_', ' ')}*", text)


def test_the_page_is_generated_from_the_table():
    assert PAGE.read_text() == page()


if __name__ == "__main__":
    sys.stdout.write(page())
