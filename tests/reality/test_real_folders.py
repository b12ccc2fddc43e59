"""Every real folder of a claimed family, cut down: converted, run in llama.cpp, and converted with text.

The check of the command, with the whole vocabulary, runs on the folders that come with a tokenizer. Those that borrow
one (`NEIGHBOURS`) add a configuration, so of them the computation alone is held against transformers'; the ids of
borrowed tokenizers are compared in test_token_ids.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import quantkit
from oracles import ggml
from real_folders import NEIGHBOURS, claimed, make_small, needs_reality

pytestmark = [needs_reality, pytest.mark.slow]

TEXT = Path(__file__).parents[1] / "data" / "calibration.jsonl"
ONE_FILE = ("--mmproj", "none")  # encoders of small copies have sizes of our own, which transformers does not load
WITH_ENCODER = {"medgemma-27b-it"}
BORROWING = [name for name in claimed() if name in NEIGHBOURS and name not in WITH_ENCODER]
ARITHMETIC = 0.01  # of the spread of logits, root mean square: llama.cpp's products in 16 bit cost 0.002 to 0.004 here


@pytest.mark.parametrize("name", [name for name in claimed() if name not in BORROWING])
def test_a_real_folder_becomes_a_file_that_llama_cpp_loads(name: str, tmp_path: Path) -> None:
    convert(name, tmp_path, "q8_0", "--engine", "llama.cpp")


@pytest.mark.parametrize("name", BORROWING)
def test_llama_cpp_computes_what_a_real_configuration_says(name: str, tmp_path: Path) -> None:
    import torch
    import transformers

    path = convert(name, tmp_path, "bf16")
    context = np.random.default_rng(20).integers(3, 30_000, 100).tolist()
    with ggml.Model(path) as loaded:
        found = loaded.last_logits(context)
    how = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name, **how).eval()
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([context])).logits[0, -1].numpy()
    assert found.shape == expected.shape
    assert np.sqrt(np.mean((found - expected) ** 2)) < ARITHMETIC * expected.std()


def convert(name: str, folder: Path, recipe: str, *more: str) -> Path:
    """The one GGUF file that is made of a small copy of a folder, in `folder`, which has the copy's folder too."""
    made = quantkit("convert", make_small(name, folder), "--to", recipe, "-o", folder / "out", *ONE_FILE, *more)
    assert made.status == 0, made.stderr
    path, manifest = [path for path in sorted((folder / "out").iterdir()) if recipe.upper() in path.name]
    assert [path.suffix, manifest.suffix] == [".gguf", ".json"]
    return path


@pytest.mark.parametrize("name", claimed())
def test_a_real_folder_is_converted_with_text(name: str, tmp_path: Path) -> None:
    source = make_small(name, tmp_path)
    text = ("--calib", TEXT, "--samples", 2, "--seqlen", 16)
    made = quantkit("convert", source, "--to", "gptq-w4g32", *text, "-o", tmp_path / "out")
    assert made.status == 0, made.stderr
    assert (tmp_path / "out" / "config.json").is_file()
