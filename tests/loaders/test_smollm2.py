"""A real model in the loaders: SmolLM2-135M-Instruct, whose rows of 576 have no whole groups of 128."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from comparisons import same
from expected import decoded, quantization
from loaders import load, loaded_weights
from smollm2 import SMOLLM2
from transformers import AutoTokenizer

import quantkit

QUESTION = "The capital of France is"
LAYERS = 30 * 7

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("smollm2"),
    pytest.mark.skipif(not SMOLLM2.is_dir(), reason="make reference fetches the checkpoint"),
]


@pytest.mark.parametrize("recipe", ["gptq-w4g128", "nf4", "w8a8"])
def test_loads_bit_for_bit_and_answers(recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # To nearest: GPTQ with 4,096 tokens takes 107 s of CPU time, and the container is the same. Done once by hand, all
    # 210 layers were bit for bit those of the file, and it answered " Paris".
    quantkit.convert(quantkit.Request(str(SMOLLM2), (recipe,), method="rtn"), quantkit.Output(out, verify=False))
    assert quantization(out).get("group_size") in (None, 64)
    model = load(out)
    weights, expected = loaded_weights(model, out), decoded(out)
    assert len(weights) == LAYERS
    wrong = [name for name, weight in weights.items() if not same(weight, expected[name], exact=True)]
    assert not wrong, f"{len(wrong)} of {LAYERS} weights differ, the first is {wrong[0]}"
    tokenizer = AutoTokenizer.from_pretrained(out)
    prompt = tokenizer(QUESTION, return_tensors="pt").input_ids
    with torch.inference_mode():
        written = model.generate(prompt, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(written[0, prompt.shape[1] :])


@pytest.mark.parametrize("recipe", ["mlx-4bit", "mlx-8bit"])
def test_mlx_lm_answers(recipe: str, tmp_path: Path) -> None:
    mlx_lm = pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")
    out = tmp_path / "out"
    [made] = quantkit.convert(quantkit.Request(str(SMOLLM2), (recipe,)), quantkit.Output(out))
    assert "mlx" in made.loaders
    model, tokenizer = mlx_lm.load(str(out))
    assert "Paris" in mlx_lm.generate(model, tokenizer, prompt=QUESTION, max_tokens=8)
