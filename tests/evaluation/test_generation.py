"""Greedy continuations against transformers' own generation, and what they must not depend on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import build
from commands import TINY
from smollm2 import SMOLLM2
from walks import CARRYING, carrying, whole_model

from quantkit.calibration.text.data import model_tokens
from quantkit.calibration.text.spec import embedding_rows
from quantkit.errors import InputError, ResourceError
from quantkit.evaluation import generation
from quantkit.evaluation.generation import Until, continuations
from quantkit.evaluation.sides import Side
from quantkit.source import open_source

SHARED = Path(__file__).parents[2].parent / "shared" / "models" / "docs-llama-21m"
TEXTS = (
    "The harbour was quiet in the early morning",
    "import json\n\n\ndef read(path: str) -> dict[str, int]:\n    return",
    "Yeast eats the sugar in the dough and gives off carbon dioxide. " * 3,
    "To install the package, run",
    "The value of the option is a list of names. Each name",
    "x",
    "See the section about configuration files for how",
)


def side(path: Path) -> Side:
    return Side(path.name, open_source(str(path)))


def tokens_of(path: Path) -> list[list[int]]:
    checkpoint = open_source(str(path))
    found = model_tokens(checkpoint, embedding_rows(checkpoint))
    return [([] if found.bos is None else [found.bos]) + found.encode(text) for text in TEXTS]


def by_transformers(path: Path, prompts: list[list[int]], tokens: int, end: int | None = None) -> list[list[int]]:
    from transformers import GenerationConfig

    model = whole_model(path)
    plain = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=end, pad_token_id=0)
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=plain)
        found.append(whole[0, len(prompt) :].tolist())
    return found


def test_prompts_are_continued_as_transformers_does() -> None:
    prompts = tokens_of(TINY)
    expected = by_transformers(TINY, prompts, 24)
    assert continuations([side(TINY)], prompts, 24) == [expected]
    end = expected[0][5]  # any token may end a text
    stopped = by_transformers(TINY, prompts, 24, end)
    assert min(map(len, stopped)) < 24
    assert continuations([side(TINY)], prompts, 24, until=Until(frozenset({end}))) == [stopped]


@pytest.mark.slow
@pytest.mark.parametrize("path", [SHARED, SMOLLM2], ids=lambda path: path.name)
def test_real_weights_are_continued_as_transformers_does(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    prompts = tokens_of(path)
    assert continuations([side(path)], prompts, 32) == [by_transformers(path, prompts, 32)]


@pytest.mark.parametrize("name", ["gemma2", "qwen2-moe", "phi3", "gemma3"])
def test_other_architectures_are_continued_as_transformers_does(name: str, tmp_path: Path) -> None:
    """Sliding windows that end before the prompt, soft caps, experts, fused layers."""
    path = build(name, tmp_path / name)
    rows = open_source(str(path)).config["vocab_size"]
    prompts = [[(7 * n + 13 * at) % rows for at in range(length)] for n, length in enumerate((3, 9, 20, 70, 41))]
    assert continuations([side(path)], prompts, 12) == [by_transformers(path, prompts, 12)]


@pytest.mark.parametrize("name", CARRYING)
def test_blocks_that_hand_on_more_than_a_hidden_state(name: str, tmp_path: Path) -> None:
    folder = carrying(name, tmp_path)
    prompts = [np.random.default_rng(seed).integers(3, 390, 9 + seed).tolist() for seed in range(3)]
    assert continuations([side(folder)], prompts, 8) == [by_transformers(folder, prompts, 8)]


def test_threads_waves_and_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = tokens_of(TINY)
    [expected] = continuations([side(TINY)], prompts, 12, threads=1)
    assert continuations([side(TINY)] * 2, prompts, 12, threads=3) == [expected] * 2
    monkeypatch.setattr(generation, "RESIDENT_SHARE", 0.0)  # every step reads the blocks again
    monkeypatch.setattr(generation, "CACHE_SHARE", 700_000 / generation.memory_limit_bytes())  # a group at a time
    assert continuations([side(TINY)], prompts, 12) == [expected]
    monkeypatch.setattr(generation, "CACHE_SHARE", 0.0)
    with pytest.raises(ResourceError, match="keys and values of"):
        continuations([side(TINY)], prompts, 12)


def test_a_continuation_ends_where_it_is_told_to() -> None:
    prompts = tokens_of(TINY)
    [whole] = continuations([side(TINY)], prompts, 12)
    [cut] = continuations([side(TINY)], prompts, 12, until=Until(done=lambda n, found: len(found) > n))
    assert cut == [found[: n + 1] for n, found in enumerate(whole)]
    assert continuations([side(TINY)], prompts, 0) == [[[]] * len(prompts)]
    assert continuations([side(TINY)], [], 8) == [[]]


def test_prompts_without_tokens_and_tokens_without_rows() -> None:
    with pytest.raises(InputError, match="prompt 2 has no token"):
        continuations([side(TINY)], [[1], []], 4)
    with pytest.raises(InputError, match="token 9999 has no row"):
        continuations([side(TINY)], [[1, 9999]], 4)
