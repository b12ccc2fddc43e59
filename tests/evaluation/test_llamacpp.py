"""Figures by real llama.cpp against our own, on the same tokens of the same file; its own perplexity rules."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, quantkit

from quantkit.errors import VerificationError
from quantkit.evaluation.artifacts import opened_artifact
from quantkit.evaluation.corpus import SECOND_HALF, Cutting, read_corpus
from quantkit.evaluation.engines import compare, ran
from quantkit.evaluation.measure import measure
from quantkit.evaluation.sides import Side
from quantkit.source import open_source

pytest.importorskip("xllamacpp")
from quantkit.quality.engines.llamacpp import LlamaCpp

CACHE = 2e-2  # what a cache in float16 does to logits; those of a neighbouring token differ by several
HELD_OUT = str(TINY.parent / "held-out.jsonl")


def converted(tmp_path: Path, recipe: str) -> Path:
    file = tmp_path / "m.gguf"
    assert quantkit("convert", TINY, "--to", recipe, "-o", file, "--no-verify", "-q").status == 0
    return file


@pytest.mark.parametrize("recipe", ["f32", "q8_0"])
def test_perplexity_is_llama_cpps(tmp_path: Path, recipe: str) -> None:
    """Within 0.5 %: its 8-bit inputs of layers and its float16 cache are all that lies between."""
    file, source = converted(tmp_path, recipe), open_source(str(TINY))
    corpus = read_corpus(source, (HELD_OUT,), Cutting(window=96, score=SECOND_HALF, tokens=192))
    with opened_artifact(file, source) as artifact, closing(LlamaCpp(file, 1)) as engine:
        [scores] = measure(Side("original", source), [artifact.side], corpus, threads=2)
        models = [ran(artifact.side, corpus, 1, "evaluate")]
        (own, found), [kl] = compare(corpus, models, [engine], [(0, 1)], 1)
    assert corpus.tokens == 2 * (96 - 1 - 48)
    assert own.right == pytest.approx(scores.other, abs=1e-5)
    assert np.exp(-found.right.mean()) == pytest.approx(np.exp(-own.right.mean()), rel=5e-3)
    assert 0 <= kl.mean() < (1e-6 if recipe == "f32" else 1e-3)
    assert (own.first == found.first).mean() > 0.97


def test_pieces_of_a_text_are_the_text(tmp_path: Path) -> None:
    """A text that takes several pieces predicts what it predicts token by token; the cache is that of this text."""
    file = converted(tmp_path, "f32")
    tokens = np.random.default_rng(3).integers(3, 2000, 700).tolist()
    with closing(LlamaCpp(file, 1, context=1024)) as engine:
        whole = np.concatenate(list(engine.logits(tokens, range(700))))
        for place in (0, 5, 511, 512, 699):
            [one] = engine.logits(tokens[: place + 1], [place])
            assert one[0] == pytest.approx(whole[place], abs=CACHE)
        next(engine.logits(tokens, range(700)))  # and the rest is left
        [two] = engine.logits(tokens[:6], [2, 5])
        assert two == pytest.approx(whole[[2, 5]], abs=CACHE)


@pytest.mark.parametrize("gone", [False, True])
def test_a_process_that_dies_is_an_error(tmp_path: Path, gone: bool) -> None:
    """llama.cpp ends its process where an assertion fails: not ours. What was to be told it then is left behind."""
    with closing(LlamaCpp(converted(tmp_path, "f32"), 1)) as engine:
        engine._process.kill()
        if gone:
            engine._process.wait()
        with pytest.raises(VerificationError, match=r"llama\.cpp (is gone|does not tokenize a text): it ended with -9"):
            engine.tokenize("a")


def test_what_llama_cpp_does_not_run_is_an_error(tmp_path: Path) -> None:
    engine = LlamaCpp(converted(tmp_path, "f32"), 1, context=64)
    with closing(engine), pytest.raises(VerificationError, match=r"llama\.cpp does not run 301 tokens: "):
        list(engine.logits([5] * 300 + [1 << 30], [300]))


def test_files_that_llama_cpp_refuses(tmp_path: Path) -> None:
    file = converted(tmp_path, "f32")
    file.write_bytes(file.read_bytes().replace(b"llama", b"lamma"))
    with pytest.raises(VerificationError, match=r"does not load m\.gguf: .*unknown model architecture: 'lamma'"):
        LlamaCpp(file, 1)
