"""A GGUF file of a model that predicts nothing, an encoder or a reranker, in llama.cpp: the vectors that it makes, and
the scores.

The same two questions as `engine_check` asks of predictions, with 1 - cosine of the vectors of a token as the distance,
and of a head of classes how far the scores of a text are apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.errors import UnsupportedError
from quantkit.evaluation.engine_judgement import ARITHMETIC, Measure, judged
from quantkit.evaluation.sides import Side
from quantkit.evaluation.source_run import STAGE, SourceRun, as_ggml, say_cost, why_unread
from quantkit.events import Sink
from quantkit.families.describe import find_family
from quantkit.families.linears import require_walked
from quantkit.quality.checks.base import Check
from quantkit.quality.decoded import open_decoded
from quantkit.quality.engines import LLAMA_CPP
from quantkit.quality.engines.llamacpp import LlamaCpp
from quantkit.quality.headers import differing_numbers
from quantkit.records import record
from quantkit.units import counted

if TYPE_CHECKING:
    from quantkit.evaluation.corpus import Corpus
    from quantkit.evaluation.scores import F64
    from quantkit.evaluation.vectors import Given

# 1 - cosine of llama.cpp's vectors and of our run of the same weights, the upper quartile of the tokens. `same` is what
# GELU from a table in float16 and products in another order may cost; beyond it rounded inputs may explain ARITHMETIC
# times what they cost in our own run (docs/numerics.md).
TURNED = Measure("turned", "1 - cosine", "the vectors that its weights give", same=1e-4)
# Likewise of scores, as a part of the largest of a text. Texts are few, so that a quartile of them says less.
MOVED = Measure("moved", "difference", "the scores that its weights give", same=2e-3, arithmetic=2 * ARITHMETIC)


@record
class _Distance:
    """How far vectors of tokens, or scores of windows, are from the source's, over all `count` of them in a text."""

    measure: Measure
    mean: float
    error: float
    largest: float
    count: int
    of: str

    @property
    def words(self) -> str:
        what, each = ("vectors", "token") if self.measure is TURNED else ("scores", "window")
        of = f"over {counted(self.count, each)} of {self.of}"
        return f"{self.measure.words} to the source's {what} {self.mean:.2g} ± {self.error:.2g} {of}"

    def as_json(self) -> dict[str, Any]:
        key, many = self.measure.key, "contexts" if self.measure is TURNED else "windows"
        figures = {"mean": self.mean, "standard_error": self.error, "max": self.largest}
        return {**{f"{key}_{name}": value for name, value in figures.items()}, many: self.count, "data": self.of}


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
    from quantkit.evaluation.vectors import engine_given, own_given  # torch

    assert run.model is not None
    if wrong := differing_numbers(paths[0], run.model):
        return Check(LLAMA_CPP, False, wrong)
    corpus, unread = run.corpus(), why_unread(paths)
    say_cost(corpus, run.weights, (2 if unread else 4) - run.has_run, threads, emit)
    source = run.given(threads, emit)
    found = engine_given(engine, corpus, scores=source.scores is not None)
    far = [_distance(measure, values, corpus) for measure, values in _between(found, source)]
    if unread:
        why = f"not compared with its own weights, because {unread}"
        told = [Check(LLAMA_CPP, None, one.words, one.as_json()) for one in far]
        return _together([replace(told[0], detail=f"{why}; {told[0].detail}"), *told[1:]])
    with closing(open_decoded(paths, run.checkpoint, run.model)) as decoded:
        sides = Side("own run", decoded), Side("rounded inputs", decoded, as_ggml(decoded))

        @cache
        def given(side: int) -> Given:
            return own_given(sides[side], corpus, run.labels, threads, STAGE, emit)

        near = _between(found, given(0))

        def cost(which: int) -> F64:
            return _between(given(1), given(0))[which][1]

        look = _together([judged(*near[n], partial(cost, n), one) for n, one in enumerate(far)])
    unjudged = run.labels and source.scores is None
    return replace(look, detail=f"{look.detail}; its scores are not compared") if unjudged else look


def _between(these: Given, those: Given) -> list[tuple[Measure, F64]]:
    """How far vectors are apart, and scores where there are any."""
    from quantkit.evaluation.vectors import moved, turned

    found = [(TURNED, turned(these.vectors, those.vectors))]
    if these.scores is not None and those.scores is not None:
        found.append((MOVED, moved(these.scores, those.scores)))
    return found


def _together(looks: Sequence[Check]) -> Check:
    """Several looks as one: the first that fails, or all of them."""
    data = {key: value for look in reversed(looks) for key, value in look.data.items()}
    failed = next((look for look in looks if look.ok is False), None)
    if failed is not None:
        return replace(failed, data=data)
    return replace(looks[0], detail="; ".join(look.detail for look in looks), data=data)


def _distance(measure: Measure, values: F64, corpus: Corpus) -> _Distance:
    from quantkit.evaluation.figures import clusters_of, estimate

    clusters = clusters_of(corpus)[0] if measure is TURNED else np.arange(len(values))
    found = estimate(values, clusters)
    return _Distance(measure, found.value, found.error or 0.0, float(np.max(values)), len(values), corpus.name)
