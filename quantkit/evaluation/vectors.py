"""What a model makes of each token of a text, which is what an encoder is for: in llama.cpp, and in our own run.

Vectors are compared before they are pooled: what a mean over a text hides is seen, and the kind of pooling is a number
of the file's metadata. An encoder sees all of its text, so that windows are run with what fills them up.
"""

from __future__ import annotations

import numpy as np
import torch

from quantkit.calibration.walk.classes import load_classes
from quantkit.calibration.walk.head import load_norm
from quantkit.calibration.walk.resident import Resident
from quantkit.errors import NonFiniteError
from quantkit.evaluation.corpus import Corpus
from quantkit.evaluation.engines import walked, windows
from quantkit.evaluation.lockstep import Walker, round_inputs
from quantkit.evaluation.scores import F64
from quantkit.evaluation.sides import Side
from quantkit.evaluation.vocabulary import CHUNK, gather
from quantkit.events import Sink, ignore
from quantkit.quality.engines.llamacpp import LlamaCpp
from quantkit.records import record
from quantkit.tensors import F32


@record
class Given:
    """What a model makes of a text: vectors at its predictions, float32 (t, hidden), and of a classifier or reranker
    the scores of each window, float32 (windows, labels); None where there are none, or none to be compared."""

    vectors: F32
    scores: F32 | None = None


def own_given(side: Side, corpus: Corpus, labels: int, threads: int, stage: str, emit: Sink = ignore) -> Given:
    """What a model of ours makes of it, of one with a head of classes so many scores. Raises what `walked` raises."""
    walker = walked(side, corpus, threads, stage, emit)
    norm = load_norm(walker.model)

    def some(first: int) -> F32:
        return _run(norm, gather(walker, corpus, slice(first, first + CHUNK)))

    with torch.inference_mode():
        found = np.concatenate([some(first) for first in range(0, corpus.tokens, CHUNK)])
        scores = _own_scores(walker, norm, corpus, labels) if labels else None
    return Given(_finite(side.name, found), scores)


def _own_scores(walker: Walker, norm: Resident, corpus: Corpus, labels: int) -> F32 | None:
    head = load_classes(walker.model, labels)
    if head is None:
        return None
    round_inputs(head, walker.side)
    places = [(corpus.batch[part.start], corpus.row[part.start]) for part in windows(corpus)]
    texts = (torch.from_numpy(_run(norm, walker.hidden[batch][row])) for batch, row in places)
    return _finite(walker.side.name, np.concatenate([_run(head, text)[None] for text in texts]))


def _run(resident: Resident, hidden: torch.Tensor) -> F32:
    """What is made of the hidden states (n, hidden) of a text."""
    output, _ = resident.run(hidden.unsqueeze(0))
    assert output is not None
    found: F32 = output[0].numpy()
    return found


def engine_given(engine: LlamaCpp, corpus: Corpus, *, scores: bool) -> Given:
    """The same of a file in llama.cpp."""
    found, judged = [], []
    for part in windows(corpus):
        tokens = corpus.batches[corpus.batch[part.start]].tokens[corpus.row[part.start]].tolist()
        found.append(engine.vectors(tokens)[corpus.position[part]])
        if scores:
            judged.append(engine.scores(tokens))
    vectors = _finite(engine.name, np.concatenate(found))
    return Given(vectors, _finite(engine.name, np.stack(judged)) if scores else None)


def _finite(name: str, vectors: F32) -> F32:
    if not np.isfinite(vectors).all():
        raise NonFiniteError(f"{name}: vectors that are no numbers", hint="look at the weights with quantkit verify")
    return vectors


def turned(these: F32, those: F32) -> F64:
    """1 - cosine of vectors (t, hidden), float64 (t,): 0 for those that point the same way, 1 beside one of zeros."""
    a, b = these.astype(np.float64), those.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.divide((a * b).sum(axis=1), lengths, out=np.zeros(len(a)), where=lengths > 0)
    found: F64 = np.maximum(1 - cosine, 0.0)
    return found


def moved(these: F32, those: F32) -> F64:
    """The largest difference of the scores of a text (windows, labels), as a part of the largest of `those` where that
    is more than 1: float64 (windows,)."""
    a, b = these.astype(np.float64), those.astype(np.float64)
    found: F64 = np.abs(a - b).max(1) / np.maximum(1.0, np.abs(b).max(1))
    return found
