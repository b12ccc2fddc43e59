"""Where the bytes of an artifact are, and what it takes to make and serve it."""

from __future__ import annotations

import json

import headers
import pytest

from quantkit.errors import UsageError
from quantkit.families.model import Shape
from quantkit.plan.base import Plan, PlanOptions
from quantkit.plan.gguf import plan_gguf
from quantkit.plan.sizes import (
    Workshop,
    conversion_memory_bytes,
    kv_bytes_per_token,
    plan_line,
    serving_memory,
    size_report,
)
from quantkit.qtypes import base
from quantkit.recipes.read import gguf_recipe_names, load_recipe
from quantkit.recipes.recipe import Overrides, override

SHAPES = {"output.weight": (24, 768), "output_norm.weight": (768,), **headers.blocks(8, "attn_v", "ffn_down", "x")}


def make(recipe: str, split_bytes: int | None = None) -> Plan:
    options = PlanOptions(split_bytes=split_bytes)
    return plan_gguf(headers.model_of(SHAPES), headers.checkpoint_of(SHAPES), load_recipe(recipe), options)


@pytest.mark.parametrize("recipe", [r for r in gguf_recipe_names() if not load_recipe(r).needs_imatrix])
@pytest.mark.parametrize("split", [None, 3000])
def test_parts_add_up_to_the_files(recipe: str, split: int | None) -> None:
    made = make(recipe, split)
    report = size_report(made)
    parts = report.code_bytes + report.scale_bytes + report.header_bytes + report.padding_bytes
    assert parts == report.nbytes == made.nbytes
    assert report.padding_bytes >= 0
    assert report.weights == 24 * 768 + 768 + 24 * 8 * 256
    assert sum(t.tensors for t in report.types) == len(made.tensors)
    assert json.loads(json.dumps(report.as_json()))["bytes"] == made.nbytes


# Bytes of codes in a block, from the structs of ggml-common.h: qs, qh, ql and hmask.
CODE_BYTES = {
    "q4_0": 16, "q4_1": 16, "q5_0": 20, "q5_1": 20, "q8_0": 32, "q2_k": 64, "q3_k": 96, "q4_k": 128, "q5_k": 160,
    "q6_k": 192, "iq4_nl": 16, "iq4_xs": 128, "tq1_0": 52, "tq2_0": 64, "mxfp4": 16, "nvfp4": 32, "q1_0": 16,
    "q2_0": 16, "iq1_s": 45, "iq1_m": 48, "iq2_xxs": 60, "iq2_xs": 64, "iq2_s": 72, "iq3_xxs": 92, "iq3_s": 104,
    "f32": 4, "f16": 2, "bf16": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", CODE_BYTES)
def test_codes_and_scales_of_a_type(name: str) -> None:
    qtype = base.get(name)
    shapes = {"token_embd.weight": (2, qtype.block)}  # a tensor that may have any type without importance weights
    recipe = override(load_recipe("bf16"), Overrides(keep=(f"embd={name}",)))
    [found] = size_report(plan_gguf(headers.model_of(shapes), headers.checkpoint_of(shapes), recipe)).types
    assert (found.qtype, found.weights, found.nbytes) == (name, 2 * qtype.block, 2 * qtype.nbytes)
    assert found.code_bytes == 2 * CODE_BYTES[name]
    assert found.scale_bytes == 2 * (qtype.nbytes - CODE_BYTES[name])


def test_every_type_is_in_the_table() -> None:
    assert set(CODE_BYTES) == set(base.names())


def test_ratio_and_bits() -> None:
    report = size_report(make("bf16"))
    assert report.source_bytes == 2 * report.weights
    assert report.ratio == report.nbytes / report.source_bytes
    assert report.bits_per_weight == 8 * report.nbytes / report.weights
    assert [t.qtype for t in report.types] == ["bf16", "f32"], "largest first"


def test_plan_line_says_before_and_after() -> None:
    assert plan_line(make("q8_0")).startswith("Test · 68.35 k weights · 136.70 kB → q8_0 7")


@pytest.mark.parametrize(
    ("shape", "kv_type", "expected"),
    [
        (headers.LLAMA_8B, "f16", 131072),
        (headers.LLAMA_8B, "q8_0", 131072 * 34 // 64),
        (headers.LLAMA_8B, "q4_0", 131072 * 18 // 64),
        (headers.LLAMA_70B, "f16", 327680),
        (headers.LLAMA_405B, "f16", 516096),
        (Shape(32, 4096, 32, 32, 128), "f16", 524288),  # Llama 1 7B: every head has its own
        (Shape(28, 1024, 16, 8, 128), "f16", 114688),  # Qwen3 0.6B: heads wider than hidden / heads
    ],
)
def test_kv_bytes_per_token(shape: Shape, kv_type: str, expected: int) -> None:
    assert kv_bytes_per_token(shape, kv_type) == expected


def test_kv_type_must_fit_the_heads() -> None:
    with pytest.raises(UsageError, match="a cache of q8_0 needs heads of a multiple of 32, this model has 80"):
        kv_bytes_per_token(Shape(2, 640, 8, 8, 80), "q8_0")


def test_serving_memory_of_llama_70b() -> None:
    """43 GB of weights and 2.7 GB of keys and values at 8192 tokens do not fit 36 GB."""
    model, checkpoint = headers.llama(headers.LLAMA_70B)
    memory = serving_memory(plan_gguf(model, checkpoint, load_recipe("q4_k_m")), 8192)
    assert memory.kv_bytes == 8192 * 327680
    assert memory.nbytes == memory.weight_bytes + memory.kv_bytes
    assert 44e9 < memory.nbytes < 46e9


def test_conversion_memory_does_not_grow_with_the_model() -> None:
    small, large = (headers.llama(shape) for shape in (headers.LLAMA_8B, headers.LLAMA_70B))
    needed = [
        conversion_memory_bytes(plan_gguf(model, checkpoint, load_recipe("q4_k_m")), Workshop(6, 1 << 20, 2, 0))
        for model, checkpoint in (small, large)
    ]
    assert needed[0] == pytest.approx(needed[1], rel=0.01)
    assert needed[1] < 810e6  # of which 128,256 tokens take 423, and the compiler 110
