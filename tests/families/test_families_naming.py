"""Names taken apart, against the gguf package's own reading of them."""

from __future__ import annotations

import pytest
from gguf import Metadata
from gguf.utility import size_label as reference_size_label
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.families.model import ModelTensor
from quantkit.families.naming import parse_name, size_label, title
from quantkit.families.roles import Role

NAMES = [
    "Llama-3.1-8B-Instruct", "meta-llama/Llama-2-7b-chat-hf", "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "HuggingFaceTB/SmolLM2-135M-Instruct",
    "Qwen/Qwen2.5-Coder-0.5B-Instruct", "Qwen/Qwen3-235B-A22B-Instruct-2507", "Qwen/Qwen3-30B-A3B",
    "google/gemma-2-2b-it", "google/gemma-3-1b-it", "microsoft/Phi-3-mini-4k-instruct",
    "microsoft/Phi-3-medium-128k-instruct", "microsoft/Phi-4-mini-instruct", "microsoft/phi-4",
    "bigscience/bloom-7b1-petals", "NousResearch/Yarn-Llama-2-7b-128k", "GPT-NeoX-20B-q4_0", "Mistral-7B-v0.1",
    "Some--double-dash-", "v1-2-3", "3B", "small-xl-Model", "a/b/c-7B", "./checkpoint-500",
    "a sentence about a model 7B", "docs-llama-tiny", "model", "bf16-7b-fp32", "x-0_5b-lora-Vision",
]  # fmt: skip


def reference(name: str, parameters: int) -> tuple[str | None, ...]:
    found: tuple[str | None, ...] = Metadata.get_model_id_components(name, parameters)
    return found


def own(name: str, parameters: int) -> tuple[str | None, ...]:
    parts = parse_name(name, parameters)
    return parts.name, parts.organization, parts.basename, parts.finetune, parts.version, parts.size_label


@pytest.mark.parametrize("parameters", [0, 320_000, 3_800_000_000, 46_700_000_000])
@pytest.mark.parametrize("name", NAMES)
def test_names_are_taken_apart_as_the_reference_does(name: str, parameters: int) -> None:
    assert own(name, parameters) == reference(name, parameters)
    assert title(name) == Metadata.id_to_title(name)


WORDS = st.sampled_from([
    "Llama", "llama", "3", "3.1", "v0.2", "iter2", "7b", "7B", "7b1", "0_5B", "8x7B", "A3B", "128k", "small",
    "mini", "xl", "q4_0", "IQ2_XS", "bf16", "f16", "chat", "Instruct", "vision", "lora", "2507", "it", "x1", "1x",
    "A", "é", "7ß",
])  # fmt: skip


@given(st.lists(WORDS, min_size=1, max_size=7), st.sampled_from([0, 7_000_000_000, 130_000]), st.booleans())
@settings(derandomize=True, max_examples=500, deadline=None)
def test_any_words_are_taken_apart_as_the_reference_does(words: list[str], parameters: int, organized: bool) -> None:
    name = ("org/" if organized else "") + "-".join(words)
    assert own(name, parameters) == reference(name, parameters)
    assert title(name) == Metadata.id_to_title(name)


def tensor(name: str, *shape: int) -> ModelTensor:
    return ModelTensor(name, Role.OTHER, shape, ())


@given(st.integers(1, 3 * 10**12), st.integers(0, 256), st.integers(1, 10**12))
@settings(derandomize=True, max_examples=300, deadline=None)
def test_sizes_are_labelled_as_by_the_reference(shared: int, experts: int, expert: int) -> None:
    tensors = [tensor("token_embd.weight", shared)]
    if experts:
        tensors += [tensor(f"blk.0.ffn_{part}_exps.weight", experts, expert, 1) for part in ("gate", "up", "down")]
    total = shared + 3 * experts * expert
    assert size_label(tensors) == (total, reference_size_label(total, shared, 3 * expert if experts else 0, experts))
