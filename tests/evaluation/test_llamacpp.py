"""llama.cpp's own perplexity rules, against llama.cpp on the same tokens of the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import TINY, quantkit

from quantkit.evaluation.artifacts import opened_artifact
from quantkit.evaluation.corpus import SECOND_HALF, Cutting, read_corpus
from quantkit.evaluation.measure import measure
from quantkit.evaluation.sides import Side
from quantkit.source import open_source


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["f32", "q8_0"])
def test_perplexity_is_llama_cpps(tmp_path: Path, recipe: str) -> None:
    """Within 0.5 %: its 8-bit inputs of layers and its float16 cache are all that lies between."""
    pytest.importorskip("xllamacpp")
    from quantkit.quality.engines.llamacpp import LlamaCpp

    file = tmp_path / "m.gguf"
    assert quantkit("convert", TINY, "--to", recipe, "-o", file, "--no-verify", "-q").status == 0
    source = open_source(str(TINY))
    cut = Cutting(window=96, score=SECOND_HALF, tokens=192)
    corpus = read_corpus(source, (str(TINY.parent / "held-out.jsonl"),), cut)
    with opened_artifact(file, source) as artifact:
        [scores] = measure(Side("original", source), [artifact.side], corpus, threads=2)
    engine = LlamaCpp(file, 2)
    [batch] = corpus.batches
    found = []
    for row, position, target in zip(corpus.row, corpus.position, corpus.target, strict=True):
        found.append(engine.log_probabilities(batch.tokens[row, : position + 1].tolist(), 2048)[target])
    assert corpus.tokens == 2 * (96 - 1 - 48)
    assert np.exp(-scores.other.mean()) == pytest.approx(np.exp(-np.mean(found)), rel=5e-3)
