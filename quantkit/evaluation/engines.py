"""A model as a real engine runs it, beside our own runs of models: whole distributions on the same tokens.

An engine gives the logits of a window as soon as it has run it; our models stand behind their last block, and give
those of any tokens a slab of the vocabulary at a time. So nothing is stored but some tokens' logits of the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from quantkit.calibration.walk.threads import Workers, workers
from quantkit.errors import InputError, NonFiniteError
from quantkit.evaluation.corpus import Corpus
from quantkit.evaluation.lockstep import Walker, start
from quantkit.evaluation.scores import F64, Scores
from quantkit.evaluation.sides import Side
from quantkit.evaluation.vocabulary import ROWS, Head, Running, gather
from quantkit.events import BlockProgress, Sink, ignore
from quantkit.records import record
from quantkit.tensors import F32
from quantkit.units import counted

TOGETHER_BYTES = 1 << 28  # of an engine's logits that are compared at once
CHUNK = 64  # predictions of one piece of work


class Engine(Protocol):
    """A loaded model. `logits` gives those behind the tokens at `places`, float32 (n, vocabulary), in pieces."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def vocabulary(self) -> int: ...
    def logits(self, tokens: Sequence[int], places: Sequence[int]) -> Iterator[F32]: ...
    def close(self) -> None: ...


@record
class Ran:
    """A model of ours that all tokens of a corpus have run through."""

    walker: Walker
    head: Head


@record
class Predicted:
    """What a model said at every prediction, in the corpus's order, (t,): natural log-probability of the right token,
    its largest probability, and the token that it put first."""

    right: F64
    confidence: F64
    first: NDArray[np.int64]


def ran(side: Side, corpus: Corpus, threads: int, stage: str, emit: Sink = ignore) -> Ran:
    """Run a corpus through a model, one block in memory. Raises what `walk_blocks` raises."""
    walker = walked(side, corpus, threads, stage, emit)
    return Ran(walker, Head(walker))


def walked(side: Side, corpus: Corpus, threads: int, stage: str, emit: Sink = ignore) -> Walker:
    """The same, without the head that predicts."""
    with workers(threads, torch.device("cpu")) as pool:
        walker = start(side, corpus, pool)
        count = len(walker.model.steps)
        for index in range(count):
            name = walker.advance(index)
            emit(BlockProgress(stage, name, index + 1, count + 1, 1, 1))
    return walker


def compare(
    corpus: Corpus, models: Sequence[Ran], engines: Sequence[Engine], pairs: Sequence[tuple[int, int]], threads: int
) -> tuple[list[Predicted], list[F64]]:
    """What each model said, `engines` behind those of ours; and for each of `pairs` of their numbers the KL divergence
    of the second from the first in nats, of every prediction (t,).

    Raises NonFiniteError for logits that are no numbers, InputError for an engine with fewer tokens than the text has.
    """
    ours = [min(m.head.linear.rows, m.walker.side.vocabulary or m.head.linear.rows) for m in models]
    rows = min([*ours, *(engine.vocabulary for engine in engines)])
    if int(corpus.target.max()) >= rows:
        message = f"a model has {counted(rows, 'token')}, the text has token {int(corpus.target.max()):,}"
        raise InputError(message, hint="the file is of another model than the source", key="vocab_size")
    running = [Running(corpus.tokens) for _ in (*models, *engines)]
    distance = [np.zeros(corpus.tokens) for _ in pairs]
    with workers(threads, torch.device("cpu")) as pool:
        for part, theirs in _parts(corpus, engines, rows):
            _compare_part(_Part(corpus, part, theirs, rows), models, (running, distance), pairs, pool)
    logs = [one.log_sum() for one in running]
    kl = [found / running[a].total - (logs[a] - logs[b]) for found, (a, b) in zip(distance, pairs, strict=True)]
    names = [*(m.walker.side.name for m in models), *(engine.name for engine in engines)]
    for name, one, log in zip(names, running, logs, strict=True):
        if not np.isfinite(one.right - log).all():
            raise NonFiniteError(f"{name}: logits that are no numbers", hint="look at the weights with quantkit verify")
    told = [
        Predicted(one.right - log, np.exp(one.top - log), one.first) for one, log in zip(running, logs, strict=True)
    ]
    return told, [np.maximum(found, 0.0) for found in kl]  # of equal distributions rounding leaves some 1e-8


@record
class _Part:
    """Some predictions of a corpus, consecutive, with the logits of engines of them, float32 (n, vocabulary) each."""

    corpus: Corpus
    part: slice
    theirs: Sequence[F32]
    rows: int


def _compare_part(
    at: _Part,
    models: Sequence[Ran],
    sums: tuple[Sequence[Running], Sequence[F64]],
    pairs: Sequence[tuple[int, int]],
    pool: Workers,
) -> None:
    """Take some predictions into the sums, a slab of the vocabulary after the other."""
    running, distance = sums
    chunks = [slice(n, min(n + CHUNK, at.part.stop)) for n in range(at.part.start, at.part.stop, CHUNK)]
    hidden = [[gather(model.walker, at.corpus, chunk) for model in models] for chunk in chunks]

    def one(number: int) -> None:
        chunk = chunks[number]
        target = torch.from_numpy(at.corpus.target[chunk].astype(np.int64))
        logits = [m.head.logits(h) for m, h in zip(models, hidden[number], strict=True)]
        mine = slice(chunk.start - at.part.start, chunk.stop - at.part.start)
        logits += [torch.from_numpy(theirs[mine, first:last].copy()) for theirs in at.theirs]
        before = [each.top[chunk].copy() for each in running]
        shares = [each.add(chunk, found, first, target) for each, found in zip(running, logits, strict=True)]
        for sum_, (a, b) in zip(distance, pairs, strict=True):
            fade = np.exp(before[a] - running[a].top[chunk])
            sum_[chunk] = sum_[chunk] * fade + (shares[a] * (logits[a] - logits[b])).sum(dim=1).numpy()

    for first in range(0, at.rows, ROWS):
        last = min(first + ROWS, at.rows)
        for model in models:
            model.head.load(first, last)
        pool.map(one, range(len(chunks)))


def _parts(corpus: Corpus, engines: Sequence[Engine], rows: int) -> Iterator[tuple[slice, list[F32]]]:
    """All predictions in their order, some at a time, with the logits of engines of them."""
    if not engines:
        yield slice(0, corpus.tokens), []
        return
    most = max(1, TOGETHER_BYTES // (4 * rows * len(engines)))
    start, found = 0, []
    for pieces in zip(*(_logits(corpus, engine) for engine in engines), strict=True):
        found.append([piece[:, :rows] for piece in pieces])
        count = sum(len(first) for first, *_ in found)
        if count >= most:
            yield slice(start, start + count), [np.concatenate(one) for one in zip(*found, strict=True)]
            start, found = start + count, []
    if found:
        yield slice(start, corpus.tokens), [np.concatenate(one) for one in zip(*found, strict=True)]


def windows(corpus: Corpus) -> Iterator[slice]:
    """The predictions of each window."""
    edges = np.flatnonzero(np.diff(corpus.window, prepend=-1))
    yield from map(slice, edges, [*edges[1:], corpus.tokens])


def _logits(corpus: Corpus, engine: Engine) -> Iterator[F32]:
    """An engine's logits of all predictions, window by window; what follows the last prediction is not run."""
    for part in windows(corpus):
        first, places = part.start, corpus.position[part]
        tokens = corpus.batches[corpus.batch[first]].tokens[corpus.row[first], : places[-1] + 1]
        yield from engine.logits(tokens.tolist(), places.tolist())


def engine_scores(name: str, corpus: Corpus, told: tuple[Predicted, Predicted], kl: F64) -> Scores:
    """What an engine predicts beside the reference, as figures are made of it: `told` by the reference, the engine."""
    reference, other = told
    return Scores(
        name,
        kl,
        reference.right,
        other.right,
        reference.confidence,
        reference.first == other.first,
        reference.first == corpus.target,
        other.first == corpus.target,
        tops=(reference.first, other.first),
    )
