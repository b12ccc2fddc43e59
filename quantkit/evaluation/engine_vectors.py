"""A GGUF file of a model that predicts nothing, an encoder or a reranker, in llama.cpp: the vectors that it makes.

The same two questions as `engine_check` asks of predictions, with 1 - cosine of the vectors of a token as the distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.errors import UnsupportedError
from quantkit.evaluation.engine_judgement import Measure, judged
from quantkit.evaluation.sides import Side
from quantkit.evaluation.source_run import STAGE, SourceRun, as_ggml, say_cost, why_unread
from quantkit.events import Sink
from quantkit.families.describe import find_family
from quantkit.families.linears import require_walked
from quantkit.quality.checks.base import Check
from quantkit.quality.decoded import open_decoded
from quantkit.quality.engines.llamacpp import LLAMA_CPP, LlamaCpp
from quantkit.quality.headers import differing_numbers
from quantkit.units import counted

if TYPE_CHECKING:
    from quantkit.evaluation.corpus import Corpus
    from quantkit.evaluation.scores import F64
    from quantkit.tensors import F32

# 1 - cosine of llama.cpp's vectors and of our run of the same weights, the upper quartile of the tokens. `same` is what
# GELU from a table in float16 and products in another order may cost; beyond it rounded inputs may explain ARITHMETIC
# times what they cost in our own run (docs/numerics.md).
TURNED = Measure("turned", "1 - cosine", "the vectors that its weights give", same=1e-4)


@dataclass(frozen=True)
class _Distance:
    """1 - cosine over the tokens of a text."""

    mean: float
    error: float
    largest: float
    tokens: int
    of: str

    @property
    def words(self) -> str:
        of = f"over {counted(self.tokens, 'token')} of {self.of}"
        return f"1 - cosine to the source's vectors {self.mean:.2g} ± {self.error:.2g} {of}"

    def as_json(self) -> dict[str, Any]:
        return {
            "turned_mean": self.mean,
            "turned_standard_error": self.error,
            "turned_max": self.largest,
            "contexts": self.tokens,
            "data": self.of,
        }


def why_no_vectors(run: SourceRun) -> str | None:
    """Why a source's vectors are not compared with those of an engine; None where they are."""
    if not run.runs_here:
        return "its vectors are not compared with those of a GGUF file"
    try:
        require_walked(find_family(run.checkpoint.config).family, run.checkpoint.tensors())
    except UnsupportedError as error:
        return f"its vectors are not compared, for it does not run here: {error.message}"
    return None


def compare_vectors(engine: LlamaCpp, paths: Sequence[Path], run: SourceRun, threads: int, emit: Sink) -> Check:
    """What llama.cpp makes of a text, beside what the file's own weights make of it, and the source's."""
    from quantkit.evaluation.vectors import engine_vectors, own_vectors, turned  # torch

    assert run.model is not None
    if wrong := differing_numbers(paths[0], run.model):
        return Check(LLAMA_CPP, False, wrong)
    corpus, unread = run.corpus(), why_unread(paths)
    say_cost(corpus, run.weights, (2 if unread else 4) - run.has_run, threads, emit)
    source, found = run.vectors(threads, emit), engine_vectors(engine, corpus)
    far = _distance(turned(found, source), corpus)
    if unread:
        return Check(
            LLAMA_CPP, None, f"not compared with its own weights, because {unread}; {far.words}", far.as_json()
        )
    with closing(open_decoded(paths, run.checkpoint, run.model)) as decoded:

        def vectors(side: Side) -> F32:
            return own_vectors(side, corpus, threads, STAGE, emit)

        own = vectors(Side("own run", decoded))
        rounded = Side("rounded inputs", decoded, as_ggml(decoded))
        return judged(TURNED, turned(found, own), lambda: turned(vectors(rounded), own), far)


def _distance(values: F64, corpus: Corpus) -> _Distance:
    from quantkit.evaluation.figures import clusters_of, estimate

    found = estimate(values, clusters_of(corpus)[0])
    return _Distance(found.value, found.error or 0.0, float(np.max(values)), corpus.tokens, corpus.name)
