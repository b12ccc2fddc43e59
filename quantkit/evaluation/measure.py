"""The measurement: one reference and any number of others, block by block, then their predictions token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace

import torch

from quantkit.calibration.walk.threads import workers
from quantkit.errors import InputError
from quantkit.evaluation.corpus import Corpus
from quantkit.evaluation.engines import Engine, Ran, compare, engine_scores
from quantkit.evaluation.lockstep import hidden_errors, require_alike, start
from quantkit.evaluation.remembered import begin
from quantkit.evaluation.scores import Scores
from quantkit.evaluation.sides import Side
from quantkit.evaluation.vocabulary import Head, score
from quantkit.evaluation.weights import Compared, take_all
from quantkit.events import BlockProgress, Sink, StageStarted, ignore
from quantkit.machine import core_count
from quantkit.units import counted

STAGE = "evaluate"


def measure(
    reference: Side,
    others: Sequence[Side],
    corpus: Corpus,
    *,
    threads: int | None = None,
    emit: Sink = ignore,
    engines: Sequence[Callable[[], Engine]] = (),
) -> list[Scores]:
    """How each of `others` predicts the corpus beside the reference, which runs once for all of them, and where it has
    a memory once for all measurements on this corpus. With `engines`,
    one for each, predictions are those of the engines, opened one after the other; weights and hidden states our own.

    The same numbers for any number of `threads` (all cores). Raises InputError for a model of other sizes and for
    tokens without an embedding row, NonFiniteError naming side, block and module, ResourceError where activations do
    not fit, UnsupportedError for an architecture that is not run here.
    """
    if not others:
        raise InputError("nothing to compare with the reference", key="artifact")
    with workers(threads or core_count(), torch.device("cpu")) as pool:
        emit(
            StageStarted(
                STAGE, 0, f"{counted(corpus.tokens, 'token')}, {counted(1 + len(others), 'model')} in lockstep"
            )
        )
        first = begin(reference, corpus, pool)
        rest = []
        for side in others:
            rest.append(start(side, corpus, pool))
            require_alike(first, rest[-1])
        count, compared = len(first.model.steps), [Compared(side.checkpoint) for side in others]
        take_all(compared, [walker.sketch for walker in (first, *rest)])
        curves: list[list[tuple[str, float]]] = [[] for _ in rest]
        for index in range(count):
            for number, walker in enumerate((first, *rest)):
                name = walker.advance(index)
                emit(BlockProgress(STAGE, name, index + 1, count + 1, number + 1, 1 + len(rest)))
            take_all(compared, [walker.sketch for walker in (first, *rest)])
            if first.at(index):
                for curve, error in zip(curves, hidden_errors(first, rest, corpus, index), strict=True):
                    curve.append((name, error))

        def beat(done: int, of: int) -> None:
            emit(BlockProgress(STAGE, "head", count + 1, count + 1, done, of))

        found = score(first, rest, corpus, compared, beat)
    if engines:
        ran = [Ran(walker, Head(walker)) for walker in (first, *rest)]
        found = [
            _in_engine(opened, corpus, (ran[0], own), pool.count, emit)
            for opened, own in zip(engines, ran[1:], strict=True)
        ]
    weights = [one.found(side.moved) for one, side in zip(compared, others, strict=True)]
    return [replace(s, errors=tuple(curve), weights=w) for s, curve, w in zip(found, curves, weights, strict=True)]


def _in_engine(
    opened: Callable[[], Engine], corpus: Corpus, models: tuple[Ran, Ran], threads: int, emit: Sink
) -> Scores:
    """What an engine predicts beside the reference, and beside our own run of the same weights."""
    with closing(opened()) as engine:
        name = models[1].walker.side.name
        emit(StageStarted(STAGE, 0, f"{name} in {engine.name} {engine.version}"))
        told, (kl, own) = compare(corpus, models, [engine], [(0, 2), (1, 2)], threads)
        found = engine_scores(name, corpus, (told[0], told[2]), kl)
        return replace(found, engine=(engine.name, engine.version), own=own)
