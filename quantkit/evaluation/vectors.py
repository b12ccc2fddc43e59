"""What a model makes of each token of a text, which is what an encoder is for: in llama.cpp, and in our own run.

Vectors are compared before they are pooled: what a mean over a text hides is seen, and the kind of pooling is a number
of the file's metadata. An encoder sees all of its text, so that windows are run with what fills them up.
"""

from __future__ import annotations

import numpy as np
import torch

from quantkit.calibration.walk.head import load_norm
from quantkit.errors import NonFiniteError
from quantkit.evaluation.corpus import Corpus
from quantkit.evaluation.engines import walked, windows
from quantkit.evaluation.scores import F64
from quantkit.evaluation.sides import Side
from quantkit.evaluation.vocabulary import CHUNK, gather
from quantkit.events import Sink, ignore
from quantkit.quality.engines.llamacpp import LlamaCpp
from quantkit.tensors import F32


def own_vectors(side: Side, corpus: Corpus, threads: int, stage: str, emit: Sink = ignore) -> F32:
    """The vectors of a model of ours at a corpus's predictions, float32 (t, hidden). Raises what `walked` raises."""
    walker = walked(side, corpus, threads, stage, emit)
    norm = load_norm(walker.model)

    def some(first: int) -> F32:
        output, _ = norm.run(gather(walker, corpus, slice(first, first + CHUNK)).unsqueeze(0))
        assert output is not None
        found: F32 = output[0].numpy()
        return found

    with torch.inference_mode():
        found = np.concatenate([some(first) for first in range(0, corpus.tokens, CHUNK)])
    return _finite(side.name, found)


def engine_vectors(engine: LlamaCpp, corpus: Corpus) -> F32:
    """The same of a file in llama.cpp."""
    found = []
    for part in windows(corpus):
        tokens = corpus.batches[corpus.batch[part.start]].tokens[corpus.row[part.start]]
        found.append(engine.vectors(tokens.tolist())[corpus.position[part]])
    return _finite(engine.name, np.concatenate(found))


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
