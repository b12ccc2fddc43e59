"""Largest keys and values against the cache of a whole transformers model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import build
from transformers import AutoModelForCausalLM, DynamicCache
from walks import TINY, model_of, windows

from quantkit.calibration.text.samples import Samples, samples_of
from quantkit.calibration.walk.walk import walk_blocks
from quantkit.errors import NonFiniteError

TOLERANCE = 2e-5  # float32 in another order of summation, relative to the value


def peaks_of(folder: Path, samples: Samples, threads: int = 2) -> list[tuple[float, float] | None]:
    found = []

    def visit(index, block):
        found.append(block.cache_peaks())
        return {}

    walk_blocks(model_of(folder, threads), samples, visit)
    return found


def cached_peaks(folder: Path, samples: Samples) -> list[tuple[float, float]]:
    """What a DynamicCache holds after a forward pass of the whole model."""
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    cache = DynamicCache()
    with torch.no_grad():
        whole(input_ids=torch.from_numpy(samples.tokens).long(), past_key_values=cache, use_cache=True)
    return [(float(layer.keys.abs().max()), float(layer.values.abs().max())) for layer in cache.layers]


@pytest.mark.parametrize("name", ["tiny", "llama-untied-gqa", "qwen3", "gemma3", "phi3", "mixtral-4x1M", "gemma2"])
def test_peaks_are_those_of_the_whole_models_cache(name: str, tmp_path: Path) -> None:
    """Rotary embeddings, normed keys (Qwen3, Gemma 3), fused projections (Phi-3), eager attention (Gemma 2)."""
    folder = TINY if name == "tiny" else build(name, tmp_path)
    samples = windows(400, count=5, seqlen=60)
    *blocks, head = peaks_of(folder, samples)
    assert head is None
    expected = cached_peaks(folder, samples)
    assert len(blocks) == len(expected)
    assert np.allclose(blocks, expected, rtol=TOLERANCE, atol=0)
    assert len({peak for pair in expected for peak in pair}) == 2 * len(expected)


def test_any_number_of_threads_and_no_trace_in_the_walk() -> None:
    samples = windows(2048, count=40, seqlen=100)
    assert peaks_of(TINY, samples, threads=1) == peaks_of(TINY, samples, threads=3)
    sums = []
    for ask in (False, True):

        def visit(index, block, ask=ask):
            if ask:
                block.cache_peaks()
            sums.append(block.statistics().moments(block.sites[0].name).squares)
            return {}

        walk_blocks(model_of(TINY), samples, visit)
    half = len(sums) // 2
    assert all(torch.equal(a, b) for a, b in zip(sums[:half], sums[half:], strict=True))


def test_replaced_projections_are_seen() -> None:
    pairs = []

    def visit(index, block):
        if index == 1:
            pairs.append(block.cache_peaks())
            names = [f"model.layers.1.self_attn.{kind}_proj.weight" for kind in "kv"]
            block.replace({names[0]: block.weight(names[0]) * 2, names[1]: block.weight(names[1]) * 0.5})
            pairs.append(block.cache_peaks())
        return {}

    walk_blocks(model_of(TINY), windows(2048), visit)
    (keys, values), after = pairs
    assert after == (2 * keys, 0.5 * values)


def test_keys_that_are_not_finite_name_their_module() -> None:
    def visit(index, block):
        if index == 2:
            name = "model.layers.2.self_attn.k_proj.weight"
            block.replace({name: torch.full_like(block.weight(name), 3e38)})
            block.cache_peaks()
        return {}

    with pytest.raises(NonFiniteError, match=r"in block model.layers.2, first in module self_attn.k_proj"):
        walk_blocks(model_of(TINY), samples_of(np.arange(12, dtype=np.int32)[None]), visit)
