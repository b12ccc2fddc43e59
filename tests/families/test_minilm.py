"""Real weights of an encoder: all-MiniLM-L6-v2, its sentence embeddings in llama.cpp against transformers' own.

`python scripts/fetch_minilm.py` fetches them; without them these tests are skipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import quantkit
from oracles.ggml import Model
from reference import REFERENCE

MINILM = REFERENCE.parent / "all-MiniLM-L6-v2"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MINILM.exists(), reason="python scripts/fetch_minilm.py fetches the weights"),
]
SENTENCES = (
    "The cat sits on the mat.",
    "How do I convert a model to GGUF?",
    "Das Wetter ist heute schön.",
    "quantization reduces the precision of weights; it saves memory & time (a lot)!",
)
COSINES = {"f32": 0.999995, "q8_0": 0.999, "q4_k_m": 0.98}


@pytest.mark.parametrize("recipe", COSINES)
def test_sentence_embeddings_are_those_of_the_model(tmp_path: Path, recipe: str) -> None:
    import torch
    import transformers

    out = tmp_path / "made.gguf"
    done = quantkit("convert", MINILM, "--to", recipe, "-o", out)
    assert done.status == 0, done.stderr
    model = transformers.AutoModel.from_pretrained(MINILM).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    with Model(out) as loaded, torch.no_grad():
        for sentence in SENTENCES:
            ids = tokenizer(sentence, padding=False)["input_ids"]
            assert loaded.tokenize(sentence, add_special=True, parse_special=True) == ids
            expected = model(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
            found = loaded.embedding(ids)
            assert found @ expected >= COSINES[recipe] * np.linalg.norm(found) * np.linalg.norm(expected)
